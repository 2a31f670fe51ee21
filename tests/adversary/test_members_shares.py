# SPDX-License-Identifier: Apache-2.0
"""A member that lies about shares to a real server: it has itself left out, and nobody else."""

import numpy as np
import pytest

pytest.importorskip("sqlalchemy")

from tests.adversary.members import LIAR, NAMES, Hub
from tests.federation.coordinator.masked import plan_of
from tests.secagg.lies import Liars


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    made = Hub(tmp_path_factory.mktemp("hub"), plan_of(layers=(4, 3), rounds=100_000))
    yield made
    made.close()


def test_a_member_that_lies_about_shares_in_any_way_has_itself_left_out_alone(hub, monkeypatch):
    """It deals, complains, answers and opens as it draws; a round is lost only with its name."""
    named, lost = 0, 0
    for seed in range(25):
        liars = Liars({LIAR}, np.random.default_rng(seed))
        with monkeypatch.context() as patch:
            liars.patch(patch)
            made = hub.sum(
                lambda message, member, liars=liars: [
                    (said.to_bytes(), {}, {}) for said in liars.up(LIAR, message)
                ]
            )
        assert made.excluded <= {LIAR}
        for name in set(NAMES) - {LIAR}:
            seat = made.seats[name]
            assert seat.standing == ("arrived" if made.found else "late"), (name, seat)
            assert all(answer.status == 200 for answer in made.answers[name])
        assert made.found or made.excluded, "four of whom one is lost are enough"
        named += bool(made.excluded)
        lost += not made.found
        hub.commit(made.found.survivors if made.found else ())
    assert named > 5 and lost < named
