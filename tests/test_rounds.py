# SPDX-License-Identifier: Apache-2.0
"""`play`: the order of the line, rounds that do not count, denominators, laws of controls."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from muster import Local, Plan, aggregation, algorithms, keys, optimizers, pipeline, sampling
from muster.local import Group, train
from muster.plain import unpacked
from muster.rounds import RunState, play, start
from muster.store.memory import MemoryStore
from muster.tasks.numpy import LinearRegression
from muster.types import Cohort, Declined, Failed, Late, Reply, Roster, State
from muster.vectors import leaves

IDS, ROWS = ("a", "b", "c", "d"), np.array([1, 2, 3, 4])
DELTAS = {c: np.array([10.0, 1.0]) * (i + 1) for i, c in enumerate(IDS)}


def plan(algorithm=None, **fields):
    local = Local(steps=2, optimizer=optimizers.SGD(0.1))
    fields = {"dtype": "float64", **fields}
    return Plan(LinearRegression(1), algorithm or algorithms.FedAvg(), local, **fields)


class Scripted:
    """Clients that answer from a script, and write down everything that happens."""

    def __init__(self, plan, absent=()):
        self.plan, self.absent, self.log = plan, {**dict(absent)}, []
        self.sent = self.cohort = None

    def known(self):
        self.log.append("known")
        return Roster(IDS, lambda: ROWS)

    def send(self, cohort, sent, round):
        self.log.append("send")
        self.cohort, self.sent = cohort, sent

    def replies(self):
        self.log.append("replies")
        weights = self.plan.weights(ROWS, [self.cohort.counts().get(c, 0) for c in IDS])
        for client in self.cohort.clients:
            if client in self.absent:
                yield self.absent[client]
                continue
            w = float(weights[IDS.index(client)])
            sums = {"rows": 2.0, "loss": 3.0, "steps": 2.0, "drift": 4.0 * w}
            yield Reply((client,), {"delta": w * DELTAS[client]}, w, sums, w * np.zeros(0))

    def evaluate(self, cohort, sent, round):
        return iter(())

    def settle(self, round, accepted):
        self.log.append(("settle", round, tuple(accepted)))


class Logged(MemoryStore):
    """A store that writes down when it commits."""

    def __init__(self, log):
        super().__init__()
        self.log = log

    def commit(self, round, arrays, record, accepted):
        self.log.append(("commit", round, tuple(accepted)))
        super().commit(round, arrays, record, accepted)


def round_of(plan, state=None, absent=(), number=1):
    clients = Scripted(plan, absent)
    store = Logged(clients.log)

    def measure(round, state):
        clients.log.append("measure")
        return {"metrics": {"loss": 1.0}}

    state = play(plan, state or start(plan), clients, store, number, measure)
    return state, clients, store


def test_the_line_is_walked_in_order():
    state, clients, store = round_of(plan())
    assert clients.log == [
        "known",
        "send",
        "replies",
        "measure",
        ("commit", 1, IDS),
        ("settle", 1, IDS),
    ]
    round, arrays = store.latest()
    assert round == 1
    np.testing.assert_equal(arrays, dict(leaves(state)))
    assert clients.sent.algorithm.x.tolist() == [0, 0]
    assert clients.cohort == Cohort(IDS)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ROWS @ np.arange(1, 5) / 10),
        ({"weighting": "equal"}, 2.5),
        ({"cap": 2}, (1 + 4 + 6 + 8) / 7),
    ],
)
def test_the_mean_of_the_updates_moves_the_model(fields, expected):
    state, *_ = round_of(plan(**fields))
    np.testing.assert_allclose(state.algorithm.shared.x, expected * np.array([10.0, 1.0]))


def test_only_those_who_replied_count():
    absent = {"a": Declined("a", "busy"), "b": Failed("b", "train", "boom"), "d": Late("d")}
    state, clients, store = round_of(plan(), absent=absent)
    np.testing.assert_allclose(state.algorithm.shared.x, DELTAS["c"])
    (record,) = store.history()
    assert (record["invited"], record["accepted"]) == ([*IDS], ["c"])
    assert record["declined"] == [{"client": "a", "reason": "busy"}]
    assert record["failed"] == [{"client": "b", "stage": "train", "error": "boom"}]
    assert record["late"] == [{"client": "d", "reason": "after the deadline"}]
    assert clients.log[-1] == ("settle", 1, ("c",))


def test_the_record_says_what_it_cost_and_how_training_went():
    (record,) = round_of(plan(), number=7)[2].history()
    assert record["round"] == 7
    assert record["bytes_down"] == 4 * 2 * 8
    assert record["bytes_up"] == 4 * 2 * 8
    assert record["train"] == {"loss": 1.5, "steps": 2.0, "drift": 2.0}
    assert record["metrics"] == {"loss": 1.0}
    assert not record["abandoned"]


@pytest.mark.parametrize("gone", ["abc", "abcd"])
def test_below_the_minimum_the_round_is_abandoned_and_nothing_moves(gone):
    made = plan(minimum=2)
    before = start(made)
    state, clients, store = round_of(made, before, {c: Late(c) for c in gone})
    np.testing.assert_equal(dict(leaves(state)), dict(leaves(before)))
    assert clients.log[-2:] == [("commit", 1, ()), ("settle", 1, ())]
    (record,) = store.history()
    assert record["abandoned"]
    assert (record["accepted"], record["bytes_up"], "train" in record) == ([], 0, False)


def test_the_minimum_itself_is_enough():
    state, *_ = round_of(plan(minimum=2), absent={c: Late(c) for c in "ab"})
    assert state.algorithm.shared.x.any()


@pytest.mark.parametrize("denominator", ["replies", "expected"])
def test_an_empty_poisson_cohort_leaves_the_state_untouched(denominator):
    made = plan(
        algorithms.FedAvg(server=optimizers.Momentum(1.0, 0.9)),
        sampling=sampling.Poisson(1e-9),
        aggregation=aggregation.Mean(denominator),
        pipeline=[pipeline.AdaptiveClip()],
    )
    before = start(made)
    before = before._replace(algorithm=State(before.algorithm.shared, (np.ones(2),)))
    state, clients, store = round_of(made, before)
    np.testing.assert_equal(dict(leaves(state)), dict(leaves(before)))
    assert clients.log[-1] == ("settle", 1, ())
    assert not store.history()[0]["abandoned"]


def test_the_expected_denominator_does_not_move_with_the_cohort():
    made = plan(sampling=sampling.Poisson(0.5), aggregation=aggregation.Mean("expected"))
    for number in range(1, 6):
        state, clients, _ = round_of(made, number=number)
        total = sum(ROWS[IDS.index(c)] * DELTAS[c] for c in clients.cohort.clients)
        np.testing.assert_allclose(state.algorithm.shared.x, total / (0.5 * 10))


def test_clients_drawn_twice_count_twice():
    made = plan(sampling=sampling.Weighted(5), weighting="equal")
    state, clients, store = round_of(made)
    counts = clients.cohort.counts()
    assert max(counts.values()) > 1
    expected = sum(n * DELTAS[c] for c, n in counts.items()) / 5
    np.testing.assert_allclose(state.algorithm.shared.x, expected)
    assert store.history()[0]["times"] == [*counts.values()]


@dataclass(frozen=True)
class Counting(sampling.Sampler):
    """A sampling with a state of its own."""

    @property
    def traits(self):
        return sampling.SamplerTraits(count=1)

    def sample(self, roster, state, round, key, losses=None):
        assert key == keys.key(3).at("sample", round)
        return Cohort(roster.clients[:1]), (state or 0) + 1


def test_the_sampler_keeps_its_state_even_through_an_abandoned_round():
    made = plan(sampling=Counting(), seed=3)
    state, *_ = round_of(made)
    state, *_ = round_of(made, state, {"a": Late("a")}, number=2)
    assert unpacked(state.sampler) == 2


def test_the_start_is_a_function_of_the_plan_and_shares_what_is_shared():
    made = plan(share="weight", pipeline=[pipeline.AdaptiveClip(start=0.5)])
    state = start(made)
    assert state.algorithm.shared.x.shape == (1,)
    assert state.stages[0].shared.tolist() == [0.5]
    assert state.sampler is None
    np.testing.assert_equal(dict(leaves(start(made))), dict(leaves(state)))
    assert state.sent().stages[0].tolist() == [0.5]


def test_stage_states_move_with_the_round():
    made = plan(pipeline=[pipeline.AdaptiveClip(start=0.5, rate=0.2)])
    state = RunState(start(made).algorithm, start(made).stages, None, np.zeros(0))
    honest = Honest(made)
    play(made, state, honest, MemoryStore(), 1, lambda *_: {})
    moved = play(made, state, honest, MemoryStore(), 2, lambda *_: {}).stages[0].shared
    assert moved != 0.5


class Honest(Scripted):
    """Clients that train for real, remember what was accepted, and may be away."""

    def __init__(self, plan):
        super().__init__(plan)
        rng = np.random.default_rng(5)
        self.x, self.y = rng.normal(size=(10, 1)), rng.normal(size=10)
        start_ = plan.task.init(keys.key(0))
        self.memory = dict.fromkeys(IDS, plan.fresh_memory(*start_) if plan.remembers else None)
        self.staged = {}

    def send(self, cohort, sent, round):
        super().send(cohort, sent, round)
        self.round = round

    def replies(self):
        ends = np.cumsum(ROWS)
        for client in self.cohort.clients:
            i = IDS.index(client)
            rows = slice(ends[i] - ROWS[i], ends[i])
            kept = self.memory[client] and (self.memory[client],)
            group = Group(
                (client,), (1,), self.x[rows], self.y[rows], np.zeros(1, int), ROWS[i : i + 1], kept
            )
            out = train(self.plan, "loop", self.round, self.sent, group)
            self.staged[client] = out.memories and out.memories[0]
            sums = {name: float(value[0]) for name, value in out.metrics.items()}
            payload = {name: value[0] for name, value in out.payload.items()}
            yield Reply((client,), payload, float(out.weights[0]), sums, out.buffers[0])

    def settle(self, round, accepted):
        self.memory |= {client: self.staged[client] for client in accepted}
        self.staged.clear()


LAW = [
    (algorithms.Scaffold(), "examples", lambda state: state.algorithm.shared.c),
    (algorithms.Scaffold(), "equal", lambda state: state.algorithm.shared.c),
    (algorithms.FedDyn(0.3), "equal", lambda state: state.algorithm.private.h),
]
COHORTS = [
    (sampling.All(), "replies"),
    (sampling.Uniform(count=2), "replies"),
    (sampling.Uniform(count=2), "expected"),
    (sampling.Poisson(0.4), "replies"),
    (sampling.Poisson(0.4), "expected"),
]


@pytest.mark.parametrize(("algorithm", "weighting", "control"), LAW)
@pytest.mark.parametrize(("drawn", "denominator"), COHORTS)
def test_the_server_control_is_the_mean_of_the_clients(
    algorithm, weighting, control, drawn, denominator
):
    """c = Σ p_k c_k and h = mean h_k after every round, with any cohort and denominator."""
    mean = aggregation.Mean(denominator)
    made = plan(algorithm, weighting=weighting, sampling=drawn, aggregation=mean, minimum=2)
    clients, state = Honest(made), start(made)
    p = ROWS / 10 if weighting == "examples" else np.full(4, 0.25)
    for number in range(1, 13):
        state = play(made, state, clients, MemoryStore(), number, lambda *_: {})
        mine = p @ np.array([clients.memory[c].algorithm for c in IDS])
        np.testing.assert_allclose(control(state), mine, rtol=0, atol=1e-12)
    assert np.abs(control(state)).max() > 1e-3


def test_one_full_batch_step_of_everybody_is_pooled_descent():
    """FedAvg = SCAFFOLD = FedSGD = gradient descent on all rows."""
    local, x = Local(steps=1, optimizer=optimizers.SGD(0.1)), np.zeros(2)
    pooled = Honest(plan())
    for _ in range(5):
        error = pooled.x @ x[:1] + x[1] - pooled.y
        x = x - 0.1 * 2 * np.array([error @ pooled.x[:, 0], error.sum()]) / 10
    sgd = algorithms.FedSGD(server=optimizers.SGD(0.1))
    for algorithm in (algorithms.FedAvg(), algorithms.Scaffold(), algorithms.FedNova(), sgd):
        made = replace(plan(), algorithm=algorithm, local=local)
        clients, state = Honest(made), start(made)
        for number in range(1, 6):
            state = play(made, state, clients, MemoryStore(), number, lambda *_: {})
        np.testing.assert_allclose(state.algorithm.shared.x, x, rtol=0, atol=1e-12)
