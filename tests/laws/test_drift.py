# SPDX-License-Identifier: Apache-2.0
"""Client drift in closed form: FedAvg stops beside the optimum of quadratics, SCAFFOLD on it."""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest

import muster
from muster import Every, Local, Plan, Population, algorithms
from muster.batches import fold
from muster.layout import Layout, TensorEntry
from muster.metrics.head import OutputHead
from muster.optimizers import SGD
from muster.types import TaskTraits

RATE, DIMENSION = 0.5, 5


@dataclass(frozen=True)
class Quadratic:
    """F_k(w) = ½ (w − c)' H (w − c); a client's one row is [H | c], `(5, 6)`."""

    dtype: str = "float64"
    framework = "numpy"
    traits = TaskTraits()
    head = OutputHead("none")
    draws = False
    engines = ("matrix", "loop")

    @property
    def layout(self):
        return Layout((TensorEntry("w", (DIMENSION,)),), self.dtype)

    def astype(self, dtype):
        return replace(self, dtype=dtype)

    def init(self, key):
        return np.zeros(DIMENSION, self.dtype), np.zeros(0, self.dtype)

    def check(self, x, y):
        pass

    def flops(self, batch):
        return 2.0 * batch * DIMENSION**2

    def arrays(self, tree):
        return tree

    numpy = arrays

    def gradient(self, w, buffers, batch):
        x = batch.x[..., 0, :, :]
        off = w - x[..., 5]
        g = (x[..., :5] @ off[..., None])[..., 0]
        return g, (off * g).sum(-1) / 2, buffers

    def loop(self, step, carry, batches):
        return fold(step, carry, batches)

    def run(self, descent, given, carry, batches):
        return descent.walk(given, carry, batches)

    def evaluate(self, w, buffers, x, y):
        off = w - x[..., 5]
        return {
            "rows": float(len(x)),
            "loss": float(np.einsum("ki,kij,kj", off, x[..., :5], off) / 2),
        }


@cache
def problem():
    draw = np.random.Generator(np.random.PCG64(31))
    rows = []
    for k in range(10):
        q = np.linalg.qr(draw.normal(size=(5, 5)))[0]
        e = np.exp(draw.uniform(np.log(0.1), np.log(1), 5)) * (0.1 if k % 2 == 0 else 1)
        rows.append(np.column_stack([q @ np.diag(e) @ q.T, draw.normal(0, 5, 5)]))
    return np.array(rows)


def excess(x):
    """f − f*, f the mean over clients."""
    rows = problem()
    h, c = rows[..., :5], rows[..., 5]
    best = np.linalg.solve(h.sum(0), np.einsum("kij,kj->i", h, c))

    def f(w):
        return np.einsum("ki,kij,kj", w - c, h, w - c) / 20

    assert f(best) == pytest.approx(15.5109528754, abs=1e-9, rel=0)
    return f(x) - f(best)


def limit(steps):
    """Where FedAvg stops: (Σ M_k)⁻¹ Σ M_k c_k with M_k = I − (I − rate H_k)^K."""
    rows = problem()
    m = [np.eye(5) - np.linalg.matrix_power(np.eye(5) - RATE * r[:, :5], steps) for r in rows]
    right = sum(part @ r[:, 5] for part, r in zip(m, rows, strict=True))
    return np.linalg.solve(np.sum(m, 0), right)


def trained(algorithm, steps, rounds, path, resume=False):
    population = Population.from_arrays(
        {k: (r[None], np.zeros(1)) for k, r in enumerate(problem())}
    )
    plan = Plan(
        task=Quadratic(),
        algorithm=algorithm,
        local=Local(steps=steps, optimizer=SGD(RATE)),
        weighting="equal",
        rounds=rounds,
        dtype="float64",
        evaluate=Every(rounds, clients=0),
    )
    return muster.simulate(plan, population, path=path, resume=resume).parameters


@pytest.mark.parametrize(("steps", "golden"), [(10, 0.343696998), (100, 0.826985642)])
def test_fedavg_stops_at_the_closed_form(steps, golden, tmp_path):
    x = trained(algorithms.FedAvg(), steps, 200, tmp_path)
    np.testing.assert_allclose(x, limit(steps), rtol=0, atol=1e-9)
    assert excess(x) == pytest.approx(golden, abs=1e-9, rel=0)


@pytest.mark.parametrize(
    ("steps", "goldens"),
    [
        (10, {10: 5.19e-4, 50: 0.0}),
        (100, {10: 0.280, 50: 1.76e-2, 100: 7.30e-4, 200: 1.72e-6}),
    ],
)
def test_scaffold_reaches_the_optimum(steps, goldens, tmp_path):
    for rounds, golden in goldens.items():
        x = trained(algorithms.Scaffold(), steps, rounds, tmp_path, resume=rounds > 10)
        assert excess(x) == pytest.approx(golden, rel=5e-3, abs=1e-12)


def test_scaffold_ends_exactly(tmp_path):
    assert excess(trained(algorithms.Scaffold(), 100, 500, tmp_path)) < 1e-12


def test_with_one_step_all_are_gradient_descent(tmp_path):
    rows, w = problem(), np.zeros(5)
    for _ in range(20):
        w = w - RATE * np.mean([r[:, :5] @ (w - r[:, 5]) for r in rows], 0)
    for algorithm in (algorithms.FedAvg(), algorithms.Scaffold(), algorithms.FedNova()):
        x = trained(algorithm, 1, 20, tmp_path / type(algorithm).__name__)
        np.testing.assert_allclose(x, w, rtol=0, atol=1e-12)
