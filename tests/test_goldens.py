# SPDX-License-Identifier: Apache-2.0
"""The seed-free golden numbers: trajectories on synthetic(1, 1), and heart disease in full batches.

Tolerances follow how far a trajectory amplifies rounding: equally correct programs that add in
another order end SCAFFOLD's fiftieth round anywhere in a band.
"""

from functools import cache

import numpy as np
import pytest

import muster
from muster import Every, Local, Plan, Population, algorithms, data
from muster.aggregation import Mean
from muster.errors import DatasetError
from muster.local import Group, train
from muster.optimizers import SGD, Adagrad, Adam, Momentum, Yogi
from muster.rounds import start
from muster.tasks import numpy as tasks
from muster.types import Reply
from muster.vectors import tree_map

ROUNDS = 50
FedAvg = algorithms.FedAvg

# name: algorithm, weighting, losses after rounds 10 and 50, tolerance of round 50 in float64, 32
ROWS = {
    "FedAvg": (FedAvg(), "examples", 1.31721405, 0.83185190, 1e-7, 1e-5),
    "FedAvg equal": (FedAvg(), "equal", 1.60274033, 0.93264794, 1e-5, 1e-2),
    "FedProx": (algorithms.FedProx(1.0), "examples", 1.40813879, 0.88675137, 1e-5, 1e-2),
    "SCAFFOLD": (algorithms.Scaffold(), "equal", 1.00474083, 0.705, 5e-3, 1e-2),
    "FedDyn": (algorithms.FedDyn(0.1), "equal", 0.93410054, 0.71795026, 1e-5, 1e-2),
    "FedAdam": (FedAvg(Adam(0.01)), "examples", 1.30243232, 0.64537721, 1e-7, 1e-4),
    "FedYogi": (FedAvg(Yogi(0.01)), "examples", 1.30734968, 0.65079382, 1e-7, 1e-2),
    "FedAdagrad": (FedAvg(Adagrad(0.01)), "examples", 1.45432045, 1.01919742, 1e-7, 1e-5),
}
UNEQUAL = {
    "FedNova": (algorithms.FedNova(), 1.27084758, 0.85207488, 1e-7, 1e-2),
    "FedAvg": (FedAvg(), 1.31004045, 0.82949382, 1e-7, 1e-5),
}


@cache
def people(dtype):
    drawn = data.synthetic(1, 1).population
    return Population.from_arrays({k: (drawn[k][0].astype(dtype), drawn[k][1]) for k in drawn})


def planned(algorithm, weighting, dtype, steps=10):
    return Plan(
        task=tasks.SoftmaxRegression(60, 10),
        algorithm=algorithm,
        local=Local(steps=steps, optimizer=SGD(0.05)),
        weighting=weighting,
        rounds=ROUNDS,
        dtype=dtype,
        evaluate=Every(10, clients=0),
    )


def agree(tenth, fiftieth, golden, dtype):
    r10, r50, double, single = golden
    assert tenth == pytest.approx(r10, abs=1e-7 if dtype == "float64" else 1e-5, rel=0)
    assert fiftieth == pytest.approx(r50, abs=double if dtype == "float64" else single, rel=0)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", ROWS)
def test_trajectories(name, dtype, tmp_path):
    algorithm, weighting, *golden = ROWS[name]
    population = people(dtype)
    run = muster.simulate(
        planned(algorithm, weighting, dtype), population, population.pooled(), path=tmp_path
    )
    tenth, fiftieth = (run.history[r - 1]["metrics"]["loss"] for r in (10, ROUNDS))
    agree(tenth, fiftieth, golden, dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", UNEQUAL)
def test_trajectories_with_unequal_steps(name, dtype):
    algorithm, *golden = UNEQUAL[name]
    losses = unequal_losses(algorithm, dtype, [10, ROUNDS])
    agree(*losses, golden, dtype)


def unequal_losses(algorithm, dtype, wanted):
    """Client k takes 5 + 5 (k mod 5) steps: each trains under a plan with its own step count."""
    population = people(dtype)
    plans = {k: planned(algorithm, "examples", dtype, 5 + 5 * (k % 5)) for k in population}
    state, losses = start(plans[0]), []
    for round in range(1, max(wanted) + 1):
        replies = [
            trained(plans[k], population, k, state.sent(), round) for k in population.clients
        ]
        total = Mean().reduce(replies, population.clients)
        mean = tree_map(lambda field, total=total: field / total.weight, total.payload)
        new = algorithm.step(state.algorithm, algorithm.payload(**mean), 1.0)
        state = state._replace(algorithm=new)
        if round in wanted:
            losses.append(loss(plans[0].task, new.shared.x, *population.pooled()))
    return losses


def trained(plan, population, client, sent, round):
    x, y = population[client]
    group = Group((client,), (1,), x, y, np.zeros(1, np.int64), np.array([len(x)]))
    outcome = train(plan, "loop", round, sent, group)
    payload = {name: rows[0] for name, rows in outcome.payload.items()}
    return Reply((client,), payload, float(outcome.weights[0]), {}, outcome.buffers[0])


def loss(task, x, *rows):
    sums = task.evaluate(x, None, *rows)
    return sums["loss"] / sums["rows"]


def test_momentum_without_beta_has_the_trajectory_of_fedavg(tmp_path):
    population = people("float64")
    plan = planned(FedAvg(Momentum(1.0, beta=0.0)), "examples", "float64")
    run = muster.simulate(plan, population, population.pooled(), path=tmp_path)
    assert run.history[-1]["metrics"]["loss"] == pytest.approx(0.83185190, abs=1e-7, rel=0)


def hospitals(dtype="float64"):
    try:
        return data.heart_disease(dtype=dtype)
    except DatasetError as absent:
        pytest.skip(str(absent).splitlines()[0])


@pytest.mark.parametrize(
    ("steps", "rate", "rounds", "norm", "accuracy"),
    [(1, 0.5, 200, 1.29441959, None), (20, 0.1, 100, 1.30464404, (0.75, 0.7416, 0.75, 0.60))],
)
def test_heart_disease_in_full_batches(tmp_path, steps, rate, rounds, norm, accuracy):
    population, test = hospitals()
    plan = Plan(
        task=tasks.LogisticRegression(13),
        algorithm=FedAvg(),
        local=Local(steps=steps, optimizer=SGD(rate)),
        rounds=rounds,
        dtype="float64",
        evaluate=Every(rounds),
    )
    run = muster.simulate(plan, population, test, path=tmp_path)
    assert float(np.linalg.norm(run.parameters)) == pytest.approx(norm, abs=1e-7, rel=0)
    if accuracy:
        each = dict(run.history[-1]["clients"]["each"])
        found = [each[site]["accuracy"] for site in sorted(each)]
        assert found == pytest.approx(accuracy, abs=1e-4)
