# SPDX-License-Identifier: Apache-2.0
"""Law 1: the same plan, seed and engine give the same bits, whoever does the work."""

import pickle
from dataclasses import replace

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
from muster.aggregation import Mean
from muster.aggregation.sums import block_size
from muster.rounds import start
from muster.simulation import LocalExecutor, Pool

MANY = 70  # clients: blocks of three
SCAFFOLD = planned(algorithms.Scaffold())
PIPED = planned(
    algorithms.Scaffold(),
    pipeline=[pipeline.AdaptiveClip(start=0.5), pipeline.Quantize(8, range=1.0, feedback=True)],
    sampling=sampling.Uniform(fraction=0.6),
    cap=6,
)
FIXED = replace(SCAFFOLD, aggregation=Mean(sum="fixed"))


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


@pytest.mark.parametrize("plan", [SCAFFOLD, PIPED, FIXED], ids=["plain", "piped", "fixed"])
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


@settings(deadline=None, max_examples=10)
@given(clients=st.integers(1, 80), together=st.integers(1, 90))
def test_in_fixed_point_whatever_trains_together(clients, together):
    """Groups that are no whole blocks, which is all that moves a bit where sums are of floats."""
    plan, population = replace(FIXED, sampling=sampling.All(), dtype="float32"), people(clients)
    engine = "loop"  # one gradient after the other: no matrix product of another shape
    whole = trained(plan, population, rounds=2, engine=engine, together=clients)
    executor = Regrouped(plan, engine, population, together)
    assert same_bits(trained(plan, population, rounds=2, engine=engine, executor=executor), whole)


class Regrouped(LocalExecutor):
    """Trains pieces of any size, the last first."""

    def __init__(self, plan, engine, population, together):
        super().__init__(plan, engine, population)
        self.together = together

    def perform(self, sent, pieces):
        whole = list(pieces)
        clients = [c for piece in whole for c in piece.clients]
        cut = [set(clients[i : i + self.together]) for i in range(0, len(clients), self.together)]
        groups = []
        for group in cut:
            for piece in whole:
                left = piece.without(set(piece.clients) - group)
                groups += [left] if left.clients else []
        yield from super().perform(sent, reversed(groups))


def test_floats_in_such_groups_have_other_bits():
    """The test above has power."""
    plan, population = replace(SCAFFOLD, dtype="float32"), people(70)
    whole = trained(plan, population, engine="loop", together=70)
    executor = Regrouped(plan, "loop", population, 7)
    assert not same_bits(trained(plan, population, engine="loop", executor=executor), whole)


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
