# SPDX-License-Identifier: Apache-2.0
"""The traffic of a whole run, byte for byte: no training row is among it.

The capture is of plain HTTP, where nothing is hidden by TLS, and bodies are unpacked.
"""

import re

import numpy as np
import zstandard
from tests.chaos import actor, history
from tests.chaos.federation import Federation
from tests.chaos.proxy import Proxy


def unpacked(message):
    """A message with its body as it was before it was packed."""
    head, _, body = message.partition(b"\r\n\r\n")
    if re.search(rb"(?im)^transfer-encoding: *chunked", head):
        body = b"".join(chunks(body))
    if re.search(rb"(?im)^content-encoding: *zstd", head):
        body = zstandard.ZstdDecompressor().stream_reader(body).read()
    return head + body


def chunks(body):
    """The chunks of a body that was sent in chunks."""
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        yield rest[:length]
        body = rest[length + 2 :] if length else b""


def spelled(row):
    """How numbers could travel: as they lie in memory, in either width, or as text."""
    for dtype in ("<f4", "<f8", ">f4", ">f8"):
        yield row.astype(dtype).tobytes()
    for value in row.tolist():
        yield repr(value).encode()
        yield f"{value:.6f}".encode()


def test_no_training_row_is_in_a_capture_of_a_whole_run():
    with Federation("scaffold") as federation, Proxy(federation.port) as proxy:
        federation.through = proxy.port
        federation.begin().finish()
        history.same(federation)
        capture = b"\n".join(
            unpacked(seen.head + seen.body) + unpacked(seen.answer) for seen in proxy.seen
        )
    people = actor.population()
    assert len(capture) > 10_000 and b"/v1/updates" in capture
    initial = np.zeros(4, "<f4").tobytes()
    assert initial in capture  # the capture can show a row of numbers: the model's own start
    for client in people.clients:
        for row in people[client][0]:
            for form in spelled(row):
                assert form not in capture, client
