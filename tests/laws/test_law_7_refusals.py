# SPDX-License-Identifier: Apache-2.0
"""Law 7: a refused update leaves state and memory untouched, and the sender is told why."""

import numpy as np
import pytest
from tests.laws.setting import FEATURES, load_client, planned, same_bits

import muster
from muster import Population, algorithms, pipeline, sampling
from muster.errors import ClientError
from muster.plan import Plan
from muster.rounds import play, start
from muster.simulation import Choice, LocalExecutor, Simulation
from muster.store import MemoryStore, SQLiteStore
from muster.tasks.custom import Custom

ILL = 4
STAGES = [pipeline.AdaptiveClip(), pipeline.Quantize(8, range=1.0, feedback=True)]
PLAN = planned(algorithms.Scaffold(), pipeline=STAGES, cap=6)
WELL = {k: load_client(k) for k in range(8)}
OVERFLOW = (np.full((7, FEATURES), 1e200), np.arange(7) % 2)  # no model fits both labels


def loaded(client):
    """Rows that are seen only when they are asked for; one client's have a hole."""
    x, y = load_client(client)
    return (np.where(np.arange(x.size).reshape(x.shape) == 2, np.nan, x) if client == ILL else x), y


def ill(kind):
    if kind == "hole":
        return Population.lazy(range(8), loaded, [3 + k % 5 for k in range(8)])
    return Population.from_arrays(WELL | {ILL: OVERFLOW})


def simulation(plan, population, store, engine, lenient=False):
    executor = LocalExecutor(plan, engine, population, lenient=lenient)
    return Simulation(plan, population, store, Choice(engine, 3, True, ""), executor)


def healthy_rounds(plan, store, engine):
    """Two committed rounds, so that there is a state and a memory to touch."""
    clients = simulation(plan, Population.from_arrays(WELL), store, engine)
    state = start(plan)
    for round in (1, 2):
        state = play(plan, state, clients, store, round, lambda *_: {})
    return state


@pytest.mark.parametrize("kind", ["overflow", "hole"])
@pytest.mark.parametrize("engine", ["loop", "matrix"])
@pytest.mark.parametrize("make", [MemoryStore, SQLiteStore])
def test_an_update_that_is_not_finite(make, engine, kind, tmp_path):
    store = SQLiteStore(tmp_path) if make is SQLiteStore else MemoryStore()
    state = healthy_rounds(PLAN, store, engine)
    before = store.latest(), store.memory(range(8)), store.history()
    with pytest.raises(ClientError) as error:
        play(PLAN, state, simulation(PLAN, ill(kind), store, engine), store, 3, lambda *_: {})
    assert (error.value.client, error.value.round) == (ILL, 3)
    assert f"client {ILL} failed in round 3" in str(error.value)
    if make is SQLiteStore:
        store.close()
        store = SQLiteStore(tmp_path)
    assert same_bits(before[0][1], store.latest()[1])
    assert before[0][0] == store.latest()[0]
    assert same_bits(named(before[1]), named(store.memory(range(8))))
    assert before[2] == store.history()
    if make is SQLiteStore:
        store.close()


def named(memories):
    return {str(client): arrays for client, arrays in memories.items()}


@pytest.mark.parametrize("engine", ["loop", "matrix"])
def test_when_told_to_go_on_the_others_count_as_if_it_were_absent(engine):
    ends = []
    for lenient in (True, False):
        store = MemoryStore()
        state = healthy_rounds(PLAN, store, "loop")
        memory = store.memory([ILL])
        population = ill("overflow") if lenient else Population.from_arrays(WELL)
        clients = simulation(PLAN, population, store, engine, lenient)
        if not lenient:
            clients = Simulation(
                PLAN,
                population,
                store,
                Choice(engine, 3, True, ""),
                LocalExecutor(PLAN, engine, population),
                {3: frozenset([ILL])},
            )
        ends.append(play(PLAN, state, clients, store, 3, lambda *_: {}))
        assert same_bits(named(memory), named(store.memory([ILL])))
        record = store.history()[-1]
        assert ILL in record["invited"]
        assert ILL not in record["accepted"]
        if lenient:
            assert record["failed"][0]["client"] == ILL
            assert "NaN or Inf" in record["failed"][0]["error"]
    assert same_bits(*ends)


def begin():
    return {"w": np.zeros(3), "b": np.zeros(1)}


def measure(model, data):
    return {"loss": float((model["w"] ** 2).sum())}


def fit(model, data, config):
    faults = {
        "shape": {"w": np.ones(4), "b": model["b"]},
        "names": {"w": model["w"]},
        "nan": {"w": np.full(3, np.nan), "b": model["b"]},
        "kind": {"w": np.array(["a", "b", "c"]), "b": model["b"]},
    }
    fault = FAULTS[int(data[1][0])]
    if fault == "raises" and config.round == 2:
        raise ValueError("the machine room is on fire")
    if fault in faults and config.round == 2:
        return faults[fault]
    return {"w": model["w"] + 1, "b": model["b"]}


FAULTS = ("well", "shape", "names", "nan", "kind", "raises")


@pytest.mark.parametrize("fault", FAULTS[1:])
def test_a_fit_that_returns_what_it_should_not(fault, tmp_path):
    marks = {f"site-{i}": FAULTS.index(fault if i == 1 else "well") for i in range(3)}
    rows = {name: (np.zeros((2, 3), np.float32), np.full(2, mark)) for name, mark in marks.items()}
    plan = Plan(
        task=Custom(begin, fit, measure),
        algorithm=algorithms.FedAvg(),
        local=muster.Local(epochs=1),
        sampling=sampling.All(),
        rounds=3,
    )
    with pytest.raises(ClientError) as error:
        muster.simulate(plan, Population.from_arrays(rows), path=tmp_path)
    assert (error.value.client, error.value.round) == ("site-1", 2)
    assert str(error.value).startswith("client 'site-1' failed in round 2 at stage 'train'")
    if fault == "raises":
        assert "the machine room is on fire" in str(error.value)
    store = SQLiteStore(tmp_path, readonly=True)
    round, arrays = store.latest()
    assert round == 1
    assert [record["round"] for record in store.history()] == [0, 1]
    assert arrays["algorithm.shared.x"].tolist() == [1, 1, 1, 0]
    store.close()
