# SPDX-License-Identifier: Apache-2.0
"""A task becomes an update: aligned, weighted, and with the evaluation of one client."""

import numpy as np
import pytest
from tests.federation.site.scene import PLANS, plan, rows

from muster.errors import ClientError
from muster.federation.protocol import codec_tensors
from muster.federation.protocol.message import TrainAssignment
from muster.federation.protocol.template import sent_template
from muster.federation.site.checkpointed_run import CheckpointedRun, Effort
from muster.federation.site.store import SiteStore
from muster.federation.site.training import Training
from muster.local import Group, train
from muster.ports import Disk
from muster.rounds import start
from muster.security.refusal import Refused
from muster.store.blobs import model_name
from muster.vectors import leaves


def make_bn():
    """A model with running statistics."""
    nn = pytest.importorskip("torch").nn
    return nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


TASK = TrainAssignment("r", 1, "0" * 64, 30.0, 3)


def body_of(plan):
    """Return the first body that a server sends."""
    return b"".join(codec_tensors.encode(start(plan).sent()))


@pytest.mark.parametrize("name", PLANS)
def test_what_was_sent_is_aligned_and_ones_own(name):
    plan = PLANS[name]
    sent = Training(plan, rows()).sent(body_of(plan))
    for (path, found), (_, wanted) in zip(leaves(sent), leaves(start(plan).sent()), strict=True):
        assert np.array_equal(found, wanted) and found.dtype == wanted.dtype, path
        assert found.flags.writeable and (found.size == 0 or found.ctypes.data % 64 == 0)


def held(site_store, body):
    """The map of a model that was downloaded."""
    digest = codec_tensors.digest([body])
    site_store.models.append(model_name(digest), 0, body)
    site_store.models.finish(model_name(digest))
    return site_store.model(digest)


@pytest.mark.parametrize("name", PLANS)
def test_a_model_in_a_map_of_its_file_is_not_copied_and_gives_the_same_update(name, tmp_path):
    plan, site_store = PLANS[name], SiteStore(tmp_path, disk=Disk(sync=int))
    training, body = Training(plan, rows()), body_of(plan)
    found = held(site_store, body)
    x = training.sent(found).algorithm.x
    where = np.frombuffer(found, np.uint8, 1).ctypes.data
    if codec_tensors.check_header(body, sent_template(plan)).places["algorithm.x"][0] % 64 == 0:
        assert where < x.ctypes.data < where + len(found)
    made, wanted = (
        training.train(TASK, "a", given, None, CheckpointedRun(TASK, site_store, Effort()))
        for given in (found, body)
    )
    assert codec_tensors.digest(codec_tensors.encode(made.update)) == codec_tensors.digest(
        codec_tensors.encode(wanted.update)
    )
    assert bytes(found) == body  # nothing of it was written to
    site_store.close()


def test_a_client_drawn_thrice_counts_thrice(tmp_path):
    plan, site_store = PLANS["plain"], SiteStore(tmp_path, disk=Disk(sync=int))
    training = Training(plan, rows())
    walk = CheckpointedRun(TASK, site_store, Effort())
    made = training.train(TASK, "a", body_of(plan), None, walk)
    assert made.weight == 3 * 18 and made.metrics["rows"] == 18 and made.memory is None
    site_store.close()


def test_payload_and_buffers_are_weighted(tmp_path):
    torch_tasks = pytest.importorskip("muster.tasks.torch")
    given = plan(task=torch_tasks.Classifier(make_bn))
    site_store = SiteStore(tmp_path, disk=Disk(sync=int))
    made = Training(given, rows()).train(
        TASK, "a", body_of(given), None, CheckpointedRun(TASK, site_store, Effort())
    )
    site_store.close()
    sizes = np.array([18])
    group = Group(("a",), (3,), *rows(), np.zeros(1, int), sizes, None)
    outcome = train(given, "loop", 1, start(given).sent(), group)
    assert np.array_equal(made.update["payload"]["delta"], outcome.payload["delta"][0])
    assert np.array_equal(made.update["buffers"], outcome.buffers[0] * np.float32(54))
    assert np.abs(outcome.buffers).max() > 0


def test_a_model_that_is_none_of_the_plans_is_refused():
    with pytest.raises(Refused):
        Training(PLANS["plain"], rows()).sent(body_of(PLANS["scaffold"]))


def test_bad_rows_are_looked_at_once_and_blamed_each_time(tmp_path):
    x, y = rows()
    training = Training(PLANS["plain"], (x, y - 1))
    for _ in range(2):
        with pytest.raises(ClientError) as caught:
            training.train(TASK, "a", b"", None, None)
        assert caught.value.stage == "data"


def test_test_rows_are_measured_where_there_are_any():
    plan = PLANS["private"]
    body = body_of(plan)
    assert Training(plan, rows()).measure(body, None)["rows"] == 18
    assert Training(plan, rows(), rows(5, 1)).measure(body, None)["rows"] == 5


def test_the_digest_is_of_the_rows_as_they_are_now(tmp_path):
    """Of their numbers, dtypes and shapes, whatever holds them; a mapped file may change."""
    x, y = rows()
    one = Training(PLANS["plain"], (x, y)).digest
    assert len(one) == 32 and Training(PLANS["plain"], (x.tolist(), y)).digest != one
    assert Training(PLANS["plain"], (x.copy(), y.tolist())).digest == one
    other = x.copy()
    held = Training(PLANS["plain"], (other, y))
    assert held.digest == one
    other[0, 0] += 1
    assert held.digest != one
    assert Training(PLANS["plain"], (x[1:], y[1:])).digest != one
    assert Training(PLANS["plain"], (x * np.nan, y)).digest == b"", "no rows, as is said later"
