# SPDX-License-Identifier: Apache-2.0
"""The from-scratch example reproduces its golden numbers and says what its docstring says."""

import ast
from pathlib import Path

import numpy as np
import pytest

import fedavg_from_scratch as scratch
import muster
from muster import Local, Plan, algorithms, optimizers, tasks

SIZES = [362, 309, 169, 335, 186]
OPTIMUM = 0.3846179458


def gradient(w, client):
    return client.x.T @ (scratch.sigmoid(client.x @ w) - client.y)


def test_client_sizes():
    assert [len(client.y) for client in scratch.make_clients()] == SIZES


@pytest.mark.parametrize(
    ("train", "first", "twentieth"),
    [
        (scratch.fedavg, 0.6413703048, 0.4188011240),
        (scratch.fedsgd, 0.6388209528, 0.4171994602),
    ],
)
def test_losses(train, first, twentieth):
    _, losses = train(20)
    assert len(losses) == 20
    assert losses[0] == pytest.approx(first, abs=1e-9, rel=0)
    assert losses[19] == pytest.approx(twentieth, abs=1e-9, rel=0)


def planned(algorithm, steps, rate):
    return Plan(
        task=tasks.numpy.LogisticRegression(3),
        algorithm=algorithm,
        local=Local(steps=steps, optimizer=optimizers.SGD(rate)),
        rounds=20,
        dtype="float64",
    )


@pytest.mark.parametrize("engine", ["loop", "matrix", "fused"])
@pytest.mark.parametrize(
    ("train", "plan"),
    [
        (scratch.fedavg, planned(algorithms.FedAvg(), 5, 0.1)),
        (scratch.fedsgd, planned(algorithms.FedSGD(optimizers.SGD(0.5)), 1, 0.1)),
    ],
    ids=["FedAvg", "FedSGD"],
)
def test_the_library_says_the_same(train, plan, engine, tmp_path):
    rows = {k: (client.x[:, :3], client.y) for k, client in enumerate(scratch.make_clients())}
    population = muster.Population.from_arrays(rows)
    run = muster.simulate(plan, population, population.pooled(), path=tmp_path, engine=engine)
    w, losses = train(20)
    np.testing.assert_allclose(run.parameters, w, rtol=0, atol=1e-12)
    found = [record["metrics"]["loss"] for record in run.trained]
    np.testing.assert_allclose(found, losses, rtol=0, atol=1e-12)


def test_more_rounds_reach_the_pooled_optimum():
    w, losses = scratch.fedsgd(200, rate=2.0)
    assert losses[-1] == pytest.approx(OPTIMUM, abs=1e-9, rel=0)
    pooled = sum(gradient(w, client) for client in scratch.make_clients())
    np.testing.assert_allclose(pooled / sum(SIZES), 0, atol=1e-5)


def test_one_step_is_pooled_gradient_descent():
    clients = scratch.make_clients()
    w = np.zeros(4)
    for _ in range(3):
        w = w - 0.5 * sum(gradient(w, client) for client in clients) / sum(SIZES)
    np.testing.assert_allclose(scratch.fedsgd(3)[0], w, rtol=0, atol=1e-12)


def test_average_counts_rows_not_clients():
    updates = [np.array([0.0]), np.array([3.0])]
    assert scratch.weighted_average(updates, [2, 1]) == pytest.approx([1.0])


def test_an_update_leaves_the_shared_model_alone():
    w = np.zeros(4)
    scratch.client_update(w, scratch.make_clients()[0], steps=2, rate=0.1)
    assert not w.any()


def test_a_run_is_a_function_of_nothing_else():
    assert scratch.fedavg(3)[1] == scratch.fedavg(3)[1]


def test_it_prints_one_line_per_round(capsys):
    scratch.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 21
    assert lines[20].split() == ["20", "0.418801", "0.417199"]


def test_it_needs_numpy_alone():
    tree = ast.parse(Path(scratch.__file__).read_text(encoding="utf-8"))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert modules == {"numpy", "numpy.typing", "typing"}
