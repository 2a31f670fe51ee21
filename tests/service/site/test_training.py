# SPDX-License-Identifier: Apache-2.0
"""A task becomes an update: aligned, weighted, and with the evaluation of one client."""

import numpy as np
import pytest
from tests.service.site.scene import PLANS, rows

from muster.errors import ClientError
from muster.rounds import start
from muster.service import wire
from muster.service.message import Task
from muster.service.refusal import Refused
from muster.service.site.training import Training
from muster.service.site.vault import Vault
from muster.service.site.walk import Effort, Walk
from muster.store.blobs import Disk
from muster.vectors import leaves

TASK = Task("r", 1, "0" * 64, 30.0, 3)


def body_of(plan):
    """What a server sends first."""
    return b"".join(wire.encode(start(plan).sent()))


@pytest.mark.parametrize("name", PLANS)
def test_what_was_sent_is_aligned_and_ones_own(name):
    plan = PLANS[name]
    sent = Training(plan, rows()).sent(body_of(plan))
    for (path, found), (_, wanted) in zip(leaves(sent), leaves(start(plan).sent()), strict=True):
        assert np.array_equal(found, wanted) and found.dtype == wanted.dtype, path
        assert found.flags.writeable and found.ctypes.data % 64 == 0


def test_a_client_drawn_thrice_counts_thrice(tmp_path):
    plan, vault = PLANS["plain"], Vault(tmp_path, disk=Disk(sync=int))
    training = Training(plan, rows())
    walk = Walk(TASK, vault, Effort())
    made = training.train(TASK, "a", body_of(plan), None, walk)
    assert made.weight == 3 * 18 and made.metrics["rows"] == 18 and made.memory is None
    vault.close()


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
