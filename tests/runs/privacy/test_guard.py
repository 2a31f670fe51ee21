# SPDX-License-Identifier: Apache-2.0
"""The guard: charged before the round, once; stopped by the budget; secrets kept, then erased."""

import importlib
import json
from dataclasses import replace

import numpy as np
import pytest

import muster
from muster import Local, Plan, aggregation, algorithms, optimizers, pipeline, sampling, tasks
from muster.errors import PlanError, RunError
from muster.keys import key
from muster.privacy import Budget, Charge, Ledger, Selection, spent
from muster.privacy.book import Book
from muster.privacy.randomness import Secret
from muster.rounds import play, start
from muster.runs import Run
from muster.runs.privacy import guard as guards
from muster.runs.privacy.facts import ledger_of
from muster.runs.privacy.guard import Guard, afforded, usual_delta
from muster.runs.replay import replay
from muster.store import SQLiteStore
from muster.store.sqlite import LABELS
from muster.types import Roster

driving = importlib.import_module("muster.runs.drive")
ROUNDS, DELTA = 5, 1e-3
TEN = Roster(tuple(range(10)), lambda: np.ones(10, int))
STAGES = (pipeline.Clip(0.5), pipeline.Noise(1.0))


@pytest.fixture
def plan():
    return Plan(
        task=tasks.numpy.MLP([4, 5, 3]), algorithm=algorithms.FedAvg(),
        local=Local(epochs=1, batch=4, optimizer=optimizers.SGD(0.2)),
        sampling=sampling.Poisson(0.5), pipeline=STAGES, weighting="equal", rounds=ROUNDS,
        aggregation=aggregation.Mean("expected"), budget=Budget(40.0, DELTA),
    )  # fmt: skip


class Killed(BaseException):
    """What no code that cleans up expects."""


def trap(label, count):
    """Raises at the count-th pass of a label."""
    left = count

    def at(passed=label):
        nonlocal left
        left -= passed == label
        if passed == label and not left:
            raise Killed

    return at


def facts(folder):
    """What lies in a run's store, with its secret."""
    store = SQLiteStore(folder, readonly=True)
    try:
        return store.facts(), store.history()
    finally:
        store.close()


def entries(folder):
    text = facts(folder)[0].get("ledger")
    return Ledger.from_json(text).entries if text else ()


def parameters(run):
    return run.parameters.tobytes()


SEAMS = {
    "guard: before the charge": (guards, "granted", True),
    "guard: charged": (Guard, "admit", False),
    "guard: before the note": (SQLiteStore, "note", True),
    "round: before": (driving, "play", True),
    "round: after": (driving, "play", False),
    "round: before its commit": (SQLiteStore, "commit", True),
    "guard: before the secret goes": (Guard, "close", True),
    "history: before its line": (driving, "append", True),
}


def lay(monkeypatch, label, count):
    """A trap at a seam, or for a label of a commit."""
    at = trap(label, count)
    if label not in SEAMS:
        return at
    place, name, before = SEAMS[label]
    inner = getattr(place, name)

    def wrapped(*given, **named):
        if before:
            at()
        found = inner(*given, **named)
        if not before:
            at()
        return found

    monkeypatch.setattr(place, name, wrapped)
    return lambda passed: None


@pytest.mark.parametrize("count", [1, 3, ROUNDS])
@pytest.mark.parametrize("label", [*LABELS, *SEAMS])
@pytest.mark.parametrize("entropy", [None, lambda n: bytes(n)], ids=["seed", "secret"])
def test_killed_anywhere_each_round_is_charged_once_and_has_the_same_bits(
    train, plan, tmp_path, monkeypatch, label, count, entropy
):
    fields = {name: getattr(plan, name) for name in plan.__dataclass_fields__}
    options = {"entropy": entropy, "engine": "loop", "workers": 1}
    calm = train("calm", options=options, **fields)
    at = lay(monkeypatch, label, count)
    with pytest.raises(Killed):
        train("run", options=options | {"at": at}, **fields)
    monkeypatch.undo()
    if not (tmp_path / "run" / "run.db").exists():
        return
    kept, history = facts(tmp_path / "run")
    before = entries(tmp_path / "run")
    assert len(history) <= len(before) <= len(history) + 1, "charged before the release"
    if entropy and len(before) > len(history):
        assert kept["secret"]["round"] == len(before), "the secret is there before the charge"
    run = train("run", options=options, resume=True, **fields)
    assert parameters(run) == parameters(calm)
    assert [r["round"] for r in run.history] == list(range(1, ROUNDS + 1))
    assert [r["privacy"] for r in run.history] == [r["privacy"] for r in calm.history]
    after = entries(tmp_path / "run")
    assert [e.round for e in after] == list(range(1, ROUNDS + 1))
    assert after[: len(before)] == tuple(
        replace(a, accepted=b.accepted) for a, b in zip(before, after, strict=False)
    )
    assert facts(tmp_path / "run")[0].get("secret") is None
    assert "secret" not in run.facts


def test_the_history_has_epsilon_so_far(train, plan):
    fields = {name: getattr(plan, name) for name in plan.__dataclass_fields__}
    run = train(**fields)
    charge = Charge(plan.stages.releases()[0], Selection("poisson", 0.5))
    for count, record in enumerate(run.history, 1):
        wanted = spent([charge] * count, DELTA)
        assert record["privacy"] == {
            "epsilon": wanted.epsilon, "rdp": wanted.rdp, "delta": DELTA, "multiplier": 1.0,
        }  # fmt: skip
    ledger = ledger_of(run)
    assert [e.accepted for e in ledger.entries] == [len(r["accepted"]) for r in run.history]


def test_the_budget_stops_the_run_and_a_larger_one_goes_on(train, plan, tmp_path, people):
    charge = Charge(plan.stages.releases()[0], Selection("poisson", 0.5))
    three = Budget(spent([charge] * 3, DELTA).epsilon, DELTA)
    fields = {name: getattr(plan, name) for name in plan.__dataclass_fields__}
    calm = train("calm", **fields)
    run = train(**fields | {"budget": three})
    assert len(run.history) == 3
    assert run.facts["spent"]
    assert "past the budget of" in run.facts["stopped"]
    again = train(resume=True, **fields | {"budget": three})
    assert (len(again.history), again.facts["stopped"]) == (3, run.facts["stopped"])
    whole = train(resume=True, **fields)
    assert (len(whole.history), whole.facts["spent"], whole.facts["stopped"]) == (5, False, None)
    assert parameters(whole) == parameters(calm)
    assert replay(tmp_path / "run", plan, people).identical


def test_runs_over_the_same_people_share_a_ledger(train, plan, tmp_path):
    fields = {name: getattr(plan, name) for name in plan.__dataclass_fields__}
    file = tmp_path / "people.json"
    first = train("first", options={"ledger": file}, **fields)
    second = train("second", options={"ledger": file}, **fields | {"seed": 1})
    alone = [r["privacy"]["epsilon"] for r in first.history]
    assert second.history[0]["privacy"]["epsilon"] > alone[-1]
    ledger = Book(file).read(DELTA)
    assert len(ledger.entries) == 2 * ROUNDS
    assert ledger.epsilon == second.history[-1]["privacy"]["epsilon"]
    tight = Budget(ledger.epsilon, DELTA)
    third = train("third", options={"ledger": file}, **fields | {"seed": 2, "budget": tight})
    assert (len(third.history), third.facts["spent"]) == (0, True)
    assert Book(file).read(DELTA).entries == ledger.entries
    with pytest.raises(RunError, match=r"is charged in the ledger .*people\.json, not in"):
        train("first", resume=True, options={"ledger": tmp_path / "other.json"}, **fields)
    more = train("first", resume=True, **fields | {"rounds": ROUNDS + 1})
    assert len(Book(file).read(DELTA).entries) == 2 * ROUNDS + 1, "it knows its ledger"
    assert more.history[-1]["privacy"]["epsilon"] > ledger.epsilon


def test_a_ledger_that_is_named_later_gets_what_was_released_before(train, plan, tmp_path):
    fields = {name: getattr(plan, name) for name in plan.__dataclass_fields__}
    train(**fields)
    file = tmp_path / "people.json"
    train(resume=True, options={"ledger": file}, **fields | {"rounds": ROUNDS + 1})
    assert [e.round for e in Book(file).read(DELTA).entries] == list(range(1, ROUNDS + 2))


def test_delta_must_lie_below_one_over_the_clients(train, plan):
    fields = {name: getattr(plan, name) for name in plan.__dataclass_fields__}
    with pytest.raises(PlanError, match=r"delta=0\.1 with 10 clients: it must lie below 1/10"):
        train(**fields | {"budget": Budget(9.0, 0.1)})
    run = train("other", **fields | {"budget": None})
    assert run.history[0]["privacy"]["delta"] == usual_delta(10)
    with pytest.raises(PlanError, match=r"the ledger counts at delta 1e-05 and Plan"):
        train("other", resume=True, **fields | {"rounds": 9})


def test_an_empty_round_is_a_release_like_any_other(train, plan):
    rare = replace(plan, sampling=sampling.Poisson(1e-6))
    fields = {name: getattr(rare, name) for name in rare.__dataclass_fields__}
    run = train(**fields | {"rounds": 2})
    assert [(r["invited"], r["accepted"], r["abandoned"]) for r in run.history] == [
        ([], [], False)
    ] * 2
    assert len(entries(run.path)) == 2
    moved = run.parameters - start(rare).algorithm.shared.x
    wide = 0.5 / (1e-6 * 10) * 2**0.5  # noise of the clip's size, over the expected replies
    assert 0.5 * wide < moved.std() < 2 * wide
    assert all(ledger.epsilon > 0 for ledger in entries(run.path))


def test_without_noise_an_empty_round_changes_nothing_and_is_not_charged(train, plan):
    plain = replace(plan, sampling=sampling.Poisson(1e-6), pipeline=(), budget=None)
    run = train(**{name: getattr(plain, name) for name in plain.__dataclass_fields__})
    assert (run.parameters == start(plain).algorithm.shared.x).all()
    assert entries(run.path) == ()
    assert "privacy" not in run.history[0]
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
    from muster.simulation import Choice, Here, Simulation  # noqa: PLC0415
    from muster.store.memory import MemoryStore  # noqa: PLC0415

    hands, store = Here(adaptive, "loop", people), MemoryStore()
    clients = Simulation(adaptive, people, store, Choice("loop", 1, True, ""), hands)
    for round in (1, 2, 3):
        play(adaptive, start(adaptive), clients, store, round, lambda *_: {})
        assert seen["weight"] == 0.5 * len(people)
    assert {len(seen["clients"])} != {5}


class Kept:
    """A store of facts in memory."""

    def __init__(self, path):
        self.path, self.facts, self.records, self.log = path, {}, [], []

    def meta(self, key):
        return json.loads(json.dumps(self.facts.get(key)))

    def note(self, **facts):
        self.log.append({name: bool(value) for name, value in facts.items()})
        self.facts |= facts

    def history(self):
        return self.records

    def last_record(self):
        return self.records[-1]

    def commit(self, round):
        self.records.append({"round": round, "accepted": ["a"], "abandoned": False})


def guard(plan, store, **more):
    draws = iter(range(1, 99))
    return Guard(
        plan, lambda: TEN, store, **{"entropy": lambda n: bytes([next(draws)]) * n} | more
    )


def test_a_secret_is_durable_before_the_charge_and_gone_after_the_commit(plan, tmp_path):
    store = Kept(tmp_path)
    one = guard(plan, store)
    assert one.admit(1) is None
    assert store.log == [{"secret": True}, {"ledger": True, "privacy": True}]
    assert one.source() == Secret(bytes([1]) * 32)
    again = guard(plan, store)  # killed, and back
    assert again.admit(1) is None
    assert again.source() == one.source()
    assert len(Ledger.from_json(store.facts["ledger"]).entries) == 1
    store.commit(1)
    again.close(1)
    assert (store.facts["secret"], again.source()) == (None, None)
    assert again.admit(2) is None
    assert again.source() != one.source()
    assert [e.accepted for e in Ledger.from_json(store.facts["ledger"]).entries] == [1, None]


def test_a_death_between_commit_and_erasure_is_made_good(plan, tmp_path):
    store = Kept(tmp_path)
    guard(plan, store).admit(1)
    store.commit(1)
    guard(plan, store).close(1)  # as `drive` does when it begins
    assert store.facts["secret"] is None


def test_a_folder_that_was_put_back_is_refused(plan, tmp_path):
    store, file = Kept(tmp_path), tmp_path / "people.json"
    one = guard(plan, store, file=file)
    one.admit(1)
    old = dict(store.facts), list(store.records)
    store.commit(1)
    one.close(1)
    one.admit(2)
    store.commit(2)
    one.close(2)
    store.facts, store.records = old[0] | {"secret": None}, old[1]
    with pytest.raises(RunError, match=r"round 1 .*was released before.*start a new run"):
        guard(plan, store).admit(1)


def test_a_simulation_needs_no_secret(plan, tmp_path):
    store = Kept(tmp_path)
    one = guard(plan, store, entropy=None)
    assert (one.admit(1), one.source()) == (None, None)
    assert "secret" not in store.facts
    assert store.facts["privacy"]["randomness"] == "seed"


def test_a_run_with_secrets_is_not_replayed(train, plan, tmp_path, people):
    fields = {name: getattr(plan, name) for name in plan.__dataclass_fields__}
    train(options={"entropy": lambda n: bytes(n), "engine": "loop"}, **fields)
    with pytest.raises(RunError, match="drew its noise from secrets that are erased"):
        replay(tmp_path / "run", plan, people)


def test_uniform_and_poisson_draw_from_secrets(people):
    secret = Secret(bytes(32)).at("sample", 1)
    roster = Roster(people.clients, lambda: people.sizes)
    for one in (sampling.Uniform(count=4), sampling.Poisson(0.5), sampling.All()):
        cohort, _ = one.sample(roster, None, 1, secret, None)
        again, _ = one.sample(roster, None, 1, secret, None)
        other, _ = one.sample(roster, None, 1, secret.at(2), None)
        assert cohort == again
        assert list(cohort.clients) == sorted(set(cohort.clients))
        assert cohort != other or isinstance(one, sampling.All)
    counts = np.zeros(10)
    for i in range(3000):
        counts[secret.at(i).choice(10, 4)] += 1
    assert (abs(counts / 3000 - 0.4) < 0.05).all()
    assert key(0).choice(10, 4).tolist() == sorted(set(key(0).choice(10, 4).tolist()))


def test_a_budget_knows_how_many_rounds_it_affords(plan):
    rounds = afforded(plan, TEN)
    charge = Charge(plan.stages.releases()[0], Selection("poisson", 0.5))
    assert spent([replace(charge, rounds=rounds)], DELTA).epsilon <= 40.0
    assert spent([replace(charge, rounds=rounds + 1)], DELTA).epsilon > 40.0
    assert afforded(replace(plan, budget=None), TEN) is None


def test_baselines_spend_no_privacy(train, plan, people, tmp_path):
    from muster.runs.baselines import baselines  # noqa: PLC0415

    found = baselines(replace(plan, rounds=1), people, people.pooled(), tmp_path / "run")
    assert all("privacy" not in run.facts for run in found.values())


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e38, 1e300])
def test_an_update_that_no_clip_can_bound_is_refused_before_it(plan, people, value):
    rows = {c: (np.array(people[c][0], copy=True), people[c][1]) for c in people.clients}
    rows["c0"][0][:] = np.float32(value) if value < 1e39 else np.inf
    wild = muster.Population.from_arrays(rows)
    every = replace(plan, sampling=sampling.All(), rounds=1)
    with np.errstate(all="ignore"), pytest.raises(Exception, match=r"NaN|Inf|overflows|finite"):
        muster.simulate(every, wild, path=None, workers=1, engine="loop")


def test_an_update_of_zeros_stays_zero_and_a_huge_one_is_bounded(plan):
    contract = plan.stages.contracts[0]
    rows = {"delta": np.stack([np.zeros(contract.fields[0].size), np.full(contract.fields[0].size, 1e18)])}  # noqa: E501
    clipped, _ = plan.pipeline[0].encode(rows, contract, None, None, None)
    norms = np.linalg.norm(clipped["delta"], axis=-1)
    assert norms[0] == 0
    assert norms[1] == pytest.approx(0.5)
    assert Run is not None
