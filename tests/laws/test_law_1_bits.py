# SPDX-License-Identifier: Apache-2.0
"""Law 1: the same plan, seed and engine give the same bits, whoever does the work."""

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.setting import (
    ALGORITHMS,
    load_client,
    people,
    planned,
    same_bits,
    trained,
)

import muster
from muster import Population, algorithms, pipeline, sampling
from muster.aggregation.sums import block_size
from muster.rounds import start
from muster.simulation import Pool

MANY = 70  # clients: blocks of three
SCAFFOLD = planned(algorithms.Scaffold())
PIPED = planned(
    algorithms.Scaffold(),
    pipeline=[pipeline.AdaptiveClip(start=0.5), pipeline.Quantize(8, range=1.0, feedback=True)],
    sampling=sampling.Uniform(fraction=0.6),
    cap=6,
)


@pytest.mark.parametrize(
    ("kind", "engine"),
    [
        (kind, engine)
        for kind in ALGORITHMS
        for engine in ("loop", "matrix", "fused")
        if engine != "fused" or not kind().modifies_gradient
    ],
)
def test_a_rerun(kind, engine):
    plan = planned(kind(), sampling=sampling.Uniform(count=4))
    one, two = (trained(plan, people(), engine=engine, together=6) for _ in range(2))
    assert same_bits(one, two)


def test_another_seed_is_another_run():
    other = planned(algorithms.Scaffold(), seed=1)
    assert not same_bits(trained(SCAFFOLD, people()), trained(other, people()))


@pytest.mark.parametrize("plan", [SCAFFOLD, PIPED], ids=["plain", "piped"])
@pytest.mark.parametrize("engine", ["loop", "matrix"])
def test_one_worker_or_many(plan, engine):
    population = people(MANY).shared()
    alone = trained(plan, population, engine=engine, together=6)
    for workers in (1, 2, 3):
        pickled = pickle.dumps(plan, protocol=5)
        pool = Pool(pickled, engine, population, start(plan).sent(), workers)
        try:
            found = trained(plan, population, engine=engine, together=6, executor=pool)
        finally:
            pool.close()
        assert same_bits(found, alone), f"{workers} workers give other bits than none"


@settings(deadline=None, max_examples=25)
@given(clients=st.integers(1, 80), pieces=st.integers(1, 80))
def test_however_the_cohort_is_cut(clients, pieces):
    population = people(clients)
    whole = trained(PIPED, population, rounds=2, together=clients)
    size = block_size(clients) * pieces
    assert same_bits(trained(PIPED, population, rounds=2, together=size), whole)


def test_rows_in_memory_or_loaded_when_needed():
    lazy = Population.lazy(range(MANY), load_client, [3 + k % 5 for k in range(MANY)])
    for engine in ("loop", "matrix"):
        one = trained(PIPED, people(MANY), engine=engine, together=6)
        assert same_bits(trained(PIPED, lazy, engine=engine, together=6), one)


def noon():
    return 0.0


@pytest.mark.parametrize("workers", [1, 2])
def test_from_the_front_door(tmp_path, workers):
    runs = [
        muster.simulate(PIPED, people(MANY), path=tmp_path / str(i), workers=w, clock=noon)
        for i, w in enumerate((None, workers))
    ]
    assert runs[0].parameters.tobytes() == runs[1].parameters.tobytes()
    assert runs[0].history == runs[1].history
