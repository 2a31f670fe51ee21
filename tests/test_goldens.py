# SPDX-License-Identifier: Apache-2.0
"""The golden numbers: trajectories on synthetic(1, 1), four hospitals, Fashion-MNIST.

Tolerances follow how far a trajectory amplifies rounding: equally correct programs that add in
another order end SCAFFOLD's fiftieth round anywhere in a band.
"""

import importlib
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

import muster
from muster import Every, Local, Plan, Population, algorithms, data
from muster.aggregation import Mean
from muster.data.datasets import fetch, images
from muster.errors import DatasetError, MissingExtra
from muster.extras import require
from muster.local import Group, train
from muster.metrics import ByRow
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
    "FedDyn": (algorithms.FedDyn(0.1), "equal", 0.93410054, 0.71795026, 1e-5, 5e-2),
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
    tenth, fiftieth = (run.history[r]["metrics"]["loss"] for r in (10, ROUNDS))
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


def found(load, **options):
    try:
        return load(**options)
    except (DatasetError, MissingExtra) as absent:
        pytest.skip(str(absent).splitlines()[0])


def site_accuracies(run):
    each = dict(run.history[-1]["clients"]["each"])
    return np.array([each[site]["accuracy"] for site in sorted(each)])


@pytest.mark.parametrize(
    ("steps", "rate", "rounds", "norm", "accuracy"),
    [(1, 0.5, 200, 1.29441959, None), (20, 0.1, 100, 1.30464404, (0.75, 0.7416, 0.75, 0.60))],
)
def test_heart_disease_in_full_batches(tmp_path, steps, rate, rounds, norm, accuracy):
    population, test = found(data.heart_disease, dtype="float64")
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
        assert site_accuracies(run) == pytest.approx(accuracy, abs=1e-4)


@dataclass(frozen=True)
class Started:
    """FLamby's model as it starts under a seed: torch draws it."""

    seed: int

    def __call__(self):
        torch = require("torch", extra="torch")
        torch.manual_seed(self.seed)
        return torch.nn.Linear(13, 1)


def logistic(output, y):
    functional = require("torch.nn.functional", extra="torch")
    labels = y.to(output.dtype)
    return functional.binary_cross_entropy_with_logits(output[:, 0], labels, reduction="none")


def accuracy(output, y):
    return (output[:, 0] > 0) == (y > 0)


# FLamby's FedAdagrad keeps momentum (beta1 = .9), which is why its row equals FedYogi's.
HOSPITALS = {
    "FedAvg": (SGD(1.0), 0.001, (0.7308, 0.7191, 0.6500, 0.6400)),
    "FedAdam": (Adam(0.01, 0.9, 0.999, 1e-8), 0.01, (0.7519, 0.7461, 0.7375, 0.6667)),
    "FedAdagrad": (Adagrad(0.316228, 1e-8, 0.9), 0.003162, (0.7596, 0.7528, 0.7375, 0.6756)),
    "FedYogi": (Yogi(0.01, 0.9, 0.999, 1e-8), 0.003162, (0.7596, 0.7528, 0.7375, 0.6756)),
}


@pytest.mark.parametrize("name", HOSPITALS)
def test_the_four_hospital_table_within_one_test_row(name, tmp_path):
    server, rate, published = HOSPITALS[name]
    population, test = found(data.heart_disease)
    try:
        room = importlib.import_module("muster.tasks.torch")
    except MissingExtra as missing:
        pytest.skip(str(missing))
    rows = []
    for seed in range(42, 47):
        plan = Plan(
            task=room.Model(Started(seed), logistic),
            metrics=[ByRow(accuracy, lower_is_better=False)],
            algorithm=FedAvg(server=server),
            local=Local(steps=100, batch=4, optimizer=SGD(rate)),
            rounds=15,
            seed=seed,
            evaluate=Every(15),
        )
        run = muster.simulate(plan, population, test, path=tmp_path / str(seed))
        rows.append(site_accuracies(run))
    one_row = np.array([1 / len(population.test(site)[0]) for site in population.clients])
    off = np.abs(np.mean(rows, 0) - published) / one_row
    assert off.max() <= 1, f"{np.mean(rows, 0).round(4)} is {off.round(2)} test rows off"


@pytest.mark.slow
def test_fashion_mnist_by_the_2nn(tmp_path):
    if fetch.found(images._FASHION_NPZ) is None:  # a test downloads nothing
        pytest.skip("fashion_mnist.npz is not in $MUSTER_DATA")
    population, test = data.fashion_mnist()
    plan = Plan(
        task=tasks.MLP([784, 200, 200, 10]),
        algorithm=FedAvg(),
        local=Local(epochs=1, batch=10, optimizer=SGD(0.1)),
        sampling=muster.sampling.Uniform(fraction=0.1),
        rounds=50,
        evaluate=Every(10, clients=0),
    )
    run = muster.simulate(plan, population, test, path=tmp_path, workers=1)
    reached = [run.history[r]["metrics"]["accuracy"] for r in (10, 20, 50)]
    assert reached == pytest.approx([0.790, 0.827, 0.847], abs=0.02, rel=0)
