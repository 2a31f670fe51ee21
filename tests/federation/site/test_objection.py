# SPDX-License-Identifier: Apache-2.0
"""Objections as a table: nothing is done that plan and policy do not say."""

from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
from tests.federation.site.scene import PLANS, plan

from muster import Every, keys, pipeline, sampling
from muster.federation.protocol.message import Evaluate, TrainAssignment
from muster.federation.site.objection import Rules, planned, to_measuring, to_training
from muster.federation.site.policy import Policy
from muster.federation.site.study import Begun, Known
from muster.types import Roster

PLAN = plan(weighting="equal", rounds=10, evaluate=Every(5))
RULES = Rules(PLAN, Policy(), "r1", "a")
TASK = TrainAssignment("r1", 5, "a" * 64, 30.0)
ASKED = Evaluate("r1", 5, "a" * 64, 30.0, True)
CROWD = Roster(("a", "b", "c", "d"), lambda: np.ones(4))
NOON = datetime(2026, 1, 1, 12, 0).timestamp()
AT = Known(1, 4, 0, 4, 4, 0, (4, 0))  # before round 5


def begun(asked, **more):
    return Begun(
        **{"asked": replace(asked, lease=0.0), "secret": "", "answer": None}
        | {"accepted": None, "session": None}
        | more
    )


def trained(task=TASK, known=AT, rules=RULES, was=None):
    found = to_training(task, was, known, rules, NOON)
    return found and found.rule


def measured(asked=ASKED, known=AT, rules=RULES, was=None):
    found = to_measuring(asked, was, known, rules, NOON)
    return found and found.rule


def with_policy(**rules):
    return replace(RULES, policy=Policy(**rules))


def test_the_next_round_and_the_very_same_again_are_done():
    assert trained() is None
    known = replace(AT, latest=5, trainings=5)
    assert trained(replace(TASK, lease=1.0), known, was=begun(TASK)) is None
    assert measured() is None and measured(was=begun(ASKED)) is None


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"run": "r2"}, "run"),
        ({"round": 4}, "behind"),
        ({"round": 11}, "rounds"),
    ],
)
def test_what_is_no_next_round_is_objected_to(change, rule):
    assert trained(replace(TASK, **change)) == rule


@pytest.mark.parametrize("change", [{"model": "b" * 64}, {"times": 2}, {"peers": 3}])
def test_what_was_begun_is_not_begun_otherwise(change):
    known = replace(AT, latest=5)
    assert trained(replace(TASK, **change), known, was=begun(TASK)) == "differs"
    assert trained(TASK, known, was=begun(TASK, accepted=False)) == "settled"
    assert trained(TASK, replace(AT, latest=6), was=begun(TASK)) == "behind"


def test_resuming_is_free_of_every_limit():
    closed = with_policy(rounds_per_day=1, hours=(3, 4), evaluations_per_day=1)
    known = replace(AT, latest=5, trainings=99, measurings=99, today=(9, 9))
    assert trained(known=known, rules=closed, was=begun(TASK)) is None
    assert measured(known=known, rules=closed, was=begun(ASKED)) is None


def test_trainings_of_a_run_are_at_most_its_rounds():
    assert trained(known=replace(AT, trainings=10)) == "trainings"
    assert trained(known=replace(AT, trainings=10), rules=with_policy(extra_rounds=1)) is None
    assert trained(replace(TASK, round=11), rules=with_policy(extra_rounds=1)) is None


def test_a_round_is_done_again_as_often_as_the_policy_says():
    """Of all rounds of the run together, and trainings and evaluations each for itself."""
    again = replace(TASK, round=2, attempt=2)
    known = replace(AT, done=(1, 0), again=(0, 3))
    assert trained(again, known) == "again"
    assert trained(again, known, with_policy(extra_rounds=9)) == "again"
    two = with_policy(repeated_rounds=2)
    assert trained(again, known, two) is None
    assert trained(again, replace(known, trainings=11, again=(1, 0)), two) is None
    assert trained(again, replace(known, again=(2, 0)), two) == "again"
    assert trained(again, replace(known, done=(0, 9), again=(2, 0)), two) is None, "its first time"
    asked = replace(ASKED, attempt=2)
    measures = replace(AT, done=(0, 1), again=(3, 0))
    assert measured(asked, measures) == "again" and measured(asked, measures, two) is None
    assert measured(asked, replace(measures, again=(0, 2)), two) == "again"
    assert measured(asked, replace(measures, measurings=3, again=(0, 1)), two) is None


def test_a_client_is_trained_in_its_turns_alone():
    """A server that asks it in every round asks for more than its noise was counted for."""
    turns = sampling.Rotation(3)
    rules = replace(RULES, plan=replace(PLAN, sampling=turns))
    mine = {
        r
        for r in range(1, 11)
        if "a" in turns.sample(CROWD, (), r, keys.key(PLAN.seed).at("sample", r), None)[0].clients
    }
    assert 3 <= len(mine) <= 4
    known = Known()
    for round in range(1, 11):
        asked = replace(TASK, round=round)
        assert trained(asked, known, rules) == (None if round in mine else "turn")


def test_a_room_that_is_smaller_than_the_plan_draws_is_the_sites_to_allow():
    """A server that invites three of forty needs two of them on its side."""
    stages = [pipeline.Clip(1.0), pipeline.Quantize(16), pipeline.SecureSum()]
    masked = replace(
        PLAN, pipeline=stages, sampling=sampling.Uniform(count=40), evaluate=Every(clients=0)
    )
    rules = replace(RULES, plan=masked)
    assert trained(replace(TASK, peers=40), rules=rules) is None
    for few in (3, 39):
        assert trained(replace(TASK, peers=few), rules=rules) == "peers"
    allowed = replace(rules, policy=Policy(least_peers=9))
    assert trained(replace(TASK, peers=10), rules=allowed) is None
    assert trained(replace(TASK, peers=9), rules=allowed) == "peers"


def test_a_sum_that_no_rule_about_peers_can_be_met_in_is_declined_before_it_is_begun():
    """The task says what the plan leaves open: how many would be in the sum."""
    secure = pipeline.SecureSum(minimum=5, corrupt=0.05)
    stages = [pipeline.Clip(1.0), pipeline.Quantize(16), secure]
    masked = replace(PLAN, pipeline=stages, evaluate=Every(clients=0))

    def told(count, **policy):
        rules = replace(RULES, plan=masked, policy=Policy(**policy))
        found = to_training(replace(TASK, peers=count), None, AT, rules, NOON)
        return found and (found.rule, found.text)

    assert told(10_000, organisations=("Inserm",)) is None
    rule, text = told(10_001, organisations=("Inserm",))
    assert rule == "peers" and "round 5 (attempt 1)" in text and "at most 10000" in text
    assert "take least_peers, peers and organisations out of site.toml" in text
    assert told(10_001) is None, "who has no rules verifies its neighbours"
    rule, text = told(5, organisations=tuple("vwxyz"))
    assert rule == "peers" and "asks for 5 organisations" in text and "ask for at most 4" in text
    assert told(6, organisations=tuple("vwxyz")) is None
    rule, text = told(40, peers=tuple("vwx"))
    assert rule == "peers" and "name more peers" in text
    named = tuple(f"v{n}" for n in range(20))
    rule, text = told(40, peers=named)
    assert rule == "peers" and "20 peers, and at least 22 clients" in text
    assert told(39, peers=named) is None
    assert told(40, peers=("v-*",)) is None


def test_the_day_and_the_hour():
    assert trained(rules=with_policy(rounds_per_day=4)) == "rounds a day"
    assert trained(rules=with_policy(rounds_per_day=5)) is None
    assert trained(rules=with_policy(hours=(13, 14))) == "hours"
    assert measured(rules=with_policy(hours=(13, 14))) == "hours"
    known = replace(AT, today=(0, 1))
    assert measured(known=known, rules=with_policy(evaluations_per_day=1)) == "evaluations a day"
    assert measured(known=known, rules=with_policy(rounds_per_day=1)) is None


def test_only_a_higher_attempt_goes_back():
    seen = replace(AT, attempt=2)
    assert trained(known=seen) == "attempt" and measured(known=seen) == "attempt"
    again = replace(TASK, round=2, attempt=2)
    assert trained(again, AT) is None
    for name in ("scaffold", "private"):
        rules = replace(RULES, plan=replace(PLANS[name], rounds=10))
        found = to_training(again, None, AT, rules, NOON)
        assert found.rule == "put back" and found.ends
        assert trained(replace(again, round=5), AT, rules) is None, "that one was not settled"


def test_what_a_server_that_lags_may_ask_is_passing_and_all_else_is_not():
    def passing(found):
        return found.passing

    later = replace(AT, attempt=2)
    assert passing(to_training(TASK, None, later, RULES, NOON))
    assert passing(to_training(replace(TASK, round=4), None, AT, RULES, NOON))
    assert passing(to_training(TASK, begun(TASK, accepted=True), AT, RULES, NOON))
    assert not passing(to_training(replace(TASK, round=11), None, AT, RULES, NOON))
    assert not passing(to_training(replace(TASK, times=2), begun(TASK), AT, RULES, NOON))


@pytest.mark.parametrize(
    ("every", "rounds", "wanted"),
    [(Every(5), 10, 2), (Every(3), 10, 4), (Every(1), 10, 10), (Every(99), 10, 1)],
)
def test_a_plans_evaluations_are_counted_as_they_are_due(every, rounds, wanted):
    given = replace(PLAN, evaluate=every, rounds=rounds)
    assert planned(given) == wanted == sum(every.due(r, rounds) for r in range(1, rounds + 1))


def test_what_is_measured_is_planned():
    assert measured(replace(ASKED, round=4)) == "unplanned"
    assert measured(replace(ASKED, round=15)) == "unplanned"
    assert measured(replace(ASKED, round=15), rules=with_policy(extra_rounds=5)) is None
    nobody = replace(RULES, plan=replace(PLAN, evaluate=Every(clients=0)))
    assert measured(rules=nobody) == "unplanned"
    assert measured(known=replace(AT, measurings=2)) == "evaluations"
    assert measured(rules=with_policy(metrics="hidden")) == "metrics"
    assert measured(was=begun(ASKED), rules=with_policy(metrics="hidden")) == "metrics"


def test_no_model_is_measured_after_a_later_round():
    assert measured(known=replace(AT, latest=5)) is None, "it was just trained"
    assert measured(known=replace(AT, latest=6)) == "behind"
    assert measured(known=replace(AT, measured=5)) == "behind"
