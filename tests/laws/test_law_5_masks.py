# SPDX-License-Identifier: Apache-2.0
"""Law 5: masked sum = plain sum of the quantized updates, bitwise, for every pattern of dropouts
the threshold allows; where it does not, nothing is opened and the round is given up."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.setting import people, planned, same_bits

import muster
from muster import algorithms, optimizers
from muster.aggregation import Mean
from muster.aggregation.sums import add
from muster.keys import Keys, key
from muster.pipeline import AdaptiveClip, Clip, DiscreteNoise, Noise, Quantize, SecureSum
from muster.pipeline.stage import Contract, Field, Pipeline
from muster.plan import Every
from muster.rounds import play, start
from muster.runs.replay import replay
from muster.secagg import graph
from muster.simulation import Choice, LocalExecutor, Simulation
from muster.simulation.secagg import TALK, SimulatedSecAgg
from muster.store import MemoryStore
from muster.types import Reply

CLIENTS, SIZE = 9, 11
STAGES = Pipeline.build((Clip(1.0), Quantize(12)), Contract((Field("delta", SIZE),), cap=4.0))
STEPS = tuple(step.value for step in TALK)
FEW, ROUNDS = 5, 3
PLANS = {
    "FedAvg": planned(pipeline=[Clip(0.5), Quantize(12)], cap=6),
    "FedAvg, Adam": planned(
        algorithms.FedAvg(server=optimizers.Adam(0.05)), pipeline=[Clip(0.5), Quantize(8)], cap=4
    ),
    "FedProx": planned(algorithms.FedProx(mu=0.5), pipeline=[Quantize(16, range=2.0)], cap=6),
    "Scaffold": planned(
        algorithms.Scaffold(),
        pipeline=[Quantize(10, range=1.0, feedback=True)],
        weighting="equal",
    ),
    "FedDyn": planned(algorithms.FedDyn(), pipeline=[Clip(1.0), Quantize(16)]),
    "noise of the clients": planned(
        pipeline=[Clip(0.5), Quantize(12), DiscreteNoise(1.0, clients=FEW, dropout=0.4)],
        aggregation=Mean("expected"),
        weighting="equal",
        minimum=3,
    ),
    "noise of the server": planned(
        pipeline=[Clip(0.5), Quantize(12), Noise(1.0)],
        aggregation=Mean("expected"),
        weighting="equal",
    ),
    "fixed point": planned(
        pipeline=[Clip(0.5), Quantize(8)], cap=4, aggregation=Mean(sum="fixed"), dtype="float32"
    ),
    "a moving clip": planned(
        pipeline=[AdaptiveClip(start=0.3), Quantize(8, range=0.5)], cap=6, dtype="float32"
    ),
}


def masked(plan, **changes):
    """The same plan with its sums masked."""
    stages = (*plan.pipeline, SecureSum(**changes))
    return replace(plan, pipeline=stages, evaluate=Every(clients=0))


def played(plan, clients=FEW, rounds=ROUNDS, engine="loop", **more):
    """The state after some rounds, and their records."""
    store, population = MemoryStore(), people(clients, plan.dtype)
    choice, executor = Choice(engine, 2, True, ""), LocalExecutor(plan, engine, population)
    simulation = Simulation(plan, population, store, choice, executor, **more)
    state = start(plan)
    for round in range(1, rounds + 1):
        state = play(plan, state, simulation, store, round, lambda *_: {})
    return state, store.history()


def silent(history):
    """Return those who did not count, by round."""
    return {r["round"]: frozenset(r["invited"]) - frozenset(r["accepted"]) for r in history}


def opens(lost, clients=FEW, minimum=3):
    """Return whether the sum may be opened: everybody's secrets have t holders left; survivors."""
    first = {c: STEPS.index(word) for c, word in lost.items()}
    left = [{c for c in range(clients) if first.get(c, 9) > step} for step in range(6)]
    threshold = (clients + clients // 3) // 2 + 1  # of those invited
    enough = len(left[4]) >= minimum and len(left[5]) >= threshold
    return enough, left[3]


patterns = st.dictionaries(st.integers(0, FEW - 1), st.sampled_from(STEPS), max_size=4)


@pytest.mark.parametrize("name", PLANS)
@settings(max_examples=25)
@given(data=st.data())
def test_any_dropouts(name, data):
    plan = PLANS[name]
    engines = ["loop", "matrix", "fused"] if plan.fusible else ["loop", "matrix"]
    engine = data.draw(st.sampled_from(engines))
    lost = {round: data.draw(patterns) for round in range(1, ROUNDS + 1)}
    state, history = played(masked(plan), engine=engine, masks=SimulatedSecAgg(lost=lost))
    for record in history:
        enough, survivors = opens(lost[record["round"]])
        assert record["accepted"] == (sorted(survivors) if enough else [])
        assert record["abandoned"] == (not enough and "server" not in name)  # that is noise
        assert ("secure" in record) == enough
    plain, _ = played(plan, engine=engine, absent=silent(history))
    assert same_bits(state, plain)
    again, _ = played(masked(plan), engine=engine, absent=silent(history))
    assert same_bits(state, again)


@pytest.mark.parametrize("engine", ["loop", "matrix"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_on_disk_by_any_engine(engine, workers, tmp_path):
    plan, population = masked(PLANS["Scaffold"]), people(7)
    chosen = {"engine": engine, "workers": workers}
    run = muster.simulate(plan, population, path=tmp_path / "masked", **chosen)
    plain = muster.simulate(PLANS["Scaffold"], population, path=tmp_path / "plain", **chosen)
    assert run.parameters.tobytes() == plain.parameters.tobytes()
    assert [record["accepted"] for record in run.trained] == [list(range(7))] * 10
    (note,) = run.trained[0]["secure"]
    assert note["clients"] == list(range(7)) and (note["threshold"], note["bits"]) == (5, 13)
    assert all("train" not in record for record in run.trained)
    assert replay(tmp_path / "masked", plan, population).identical


class Killed(Exception):
    """Stands for the death of the process."""


def test_a_run_that_died_and_went_on(tmp_path):
    """The round is played again with other keys and masks, and has the bits it would have had."""
    plan, calls = masked(PLANS["Scaffold"]), []

    def at(label):
        calls.append(label)
        if calls.count("commit: begin") == 3:
            raise Killed

    whole = muster.simulate(plan, people(5), path=tmp_path / "whole")
    with pytest.raises(Killed):
        muster.simulate(plan, people(5), path=tmp_path / "died", at=at)
    run = muster.simulate(plan, people(5), path=tmp_path / "died", resume=True)
    assert run.parameters.tobytes() == whole.parameters.tobytes()
    assert [record["round"] for record in run.trained] == list(range(1, 11))


def test_a_ring(monkeypatch):
    """A hundred clients, each with fewer neighbours than all, a tenth of them lost."""
    monkeypatch.setattr(graph, "FULL", 20)
    graph.graph_of.cache_clear()
    lost = {1: {c: STEPS[c // 10 % 6] for c in range(3, 100, 10)}}
    plan, sparse = PLANS["FedAvg"], {"corrupt": 0.1}
    state, history = played(
        masked(plan, **sparse), 100, 1, "matrix", masks=SimulatedSecAgg(lost=lost)
    )
    graph.graph_of.cache_clear()
    assert history[0]["secure"][0]["degree"] < 60
    assert 90 <= history[0]["secure"][0]["survivors"] < 100
    assert same_bits(state, played(plan, 100, 1, "matrix", absent=silent(history))[0])


def encoded(seed):
    draw = np.random.default_rng(seed)
    rows = {"delta": draw.normal(size=(CLIENTS, SIZE)).astype(np.float32)}
    weights = draw.uniform(0, 4, CLIENTS)
    keys = Keys(key(seed), tuple(range(CLIENTS)))
    payload, _ = STAGES.encode(rows, (None, None), None, keys, weights)
    return [
        Reply((i,), {"delta": payload["delta"][i]}, 1.0, {}, np.zeros(0)) for i in range(CLIENTS)
    ]


def tree(replies, draw):
    """The sum over regions of regions, cut anywhere."""
    while len(replies) > 1:
        cut = int(draw.integers(1, len(replies) + 1))
        replies = [add(replies[:cut]), *replies[cut:]]
        draw.shuffle(replies)
    return replies[0]


@settings(max_examples=60)
@given(seed=st.integers(0, 1000), survivors=st.sets(st.integers(0, CLIENTS - 1), min_size=1))
def test_no_order_or_grouping_changes_the_sum_of_the_survivors(seed, survivors):
    replies = [encoded(seed)[i] for i in sorted(survivors)]
    plain = add(replies)
    grouped = tree(list(replies), np.random.default_rng(seed + 1))
    assert plain.payload["delta"].dtype.kind == "i"
    assert plain.payload["delta"].tobytes() == grouped.payload["delta"].tobytes()
    ends = [STAGES.decode(r, STAGES.init(), key(0))[0].payload["delta"] for r in (plain, grouped)]
    assert ends[0].tobytes() == ends[1].tobytes()
