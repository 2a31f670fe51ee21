# SPDX-License-Identifier: Apache-2.0
"""Law 6: the model is a function of the plan and of who was invited and accepted."""

import numpy as np
import pytest
from tests.laws.setting import FEATURES, load_client, people, planned

import muster
from muster import Population, algorithms, pipeline, sampling
from muster.errors import ClientError, RunError
from muster.runs.replay import replay
from muster.store import SQLiteStore

ROUNDS = 6
ILL = 3  # the client whose numbers overflow
PLANS = {
    "plain": planned(rounds=ROUNDS),
    "sampled": planned(
        algorithms.Scaffold(), sampling=sampling.Uniform(fraction=0.5), rounds=ROUNDS
    ),
    "drawn with repeats": planned(
        sampling=sampling.Weighted(count=5), weighting="equal", rounds=ROUNDS
    ),
    "empty cohorts": planned(
        algorithms.FedDyn(), sampling=sampling.Poisson(rate=0.15), rounds=ROUNDS
    ),
    "piped": planned(
        algorithms.Scaffold(),
        pipeline=[pipeline.AdaptiveClip(), pipeline.Quantize(6, range=1.0, feedback=True)],
        sampling=sampling.Uniform(count=4),
        cap=6,
        rounds=ROUNDS,
    ),
    "partly shared": planned(algorithms.Scaffold(), share="!bias", rounds=ROUNDS),
}


def with_an_ill_client(clients=9):
    rows = {k: load_client(k) for k in range(clients)}
    rows[ILL] = (np.full((4, FEATURES), 1e200), np.arange(4) % 2)  # no model fits both labels
    return Population.from_arrays(rows)


@pytest.mark.parametrize("name", PLANS)
def test_any_run(name, tmp_path):
    run = muster.simulate(PLANS[name], people(9), path=tmp_path)
    found = replay(tmp_path, PLANS[name], people(9))
    assert (found.rounds, found.identical, found.differs) == (ROUNDS, True, None)
    assert [record["round"] for record in run.trained] == list(range(1, ROUNDS + 1))


@pytest.mark.parametrize("engine", ["loop", "matrix"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_without_those_who_failed(engine, workers, tmp_path):
    plan, population = PLANS["sampled"], with_an_ill_client()
    run = muster.simulate(
        plan, population, path=tmp_path, lenient=True, engine=engine, workers=workers
    )
    failed = [r["round"] for r in run.trained if r.get("failed")]
    assert failed
    assert all(ILL not in r["accepted"] for r in run.trained)
    assert np.isfinite(run.parameters).all()
    assert replay(tmp_path, plan, population).identical


def test_a_run_with_abandoned_rounds(tmp_path):
    plan = planned(
        algorithms.Scaffold(), sampling=sampling.Uniform(count=4), minimum=4, rounds=ROUNDS
    )
    population = with_an_ill_client(6)
    run = muster.simulate(plan, population, path=tmp_path, lenient=True)
    abandoned = [r["round"] for r in run.trained if r["abandoned"]]
    assert 0 < len(abandoned) < ROUNDS
    assert replay(tmp_path, plan, population).identical


def test_other_data_do_not_replay(tmp_path):
    population = people(9)
    muster.simulate(PLANS["plain"], population, path=tmp_path)
    swapped = Population.from_arrays({k: population[{0: 5, 5: 0}.get(k, k)] for k in range(9)})
    found = replay(tmp_path, PLANS["plain"], swapped)
    assert not found.identical
    assert found.differs == "algorithm.shared.x"


def test_another_plan_does_not_replay(tmp_path):
    muster.simulate(PLANS["plain"], people(9), path=tmp_path)
    with pytest.raises(RunError, match="another plan"):
        replay(tmp_path, planned(algorithms.FedProx(), rounds=ROUNDS), people(9))


class Killed(Exception):
    """Stands for the death of the process."""


LABELS = (
    "commit: begin",
    "commit: between blob and row",
    "commit: before the transaction ends",
    "commit: after the transaction",
    "commit: end",
)


@pytest.mark.parametrize("label", LABELS)
def test_a_run_that_died_and_went_on(label, tmp_path):
    """Real kills are tried where runs are tested; this is the same at labelled points."""
    plan, calls = PLANS["piped"], []

    def at(point):
        calls.append(point)
        if point == label and calls.count(label) == 3:
            raise Killed

    whole = muster.simulate(plan, people(9), path=tmp_path / "whole")
    with pytest.raises(Killed):
        muster.simulate(plan, people(9), path=tmp_path / "died", at=at)
    run = muster.simulate(plan, people(9), path=tmp_path / "died", resume=True)
    assert run.parameters.tobytes() == whole.parameters.tobytes()
    assert [record["round"] for record in run.trained] == list(range(1, ROUNDS + 1))
    assert replay(tmp_path / "died", plan, people(9)).identical
    states = [SQLiteStore(tmp_path / name, readonly=True) for name in ("whole", "died")]
    arrays = [store.latest()[1] for store in states]
    for store in states:
        store.close()
    assert {n: a.tobytes() for n, a in arrays[0].items()} == {
        n: a.tobytes() for n, a in arrays[1].items()
    }


def test_a_failure_that_is_not_forgiven_stops_the_run(tmp_path):
    with pytest.raises(ClientError) as error:
        muster.simulate(PLANS["plain"], with_an_ill_client(), path=tmp_path)
    assert error.value.client == ILL
