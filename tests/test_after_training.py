# SPDX-License-Identifier: Apache-2.0
"""After training, as a user of PyTorch would write it: the best model, and those that were kept."""

import pytest

import muster
from muster import algorithms, data, optimizers, tasks

torch = pytest.importorskip("torch")


def make_model():
    return torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))


def test_the_best_model_and_those_that_were_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    population = data.digits(clients=10, alpha=0.5)
    plan = muster.Plan(
        task=tasks.torch.Classifier(make_model),
        algorithm=algorithms.FedAvg(),
        rounds=12,
        local=muster.Local(epochs=1, batch=16, optimizer=optimizers.SGD(0.1)),
        keep=muster.Keep(best="accuracy", every=4),
    )
    run = muster.simulate(plan, population, path="digits")
    x, y = population.test
    assert {0, 4, 8, 12} <= set(run.rounds_kept)
    assert run.best.metrics["accuracy"] >= run.metrics["accuracy"]
    for version in (run.at(0), run.at(4), run.best, run.last):
        said = version.model()(torch.tensor(x)).argmax(1).numpy()
        assert version.metrics["accuracy"] == pytest.approx((said == y).mean(), abs=1e-9)
    assert run.history[0]["metrics"] == run.at(0).metrics  # round 0 is what it started from
    assert run.at(0).metrics["accuracy"] < run.best.metrics["accuracy"]
