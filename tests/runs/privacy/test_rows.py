# SPDX-License-Identifier: Apache-2.0
"""Single rows: each client charged for the rounds that invite it, before they are played."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from muster import Every, Local, Plan, aggregation, algorithms, pipeline, sampling, tasks
from muster.errors import PlanError, RunError
from muster.extras import require
from muster.privacy import Budget, PerExample, promise
from muster.runs import Run
from muster.runs.privacy.facts import statements
from muster.runs.privacy.guard import RunAccountant, afforded
from muster.runs.privacy.rows import facts_from, refuse_blind_budget
from muster.types import Roster

DELTA = 1e-3
LOCAL = Local(epochs=2, batch=4, examples=PerExample(1.0, 2.0))


@pytest.fixture
def plan():
    return Plan(
        task=tasks.numpy.MLP([4, 5, 3]),
        algorithm=algorithms.FedAvg(),
        local=LOCAL,
        rounds=5,
        sampling=sampling.Uniform(count=3),
        evaluate=Every(clients=0),
        budget=Budget(60.0, DELTA),
    )


def fields(plan):
    return {name: getattr(plan, name) for name in plan.__dataclass_fields__}


def library(rows, turns):
    """ε of one client, by dp-accounting alone: 2 epochs of batches of 4 at noise 2."""
    room = require("dp_accounting", extra="privacy")
    event = room.PoissonSampledDpEvent(4 / rows, room.GaussianDpEvent(2.0))
    accountant = require("dp_accounting.pld", extra="privacy").PLDAccountant()
    return accountant.compose(event, 2 * -(-rows // 4) * turns).get_epsilon(DELTA)


def test_the_history_has_the_worst_client_so_far(train, plan, people):
    run = train(**fields(plan))
    sizes, turns = dict(zip(people.clients, people.sizes.tolist(), strict=True)), Counter()
    assert len(run.trained) == 5
    for record in run.trained:
        turns.update(record["invited"])
        each = {client: library(sizes[client], count) for client, count in turns.items()}
        found = record["privacy"]
        assert found["epsilon"] == pytest.approx(max(each.values()), rel=1e-3)
        assert each[found["client"]] == pytest.approx(max(each.values()), rel=1e-3)
        assert (found["delta"], found["multiplier"], found["unit"]) == (DELTA, 2.0, "example")
    kept = facts_from(Run(run.path).facts["examples"]).charged
    assert (kept.worst.client, kept.rounds) == (run.trained[-1]["privacy"]["client"], 5)
    assert kept.all.epsilon == run.trained[-1]["privacy"]["epsilon"]
    assert kept.worst.turns == turns[kept.worst.client]


def test_what_is_private_does_not_report_how_training_went(train, plan):
    run = train(**fields(plan))
    assert not any("train" in record or "clients" in record for record in run.trained)
    told = replace(plan, local=replace(LOCAL, examples=PerExample(1.0, 2.0, metrics="public")))
    open_ = train("open", **fields(replace(told, evaluate=Every())))
    assert all("train" in record and "clients" in record for record in open_.trained)
    assert open_.parameters.tobytes() == run.parameters.tobytes()


def test_the_budget_stops_the_run_and_a_larger_one_goes_on(train, plan):
    calm = train("calm", **fields(plan))
    three = Budget(calm.trained[2]["privacy"]["epsilon"], DELTA)
    fit = sum(r["privacy"]["epsilon"] <= three.epsilon for r in calm.trained)
    assert 3 <= fit < 5
    run = train(**fields(replace(plan, budget=three)))
    assert len(run.trained) == fit
    assert run.facts["spent"]
    assert "epsilon for a row of client " in run.facts["stopped"]
    assert "past the budget of" in run.facts["stopped"]
    kept = facts_from(run.facts["examples"])
    assert (kept.charged.rounds, kept.charged.all.epsilon) == (fit, three.epsilon)
    again = train(resume=True, **fields(replace(plan, budget=three)))
    assert len(again.trained) == fit
    whole = train(resume=True, **fields(plan))
    assert (len(whole.trained), whole.facts["spent"]) == (5, False)
    assert whole.parameters.tobytes() == calm.parameters.tobytes()
    assert whole.trained[-1]["privacy"] == calm.trained[-1]["privacy"]


def test_a_budget_too_small_for_a_round_plays_none(train, plan):
    run = train(**fields(replace(plan, budget=Budget(0.1, DELTA))))
    assert run.trained == []
    assert "(so far, the worst client: 0)" in run.facts["stopped"]
    (made,) = statements(Run(run.path))
    assert "no client was invited yet" in made.reasons[1]


def test_without_a_budget_delta_lies_below_one_over_all_rows(train, plan):
    run = train(**fields(replace(plan, budget=None)))
    assert run.trained[0]["privacy"]["delta"] == 1e-5
    with pytest.raises(PlanError, match=r"delta=0.1 with 140 rows: it must lie below 1/140"):
        train("other", **fields(replace(plan, budget=Budget(60.0, 0.1))))


def test_engines_and_workers_say_the_same(train, plan):
    found = [
        train(f"{engine}{workers}", options={"engine": engine, "workers": workers}, **fields(plan))
        for engine, workers in (("loop", 1), ("matrix", 1), ("matrix", 2))
    ]
    assert len({json.dumps([r["privacy"] for r in run.trained]) for run in found}) == 1


def test_noise_for_clients_and_for_rows_are_two_statements(train, plan):
    both = replace(
        plan,
        pipeline=(pipeline.Clip(0.5), pipeline.Noise(4.0)),
        weighting="equal",
        budget=None,
        aggregation=aggregation.Mean("expected"),
        sampling=sampling.Poisson(0.5),
    )
    run = train(**fields(both))
    clients, rows = statements(Run(run.path))
    assert (clients.unit, rows.unit) == ("client", "example")
    last = run.trained[-1]["privacy"]
    assert "unit" not in last
    assert last["examples"]["unit"] == "example"
    assert "no budget was set" in rows.items["privacy"]
    tight = replace(both, budget=Budget(last["epsilon"], 1e-5))
    assert len(train("tight", **fields(tight)).trained) == 5, "the budget is about clients"


def test_one_statement_of_rows_where_no_stage_adds_noise(train, plan):
    (made,) = statements(Run(train(**fields(plan)).path))
    assert made.unit == "example"
    assert not made.private
    assert "a simulation" in made.reasons[0]
    assert "the budget is 60 at delta 0.001" in made.items["privacy"]


def test_a_budget_knows_how_many_rounds_it_affords(plan):
    roster = Roster(("a", "b"), lambda: np.array([8, 40]))
    rounds = afforded(plan, roster)
    each = [max(promise(LOCAL, n, r, DELTA).epsilon for n in (8, 40)) for r in (rounds, rounds + 1)]
    assert each[0] <= 60.0 < each[1]
    assert afforded(replace(plan, budget=None), roster) is None


def test_a_ledger_of_clients_takes_no_rows(train, plan, tmp_path):
    with pytest.raises(RunError, match=r"--ledger .*people.json adds up .* leave it out"):
        train(**fields(plan), options={"ledger": tmp_path / "people.json"})


class Served:
    """The store of a server."""

    def __init__(self, path):
        self.path, self.facts = path, {"federation": True}

    def meta(self, key):
        return self.facts.get(key)

    def note(self, **facts):
        self.facts |= json.loads(json.dumps(facts))

    def history(self):
        return []

    def superseded(self):
        return []


def test_a_server_says_what_it_cannot_know(plan, tmp_path):
    store, asked = Served(tmp_path), []
    bare = replace(plan, budget=None)
    guard = RunAccountant(bare, lambda: asked.append(1), store, entropy=lambda n: bytes(n))
    assert guard.charge_round(1) is None
    assert guard.record() == {}
    assert not asked, "nobody need be there to say so"
    kept = facts_from(store.facts["examples"])
    assert (kept.away, kept.charged, kept.rows) == (True, None, None)
    with pytest.raises(PlanError, match="the server cannot see it; leave the budget out"):
        RunAccountant(plan, None, store, entropy=lambda n: bytes(n))


def test_sites_of_one_machine_are_a_simulation(plan, tmp_path):
    store = Served(tmp_path)
    guard = RunAccountant(plan, lambda: Roster(("a", "b", "c"), lambda: np.full(3, 20)), store)
    assert guard.charge_round(1) is None
    assert guard.record()["privacy"]["epsilon"] == pytest.approx(library(20, 1), rel=1e-3)


def test_a_client_that_is_gone_cannot_be_charged(plan, tmp_path):
    store = Served(tmp_path)
    store.history = lambda: [{"round": 1, "invited": ["z"]}]
    guard = RunAccountant(plan, lambda: Roster(("a", "b", "c"), lambda: np.full(3, 20)), store)
    with pytest.raises(RunError, match=r"client 'z' was charged .* enrol it again"):
        guard.charge_round(2)


def test_a_blind_budget_is_none_where_the_server_adds_noise(plan):
    refuse_blind_budget(replace(plan, budget=None))
    noisy = {"pipeline": (pipeline.Clip(1.0), pipeline.Noise(1.0)), "weighting": "equal"}
    refuse_blind_budget(replace(plan, aggregation=aggregation.Mean("expected"), **noisy))


def test_baselines_show_what_the_federation_keeps(plan, people, tmp_path):
    from muster.runs.baselines import baselines

    short = replace(plan, rounds=1, budget=None)
    found = baselines(short, people, people.pooled(), tmp_path / "run")
    assert all(run.metrics for run in found.values())


def test_membership_is_measured_against_what_rows_were_promised(train, plan, people):
    from muster.runs.privacy.auditing import audited

    run = train(**fields(plan))
    rows = people.pooled()
    (one,) = [f for f in audited(run, plan, people, rows) if f.attack == "membership of rows"]
    assert "for one row" in one.promised
    assert one.verdict in ("holds", "fault")


def test_masked_sites_of_one_machine_are_charged_by_what_it_holds(plan, tmp_path):
    """A masked site says that it has one row."""
    masked = replace(
        plan,
        pipeline=(pipeline.Clip(1.0), pipeline.Quantize(12), pipeline.SecureSum()),
        weighting="equal",
    )
    clients, store = ("a", "b", "c"), Served(tmp_path)
    held = Roster(clients, lambda: np.full(3, 20))
    guard = RunAccountant(
        masked, lambda: Roster(clients, lambda: np.ones(3, int)), store, held=held
    )
    assert guard.charge_round(1) is None
    assert guard.record()["privacy"]["epsilon"] == pytest.approx(library(20, 1), rel=1e-3)
    assert facts_from(store.facts["examples"]).metrics == "hidden"
    with pytest.raises(PlanError, match="let each site set budget_epsilon"):
        RunAccountant(masked, None, store)
