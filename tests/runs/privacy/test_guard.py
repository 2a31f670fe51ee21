# SPDX-License-Identifier: Apache-2.0
"""The guard: charged before the round, once; stopped by the budget; secrets kept, then erased."""

import json
from dataclasses import replace

import numpy as np
import pytest

from muster import Local, Plan, aggregation, algorithms, optimizers, pipeline, sampling, tasks
from muster.errors import ClientError, PlanError, RunError
from muster.privacy import Budget, Charge, PrivacyLedger, Selection, spent
from muster.privacy.book import LedgerFile
from muster.privacy.ledger import usual_delta
from muster.privacy.randomness import Secret
from muster.rounds import play, start
from muster.runs.privacy.facts import ledger_of, stated
from muster.runs.privacy.guard import RunAccountant, afforded
from muster.runs.replay import replay
from muster.store import SQLiteStore
from muster.types import Roster

ROUNDS, DELTA = 5, 1e-3
TEN = Roster(tuple(range(10)), lambda: np.ones(10, int))
STAGES = (pipeline.Clip(0.5), pipeline.Noise(1.0))


@pytest.fixture
def plan():
    return Plan(
        task=tasks.numpy.MLP([4, 5, 3]),
        algorithm=algorithms.FedAvg(),
        local=Local(epochs=1, batch=4, optimizer=optimizers.SGD(0.2)),
        sampling=sampling.Poisson(0.5),
        pipeline=STAGES,
        weighting="equal",
        rounds=ROUNDS,
        aggregation=aggregation.Mean("expected"),
        budget=Budget(40.0, DELTA),
    )


def facts(folder):
    """Return the facts in a run's store, with its secret."""
    store = SQLiteStore(folder, readonly=True)
    try:
        return store.facts(), store.history()
    finally:
        store.close()


def entries(folder):
    text = facts(folder)[0].get("ledger")
    return PrivacyLedger.from_json(text).entries if text else ()


def parameters(run):
    return run.parameters.tobytes()


def test_the_history_has_epsilon_so_far(train, plan):
    fields = {name: getattr(plan, name) for name in plan.__dataclass_fields__}
    run = train(**fields)
    charge = Charge(plan.stages.releases()[0], Selection("poisson", 0.5))
    for count, record in enumerate(run.trained, 1):
        wanted = spent([charge] * count, DELTA)
        assert record["privacy"] == {
            "epsilon": wanted.epsilon,
            "rdp": wanted.rdp,
            "delta": DELTA,
            "multiplier": 1.0,
        }
    ledger = ledger_of(run)
    assert [e.accepted for e in ledger.entries] == [len(r["accepted"]) for r in run.trained]


def test_the_budget_stops_the_run_and_a_larger_one_goes_on(train, plan, tmp_path, people):
    charge = Charge(plan.stages.releases()[0], Selection("poisson", 0.5))
    three = Budget(spent([charge] * 3, DELTA).epsilon, DELTA)
    fields = {name: getattr(plan, name) for name in plan.__dataclass_fields__}
    calm = train("calm", **fields)
    run = train(**fields | {"budget": three})
    assert len(run.trained) == 3
    assert run.facts["spent"]
    assert "past the budget of" in run.facts["stopped"]
    again = train(resume=True, **fields | {"budget": three})
    assert (len(again.trained), again.facts["stopped"]) == (3, run.facts["stopped"])
    whole = train(resume=True, **fields)
    assert (len(whole.trained), whole.facts["spent"], whole.facts["stopped"]) == (5, False, None)
    assert parameters(whole) == parameters(calm)
    assert replay(tmp_path / "run", plan, people).identical


def test_runs_over_the_same_people_share_a_ledger(train, plan, tmp_path):
    fields = {name: getattr(plan, name) for name in plan.__dataclass_fields__}
    file = tmp_path / "people.json"
    first = train("first", options={"ledger": file}, **fields)
    second = train("second", options={"ledger": file}, **fields | {"seed": 1})
    alone = [r["privacy"]["epsilon"] for r in first.trained]
    assert second.trained[0]["privacy"]["epsilon"] > alone[-1]
    ledger = LedgerFile(file).read(DELTA)
    assert len(ledger.entries) == 2 * ROUNDS
    assert ledger.epsilon == second.trained[-1]["privacy"]["epsilon"]
    tight = Budget(ledger.epsilon, DELTA)
    third = train("third", options={"ledger": file}, **fields | {"seed": 2, "budget": tight})
    assert (len(third.trained), third.facts["spent"]) == (0, True)
    assert LedgerFile(file).read(DELTA).entries == ledger.entries
    with pytest.raises(RunError, match=r"is charged in the ledger .*people\.json, not in"):
        train("first", resume=True, options={"ledger": tmp_path / "other.json"}, **fields)
    more = train("first", resume=True, **fields | {"rounds": ROUNDS + 1})
    assert len(LedgerFile(file).read(DELTA).entries) == 2 * ROUNDS + 1, "it knows its ledger"
    assert more.trained[-1]["privacy"]["epsilon"] > ledger.epsilon


def test_a_ledger_that_is_named_later_gets_what_was_released_before(train, plan, tmp_path):
    fields = {name: getattr(plan, name) for name in plan.__dataclass_fields__}
    train(**fields)
    file = tmp_path / "people.json"
    train(resume=True, options={"ledger": file}, **fields | {"rounds": ROUNDS + 1})
    assert [e.round for e in LedgerFile(file).read(DELTA).entries] == list(range(1, ROUNDS + 2))


def test_no_two_runs_have_one_name_in_a_ledger(plan, tmp_path):
    """A round under a name that is taken would be charged no second time."""
    names = set()
    for _ in range(50):
        store = Kept(tmp_path / "same#2")
        guard(plan, store).charge_round(1)
        (entry,) = PrivacyLedger.from_json(store.facts["ledger"]).entries
        assert entry.charge.origin == entry.charge.run == store.facts["privacy"]["run"]
        names.add(entry.charge.run)
    assert len(names) == 50
    assert all(len(name.rpartition("-")[2]) == 32 for name in names)


def test_delta_must_lie_below_one_over_the_clients(train, plan):
    fields = {name: getattr(plan, name) for name in plan.__dataclass_fields__}
    with pytest.raises(PlanError, match=r"delta=0\.1 with 10 clients: it must lie below 1/10"):
        train(**fields | {"budget": Budget(9.0, 0.1)})
    run = train("other", **fields | {"budget": None})
    assert run.trained[0]["privacy"]["delta"] == usual_delta(10)
    with pytest.raises(PlanError, match=r"the ledger counts at delta 1e-05 and Plan"):
        train("other", resume=True, **fields | {"rounds": 9})


def test_an_empty_round_is_a_release_like_any_other(train, plan):
    rare = replace(plan, sampling=sampling.Poisson(1e-6))
    fields = {name: getattr(rare, name) for name in rare.__dataclass_fields__}
    run = train(**fields | {"rounds": 2})
    assert [(r["invited"], r["accepted"], r["abandoned"]) for r in run.trained] == [
        ([], [], False)
    ] * 2
    assert len(entries(run.path)) == 2
    moved = run.parameters - start(rare).algorithm.shared.x
    wide = 0.5 / (1e-6 * 10) * 2**0.5  # noise of the clip's size, over the expected replies
    assert 0.5 * wide < moved.std() < 2 * wide


def test_without_noise_an_empty_round_changes_nothing_and_is_not_charged(train, plan):
    plain = replace(plan, sampling=sampling.Poisson(1e-6), pipeline=(), budget=None)
    run = train(**{name: getattr(plain, name) for name in plain.__dataclass_fields__})
    assert (run.parameters == start(plain).algorithm.shared.x).all()
    assert entries(run.path) == ()
    assert "privacy" not in run.trained[0]
    assert "privacy" not in run.facts


def test_an_adaptive_clip_follows_the_expected_count_not_the_private_one(plan, people):
    adaptive = replace(plan, pipeline=(pipeline.AdaptiveClip(start=0.5), pipeline.Noise(1.0)))
    seen = {}

    class Spy(type(adaptive.stages)):
        def decode(self, total, states, key):
            seen["weight"], seen["clients"] = total.weight, total.clients
            return super().decode(total, states, key)

    spied = Spy(*(getattr(adaptive.stages, n) for n in ("stages", "contracts", "weigh")))
    vars(adaptive)["stages"] = spied
    from muster.simulation import Choice, LocalExecutor, Simulation
    from muster.store.memory import MemoryStore

    executor, store = LocalExecutor(adaptive, "loop", people), MemoryStore()
    clients = Simulation(adaptive, people, store, Choice("loop", 1, True, ""), executor)
    for round in (1, 2, 3):
        play(adaptive, start(adaptive), clients, store, round, lambda *_: {})
        assert seen["weight"] == 0.5 * len(people)
    assert {len(seen["clients"])} != {5}


class Kept:
    """A store of facts in memory."""

    def __init__(self, path):
        self.path, self.facts, self.records, self.log, self.drawn = path, {}, [], [], 0

    def meta(self, key):
        return json.loads(json.dumps(self.facts.get(key)))

    def note(self, **facts):
        self.log.append({name: bool(value) for name, value in facts.items()})
        self.facts |= facts

    def history(self):
        return self.records

    def superseded(self):
        return []

    def last_record(self):
        return self.records[-1]

    def commit(self, round):
        self.records.append({"round": round, "accepted": ["a"], "abandoned": False})


def guard(plan, store, **more):
    def entropy(n):
        store.drawn += 1
        return bytes([store.drawn]) * n

    return RunAccountant(plan, lambda: TEN, store, **{"entropy": entropy} | more)


def test_a_secret_is_durable_before_the_charge_and_gone_after_the_commit(plan, tmp_path):
    store = Kept(tmp_path)
    one = guard(plan, store)
    assert one.charge_round(1) is None
    assert store.log == [{"secret": True}, {"ledger": True, "privacy": True}]
    assert one.source() == Secret(bytes([1]) * 32)
    again = guard(plan, store)  # killed, and back
    assert again.charge_round(1) is None
    assert again.source() == one.source()
    assert len(PrivacyLedger.from_json(store.facts["ledger"]).entries) == 1
    store.commit(1)
    again.close(1)
    assert (store.facts["secret"], again.source()) == (None, None)
    assert again.charge_round(2) is None
    assert again.source() != one.source()
    assert [e.accepted for e in PrivacyLedger.from_json(store.facts["ledger"]).entries] == [1, None]


def test_a_death_between_commit_and_erasure_is_made_good(plan, tmp_path):
    store = Kept(tmp_path)
    guard(plan, store).charge_round(1)
    store.commit(1)
    guard(plan, store).close(1)  # as `drive` does when it begins
    assert store.facts["secret"] is None


@pytest.mark.parametrize("secret", [True, False], ids=["while a round was open", "between rounds"])
def test_a_folder_that_was_put_back_is_refused(plan, tmp_path, secret):
    store, file = Kept(tmp_path), tmp_path / "people.json"
    one = guard(plan, store, file=file)
    one.charge_round(1)
    old = dict(store.facts), list(store.records)
    store.commit(1)
    one.close(1)
    if not secret:
        one.charge_round(2)
        store.commit(2)
        one.close(2)
    store.facts, store.records = old[0] | ({} if secret else {"secret": None}), old[1]
    with pytest.raises(RunError, match=r"round 1 .*released before.*--lost LAST.*or start a new"):
        guard(plan, store).charge_round(1)


def test_what_an_older_copy_has_lost_stays_charged(plan, tmp_path):
    """Also without a file beside the run; the rounds that are played again are charged, too."""
    store = Kept(tmp_path)
    one = guard(plan, store)
    one.charge_round(1)
    store.commit(1)
    one.close(1)
    one.charge_round(2)
    store.facts["rollbacks"] = [{"to": 1, "lost": 3}]
    store.facts["secret"] = None
    again = guard(plan, store)
    again.charge_round(2)
    run = store.facts["privacy"]["run"]
    entries = PrivacyLedger.from_json(store.facts["ledger"]).entries
    found = [(entry.charge.run, entry.round) for entry in entries]
    assert found == [(run, 1), (run, 2), (run, 3), (f"{run}/2", 2)]
    charge = Charge(plan.stages.releases()[0], Selection("poisson", 0.5))
    assert entries[-1].epsilon == spent([charge] * 4, DELTA).epsilon


def test_a_budget_that_lost_rounds_have_spent_stops_the_run(plan, tmp_path):
    charge = Charge(plan.stages.releases()[0], Selection("poisson", 0.5))
    plan = replace(plan, budget=Budget(spent([charge] * 3, DELTA).epsilon, DELTA))
    store = Kept(tmp_path)
    one = guard(plan, store)
    one.charge_round(1)
    store.commit(1)
    one.close(1)
    store.facts["rollbacks"] = [{"to": 1, "lost": 4}]
    assert "past the budget" in guard(plan, store).charge_round(2)
    assert len(PrivacyLedger.from_json(store.facts["ledger"]).entries) == 4


@pytest.mark.parametrize(
    ("field", "said"), [("budget", "which was changed after the first round"), ("rounds", "")]
)
def test_a_budget_that_was_raised_or_rounds_that_were_added_after_a_look_are_said(
    train, plan, field, said
):
    """Then the number of rounds was fixed no more before the first one."""
    fields = {name: getattr(plan, name) for name in plan.__dataclass_fields__}
    charge = Charge(plan.stages.releases()[0], Selection("poisson", 0.5))
    small = {
        "budget": Budget(spent([charge] * 3, DELTA).epsilon, DELTA),
        "rounds": 3,
    }
    first = train(**fields | {field: small[field]})
    assert len(first.trained) == 3
    assert ledger_of(first).theorem == "fixed settings"
    calm = stated(first).items
    assert "fixed before the first" in calm["accountant"] and "changed" not in calm["privacy"]
    whole = train(resume=True, **fields)
    ledger = ledger_of(whole)
    assert len(whole.trained) == ROUNDS and ledger.theorem == "one setting"
    assert ledger.epsilon == spent([charge] * ROUNDS, DELTA).epsilon
    items = stated(whole).items
    assert "another number of rounds or another budget" in items["accountant"]
    assert said in items["privacy"]
    assert ("changed" in items["privacy"]) is bool(said)


def test_a_simulation_needs_no_secret(plan, tmp_path):
    store = Kept(tmp_path)
    one = guard(plan, store, entropy=None)
    assert (one.charge_round(1), one.source()) == (None, None)
    assert "secret" not in store.facts
    assert store.facts["privacy"]["randomness"] == "seed"


def test_a_run_with_secrets_is_not_replayed(train, plan, tmp_path, people):
    fields = {name: getattr(plan, name) for name in plan.__dataclass_fields__}
    train(options={"entropy": lambda n: bytes(n), "engine": "loop"}, **fields)
    with pytest.raises(RunError, match="drew its noise from secrets that are erased"):
        replay(tmp_path / "run", plan, people)


def test_a_budget_knows_how_many_rounds_it_affords(plan):
    rounds = afforded(plan, TEN)
    charge = Charge(plan.stages.releases()[0], Selection("poisson", 0.5))
    assert spent([replace(charge, rounds=rounds)], DELTA).epsilon <= 40.0
    assert spent([replace(charge, rounds=rounds + 1)], DELTA).epsilon > 40.0
    assert afforded(replace(plan, budget=None), TEN) is None


def test_baselines_spend_no_privacy(train, plan, people, tmp_path):
    from muster.runs.baselines import baselines

    found = baselines(replace(plan, rounds=1), people, people.pooled(), tmp_path / "run")
    assert all("privacy" not in run.facts for run in found.values())


@pytest.mark.parametrize("rate", [1e12, 1e38])
def test_what_no_clip_can_bound_is_refused_before_it(train, plan, rate):
    wild = Local(steps=9, batch=4, optimizer=optimizers.SGD(rate))
    fields = {name: getattr(plan, name) for name in plan.__dataclass_fields__}
    fields |= {"local": wild, "sampling": sampling.All(), "rounds": 1}
    with np.errstate(all="ignore"):
        with pytest.raises(ClientError, match="holds NaN or Inf, or overflows"):
            train("strict", options={"engine": "loop", "workers": 1}, **fields)
        run = train("lenient", options={"engine": "loop", "workers": 1, "lenient": True}, **fields)
    assert np.isfinite(run.parameters).all()
    assert len(run.trained[0]["failed"]) == 10
    assert run.trained[0]["accepted"] == []
    assert len(entries(run.path)) == 1, "a round that nobody's update entered is released, too"


def test_an_update_of_zeros_stays_zero_and_a_huge_one_is_bounded(plan):
    contract = plan.stages.contracts[0]
    size = contract.fields[0].size
    rows = {"delta": np.stack([np.zeros(size), np.full(size, 1e18)])}
    clipped, _ = plan.pipeline[0].encode(rows, contract, None, None, None)
    norms = np.linalg.norm(clipped["delta"], axis=-1)
    assert norms[0] == 0
    assert norms[1] == pytest.approx(0.5)
