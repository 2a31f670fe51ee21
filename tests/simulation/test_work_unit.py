# SPDX-License-Identifier: Apache-2.0
"""Clients that fail: blamed by name, or left out as if they had never been there."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import muster
from muster import algorithms, optimizers, sampling, tasks
from muster.errors import ClientError
from muster.rounds import start
from muster.runs.replay import replay
from muster.simulation import Choice, LocalExecutor, Simulation, work_unit
from muster.store import MemoryStore, SQLiteStore
from muster.types import Cohort
from muster.vectors import in_order

ENGINES = ("loop", "matrix", "fused")
BAD = ("c2", "c5")


def plan(engine):
    return muster.Plan(
        task=tasks.numpy.MLP([4, 5, 3]),
        algorithm=algorithms.FedAvg() if engine == "fused" else algorithms.Scaffold(),
        local=muster.Local(epochs=2, batch=4, optimizer=optimizers.SGD(0.1)),
        sampling=sampling.Uniform(count=6),
        rounds=3,
    )


def rows(client):
    n = 3 + int(client[1:])
    draw = np.random.default_rng(n)
    x = draw.normal(size=(n, 4)).astype("float32")
    return (x * np.float32(1e30) if client in BAD else x), draw.integers(0, 3, n)


def broken(client):
    if client in BAD:
        raise OSError("the disk of this client is gone")
    return rows(client)


def unlabelled(client):
    x, y = rows(client)
    return abs(x) % 1, y + 7 if client in BAD else y


def people(load=None):
    clients = [f"c{i}" for i in range(9)]
    if load:
        return muster.Population.lazy(clients, load, {c: 3 + int(c[1:]) for c in clients})
    return muster.Population.from_arrays({client: rows(client) for client in clients})


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("load", [None, broken, unlabelled])
@pytest.mark.parametrize("engine", ENGINES)
def test_the_others_are_as_if_it_had_never_been_there(tmp_path, engine, load, workers):
    population, chosen = people(load), {"engine": engine, "lenient": True, "workers": workers}
    run = muster.simulate(plan(engine), population, path=tmp_path / "run", **chosen)
    stages = set()
    for record in run.trained:
        failed = {answer["client"] for answer in record.get("failed", ())}
        stages |= {answer["stage"] for answer in record.get("failed", ())}
        assert failed == set(BAD) & set(record["invited"])
        assert set(record["accepted"]) == set(record["invited"]) - failed
        assert "each" in record["clients"] or record["round"] < 3
    assert stages == {"data" if load else "report"}
    assert replay(run.path, plan(engine), population) == (3, True, None)
    store = SQLiteStore(run.path, readonly=True)
    assert not set(BAD) & store.memory(population.clients).keys()
    assert bool(store.memory(population.clients)) == (engine != "fused")
    store.close()


@pytest.mark.parametrize("load", [None, broken, unlabelled])
@pytest.mark.parametrize("engine", ENGINES)
def test_the_first_to_fail_stops_the_run_by_name(tmp_path, engine, load):
    with pytest.raises(ClientError) as caught:
        muster.simulate(plan(engine), people(load), path=tmp_path / "run", engine=engine)
    assert caught.value.client in BAD
    assert caught.value.stage == ("data" if load else "report")


class Odd(tasks.numpy.SoftmaxRegression):
    """A task that does not like zeros, whoever trains beside."""

    def gradient(self, w, buffers, batch):
        if (np.asarray(batch.x) == 0).all(-1).any() and np.asarray(batch.y).any():
            raise ZeroDivisionError("a row of zeros")
        return super().gradient(w, buffers, batch)


@pytest.mark.parametrize("engine", ["loop", "matrix"])
def test_of_those_who_train_together_the_guilty_one_is_blamed(tmp_path, engine):
    given = {c: rows(c) for c in ("c1", "c3", "c4", "c6")}
    given["c4"][0][2] = 0
    given["c4"][1][:] = 1
    population = muster.Population.from_arrays(given)
    odd = replace(plan(engine), task=Odd(4, 3), sampling=sampling.All())
    with pytest.raises(ClientError) as caught:
        muster.simulate(odd, population, path=tmp_path / "run", engine=engine)
    assert (caught.value.client, caught.value.round, caught.value.stage) == ("c4", 1, "train")
    assert "ZeroDivisionError: a row of zeros" in str(caught.value)


def test_an_evaluation_that_fails_is_blamed(tmp_path, monkeypatch):
    def evaluate(self, w, buffers, x, y, metrics=()):
        if len(x) == 7:
            raise ZeroDivisionError("seven rows")
        return {"rows": float(len(x)), "loss": 0.0}

    monkeypatch.setattr(tasks.numpy.MLP, "evaluate", evaluate)
    population = people().only(["c0", "c1", "c4"])
    few = replace(plan("loop"), sampling=sampling.All())
    with pytest.raises(ClientError, match=r"client 'c4' failed in round 1 at stage 'evaluate'"):
        muster.simulate(few, population, path=tmp_path / "strict")
    run = muster.simulate(few, population, path=tmp_path / "lenient", lenient=True)
    assert run.trained[-1]["clients"]["count"] == 2


@given(st.integers(1, 9), st.sets(st.integers(0, 40), min_size=1), st.integers(0, 3))
def test_whoever_is_absent_every_block_holds_its_own(block, here, width):
    """A block that lost a client is shorter than the others, and nobody moves because of it."""
    places = sorted(here)
    rows = np.random.default_rng(len(here)).normal(size=(len(places), width))
    edges = work_unit._edges(places, block)
    held = [[i for i, p in enumerate(places) if p // block == b] for b in range(41)]
    wanted = [in_order(rows[one]) for one in held if one]
    assert edges == [one[0] for one in held if one]
    found = work_unit._runs(rows, edges)
    assert [row.tobytes() for row in found] == [row.tobytes() for row in wanted]


@pytest.mark.parametrize("engine", ["loop", "matrix"])
@pytest.mark.parametrize("gone", [{0}, {1, 7}, {2, 3, 4, 69}, set(range(5, 60)), {0, 1, 2}])
def test_the_sum_is_of_all_who_are_there(engine, gone):
    """Blocks of three, six clients in one piece: with holes, too, the sum is the sum."""
    many = people70()
    one = replace(plan(engine), sampling=sampling.All(), algorithm=algorithms.FedAvg())
    choice = Choice(engine, 6, True, "asked for")
    executor = LocalExecutor(one, engine, many)
    simulation = Simulation(one, many, MemoryStore(), choice, executor, {1: frozenset(gone)})
    here = tuple(client for client in many.clients if client not in gone)
    simulation.send(Cohort(many.clients), start(one).sent(), 1)
    total = one.aggregation.reduce(simulation.replies(), many.clients)
    assert total.clients == here
    sizes = dict(zip(many.clients, many.sizes.tolist(), strict=True))
    assert total.weight == sum(sizes[client] for client in here)
    assert total.metrics["rows"] == total.weight


def people70():
    return muster.Population.from_arrays({i: rows(f"c{i % 2}") for i in range(70)})
