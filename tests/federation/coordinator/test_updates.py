# SPDX-License-Identifier: Apache-2.0
"""Updates from the disk: in order, compared with their digests, and not in memory for long."""

import numpy as np

from muster.aggregation import Mean
from muster.federation.coordinator.updates import honest, updates
from muster.federation.protocol.codec_tensors import digest, encode
from muster.store.blobs import Files, update_name
from muster.store.records import Assignment

TEMPLATE = {"payload": {"delta": np.zeros(3, "float32")}, "buffers": np.zeros(0, "float32")}


def nothing(reply):
    """Why no honest client sends it: there is nothing."""
    return ""


def kept(blobs, client):
    tree = {"payload": {"delta": np.full(3, client, "float32")}, "buffers": np.zeros(0, "float32")}
    body = b"".join(bytes(piece) for piece in encode(tree))
    seat = Assignment(client, "arrived", digest=digest([body]), size=len(body), weight=2.0)
    name = update_name(1, client, seat.digest)
    blobs.append(name, 0, body)
    blobs.finish(name)
    return seat, name


def test_they_come_in_order_and_add_up(tmp_path):
    blobs = Files(tmp_path)
    seats = [kept(blobs, client)[0] for client in (1, 2, 5)]
    found = list(updates(blobs, 1, seats, TEMPLATE))
    assert [one.clients for one in found] == [(1,), (2,), (5,)]
    total = Mean().partial(updates(blobs, 1, seats, TEMPLATE), (1, 2, 3, 5))
    assert total.payload["delta"].tolist() == [8, 8, 8] and total.weight == 6.0


def test_one_that_is_damaged_is_not_added(tmp_path):
    blobs = Files(tmp_path)
    (good, _), (bad, name), lost = kept(blobs, 1), kept(blobs, 2), []
    data = bytearray((tmp_path / name).read_bytes())
    data[-1] ^= 1
    (tmp_path / name).write_bytes(data)
    total = Mean().partial(honest(updates(blobs, 1, [good, bad], TEMPLATE), lost, nothing), (1, 2))
    assert total.clients == (1,) and total.payload["delta"].tolist() == [1, 1, 1]
    ((client, stage, text),) = [(one.client, one.stage, one.error) for one in lost]
    assert (client, stage) == (2, "record") and "is damaged" in text
    nobody = honest(updates(blobs, 1, [bad], TEMPLATE), lost, nothing)
    assert Mean().partial(nobody, (1, 2)) is None
