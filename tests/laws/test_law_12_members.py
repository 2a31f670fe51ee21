# SPDX-License-Identifier: Apache-2.0
"""Law 12 over a network: a member's update weighs what its assignment says, or is refused.

What it did before: took part, declined, failed, was late, lied, or enrolled again with other rows,
also while the round was open.
"""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("sqlalchemy")
pytest.importorskip("cryptography")

from tests.adversary.members import LIAR
from tests.adversary.trained import ROWS, Trainers, update_of
from tests.federation.coordinator.masked import plan_of

from muster.federation.protocol.message import (
    VERSIONS,
    Ack,
    Decline,
    Hello,
    ResumeAt,
    TrainingFailure,
    Welcome,
    from_json,
    to_json,
)
from muster.security.refusal import RefusalReason

PLAN = replace(plan_of(layers=(4, 3), rounds=100_000), pipeline=(), cap=None)
PAST = ("takes part", "declines", "fails", "is late", "lies", "enrols again")


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    made = Trainers(tmp_path_factory.mktemp("hub"), PLAN)
    yield made
    made.close()


def enrols(hub, rows):
    """It says hello with so many rows."""
    hello = Hello(VERSIONS, LIAR, hub.round_state.facts.fingerprint, rows)
    told = from_json(hub.say(LIAR, "/v1/hello", to_json(hello)).body, Welcome, Ack)
    assert isinstance(told, Welcome), told
    hub.round_state.volatile.enrolments.clear()  # there are sixteen a day, and no day goes by here


def lived(hub, past):
    """A round in which the member does this, or nothing."""

    def does(task):
        if past == "takes part":
            hub.deliver(LIAR, task)
        elif past == "declines":
            hub.say(LIAR, "/v1/answers", to_json(Decline(hub.run, task.round, "no")))
        elif past == "fails":
            hub.say(
                LIAR, "/v1/answers", to_json(TrainingFailure(hub.run, task.round, "train", "it"))
            )
        elif past == "lies":
            hub.say(LIAR, "/v1/updates", b"x")
        elif past == "enrols again":
            enrols(hub, ROWS + 5)
            enrols(hub, ROWS)

    hub.training(does)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(past=st.lists(st.sampled_from(PAST), max_size=3), restart=st.booleans())
def test_an_update_weighs_the_same_whatever_its_member_did_before(past, restart, hub):
    for what in past:
        lived(hub, what)
    if restart:
        hub.begin()
    refused = []

    def does(task):
        body = hub.body(LIAR)
        for weight in (ROWS - 1.0, ROWS + 1.0, 2.0 * ROWS, 0.5, 1e300, 0.0):
            lie = update_of(hub.run, task.round, body, weight=weight)
            refused.append(hub.announce(LIAR, lie).reason)
        hub.deliver(LIAR, task)

    made = hub.training(does)  # which checks the weight of the sum
    assert made.seats[LIAR].weight == ROWS
    assert set(refused) == {RefusalReason.MALFORMED}


@pytest.mark.parametrize("rows", [1, ROWS + 1, 1 << 40])
def test_who_enrols_with_other_rows_while_a_round_is_open_weighs_what_it_was_drawn_with(rows, hub):
    def does(task):
        enrols(hub, rows)
        body = hub.body(LIAR)
        other = update_of(hub.run, task.round, body, weight=float(rows))
        assert hub.announce(LIAR, other).reason is RefusalReason.MALFORMED
        right = update_of(hub.run, task.round, body)
        assert hub.announce(LIAR, right) == ResumeAt(0)
        assert hub.put(LIAR, right, body) == Ack(True)

    made = hub.training(does)
    assert made.seats[LIAR].weight == ROWS
    enrols(hub, ROWS)
