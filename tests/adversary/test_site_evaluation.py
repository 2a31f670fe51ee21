# SPDX-License-Identifier: Apache-2.0
"""No model is measured that the plan does not say, or beyond the site's policy.

The attack: an exact loss, accuracy and row count of one site, on models of the server's choice, at
any hour and without end, where plan and policy promised that metrics are hidden.
"""

from dataclasses import replace

import pytest
from tests.adversary.rogue import NOON, Rogue, Site
from tests.federation.site.scene import LOCAL, Killed, plan

from muster import Every, PerExample, pipeline, rounds
from muster.errors import RunError
from muster.federation.protocol.message import Decline, Measured, TrainingFailure
from muster.federation.site.agent import LAG
from muster.federation.site.policy import Policy

OPEN = plan(weighting="equal", rounds=7, evaluate=Every(3))  # after 3, 6 and 7
TOLD = {"rows", "loss", "steps", "drift"}
BUDGET = Policy(clip=1.0, noise=4.0, budget_epsilon=0.001, budget_delta=1e-5)
SECURE = [pipeline.Clip(1.0), pipeline.Quantize(12), pipeline.SecureSum()]


def measured(rogue):
    """Of which rounds and attempts something was told."""
    return [(said.round, said.attempt) for said in rogue.of(Measured)]


@pytest.mark.parametrize(
    ("given", "policy", "rule"),
    [
        (replace(OPEN, evaluate=Every(clients=0)), Policy(), "unplanned"),
        (
            plan(local=replace(LOCAL, examples=PerExample(1.0, 1.1)), evaluate=Every(clients=0)),
            Policy(),
            "metrics",
        ),
        (OPEN, Policy(metrics="hidden"), "metrics"),
        (OPEN, Policy(rows="hidden"), "metrics"),
        (OPEN, BUDGET, "metrics"),
        (OPEN, Policy(hours=(3, 4)), "hours"),
    ],
)
def test_what_plan_and_policy_do_not_make_public_is_not_told(given, policy, rule, tmp_path):
    site, rogue = Site(tmp_path, given, policy), Rogue(given, [])
    rogue.script = [rogue.evaluate(3) for _ in range(30)]
    site.attend(rogue)
    assert not rogue.of(Measured) and not rogue.of(TrainingFailure)
    assert len(rogue.of(Decline)) == 30
    assert {said["rule"] for said in site.logged("declined")} == {rule}
    assert rogue.requests("/v1/models/") == 0, "nothing is even downloaded"


def test_masks_keep_metrics_unless_the_plan_says_public(tmp_path):
    hidden = plan(weighting="equal", pipeline=SECURE, evaluate=Every(clients=0))
    site, rogue = Site(tmp_path, hidden), Rogue(hidden, [])
    rogue.script = [rogue.evaluate(1)]
    site.attend(rogue)
    assert "SecureSum" in rogue.of(Decline)[0].text


def test_a_budget_keeps_metrics_until_the_policy_says_public(tmp_path):
    site, rogue = Site(tmp_path, OPEN, replace(BUDGET, metrics="public")), Rogue(OPEN, [])
    rogue.script = [rogue.evaluate(3)]
    site.attend(rogue)
    assert measured(rogue) == [(3, 1)]


def test_only_rounds_that_the_plan_evaluates_are_measured(tmp_path):
    site, rogue = Site(tmp_path, OPEN), Rogue(OPEN, [])
    rogue.script = [rogue.evaluate(n) for n in (*range(1, 12), 1 << 31)]
    site.attend(rogue)
    assert measured(rogue) == [(3, 1), (6, 1), (7, 1)]


def test_one_model_is_measured_in_a_round_and_once(tmp_path):
    site, rogue = Site(tmp_path, OPEN), Rogue(OPEN, [])
    other = rogue.publish(rounds.start(replace(OPEN, seed=5)).sent())
    rogue.script = [rogue.evaluate(3), rogue.evaluate(3, model=other), rogue.evaluate(3)]
    rogue.script += [rogue.evaluate(3, counted=True), rogue.evaluate(3, lease=1.0)]
    labels = []
    site.attend(rogue, at=labels.append)
    assert labels.count("site: after download") == 1, "said again, and not measured again"
    assert {said.model for said in rogue.of(Measured)} == {rogue.model}
    assert len(rogue.of(Measured)) == 3 and len({str(m.metrics) for m in rogue.of(Measured)}) == 1
    texts = [said.text for said in rogue.of(Decline)]
    assert "begun with another model" in texts[0] and "begun with another counted" in texts[1]
    assert len(site.logged("evaluate")) == 1


def test_attempts_measure_no_more_than_the_plan_has_evaluations(tmp_path):
    site, rogue = Site(tmp_path, OPEN), Rogue(OPEN, [])
    rogue.script = [rogue.evaluate(3, attempt=n) for n in range(1, 40)]
    site.attend(rogue)
    assert measured(rogue) == [(3, 1), (3, 2), (3, 3)]
    site.policy = Policy(extra_rounds=1)
    site.attend(rogue)
    rogue.script = [rogue.evaluate(3, attempt=n) for n in range(40, 50)]
    site.attend(rogue)
    assert len(rogue.of(Measured)) == 4


def test_no_round_is_measured_after_a_later_one(tmp_path):
    site, rogue = Site(tmp_path, OPEN), Rogue(OPEN, [])
    rogue.script = [rogue.task(4), rogue.settled(4)] + [rogue.evaluate(3) for _ in range(LAG + 1)]
    rogue.script += [rogue.evaluate(6), rogue.task(6)]
    site.attend(rogue)
    assert measured(rogue) == [(6, 1)] and [u.round for u, _ in rogue.updates] == [4]


def test_evaluations_a_day_are_those_of_all_runs(tmp_path):
    site = Site(tmp_path, OPEN, Policy(evaluations_per_day=1, new_runs=1))
    for number, (wall, count) in enumerate([(NOON, 1), (NOON, 0), (NOON + 86400, 1)]):
        rogue = Rogue(OPEN, [], run="r1" if number < 1 else "r2")
        rogue.script = [rogue.evaluate(3)]
        site.attend(rogue, wall=lambda wall=wall: wall)
        assert len(rogue.of(Measured)) == count


@pytest.mark.parametrize("label", ["site: after download"])
def test_a_kill_costs_no_second_measuring(label, tmp_path):
    site, rogue = Site(tmp_path, OPEN, Policy(evaluations_per_day=1)), Rogue(OPEN, [])

    def at(passed):
        if passed == label:
            raise Killed

    rogue.script = [rogue.evaluate(3)]
    with pytest.raises(Killed):
        site.attend(rogue, at=at)
    rogue.script = [rogue.evaluate(3), rogue.evaluate(6)]
    site.attend(rogue)
    assert measured(rogue) == [(3, 1)] and len(rogue.of(Decline)) == 1
    assert len(site.logged("evaluate")) == 1


def test_an_evaluation_is_in_the_log_before_it_is_done(tmp_path):
    site, rogue = Site(tmp_path, OPEN), Rogue(OPEN, [])
    rogue.script, seen = [rogue.evaluate(3)], []
    site.attend(rogue, at=lambda label: seen.extend(site.logged("evaluate")))
    assert seen[0]["round"] == 3 and seen[0]["model"] == rogue.model


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        (Policy(), TOLD),
        (Policy(metrics="hidden"), set()),
        (Policy(rows="hidden"), set()),
        (replace(BUDGET, budget_epsilon=50.0), set()),
        (
            replace(BUDGET, budget_epsilon=50.0, metrics="public"),
            {"rows", "loss", "steps", "drift"},
        ),
    ],
)
def test_an_update_tells_no_metrics_that_the_policy_hides(policy, told, tmp_path):
    site, rogue = Site(tmp_path, OPEN, policy), Rogue(OPEN, [])
    rogue.script = [rogue.task()]
    site.attend(rogue)
    ((update, _),) = rogue.updates
    assert update.metrics.keys() == told
    assert rogue.hellos[0].rows == (1 if policy.rows == "hidden" else 18)


def test_an_older_record_of_evaluations_is_noticed(tmp_path):
    """A study that was put back would have models measured twice."""
    site, rogue = Site(tmp_path, OPEN), Rogue(OPEN, [])
    rogue.script = [rogue.task()]
    site.attend(rogue)
    copy = (site.study / "study.db").read_bytes()
    rogue.script = [rogue.settled(), rogue.task(2), rogue.evaluate(3)]
    site.attend(rogue)
    (site.study / "study.db").write_bytes(copy)
    with pytest.raises(RunError, match="put back to an older copy"):
        site.attend(rogue)
