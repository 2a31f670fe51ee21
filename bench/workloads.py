# SPDX-License-Identifier: Apache-2.0
"""The common workloads: fixed seeds, no downloads, the same bytes for every contender.

w1    softmax regression, 60 features, 10 classes, 1000 clients × 60 rows, cohort 100
w2    MLP 784-200-200-10, 100 clients × 600 rows, cohort 10, 5 local epochs
w2e1  the same with one local epoch
w3    the CNN of McMahan et al. 2017 (1,663,370 parameters), rows of w2, one epoch, batch 50
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

__all__ = ["WORKLOADS", "Workload", "client_rows", "start_tensors", "test_rows"]

SEED = 20240


@dataclass(frozen=True)
class Workload:
    """One workload: model, federation and local training."""

    name: str
    model: str
    features: int
    clients: int
    rows: int
    cohort: int
    epochs: int
    batch: int
    rate: float


WORKLOADS = {
    "w1": Workload("w1", "softmax", 60, 1000, 60, 100, 1, 10, 0.1),
    "w2": Workload("w2", "mlp", 784, 100, 600, 10, 5, 10, 0.05),
    "w2e1": Workload("w2e1", "mlp", 784, 100, 600, 10, 1, 10, 0.05),
    "w3": Workload("w3", "cnn", 784, 100, 600, 10, 1, 50, 0.05),
}

SHAPES: dict[str, list[tuple[int, ...]]] = {
    "softmax": [(10, 60), (10,)],
    "mlp": [(200, 784), (200,), (200, 200), (200,), (10, 200), (10,)],
    "cnn": [(32, 1, 5, 5), (32,), (64, 32, 5, 5), (64,), (512, 3136), (512,), (10, 512), (10,)],
}


@cache
def _prototypes(features: int) -> Any:
    rng = np.random.default_rng([SEED, 999_999, features])
    return rng.standard_normal((10, features), dtype=np.float32)


def client_rows(w: Workload, client: int) -> tuple[Any, Any]:
    """Return one client's rows: x float32 `(rows, features)`, y int64 `(rows,)`, mildly skewed."""
    rng = np.random.default_rng([SEED, w.features, w.rows, client])
    mix = rng.dirichlet(np.ones(10))
    y = rng.choice(10, size=w.rows, p=mix).astype(np.int64)
    x = rng.standard_normal((w.rows, w.features), dtype=np.float32)
    x += 0.35 * _prototypes(w.features)[y]
    return x, y


def test_rows(w: Workload, n: int = 2000) -> tuple[Any, Any]:
    """Return central test rows."""
    rng = np.random.default_rng([SEED, w.features, 888_888])
    y = rng.integers(0, 10, size=n)
    x = rng.standard_normal((n, w.features), dtype=np.float32)
    x += 0.35 * _prototypes(w.features)[y]
    return x, y.astype(np.int64)


def start_tensors(w: Workload) -> list[Any]:
    """Return the common start: uniform ±1/sqrt(fan-in), zero for the softmax regression."""
    rng = np.random.default_rng([SEED, 666_666])
    tensors, fan_in = [], 1
    for shape in SHAPES[w.model]:
        if w.model == "softmax":
            tensors.append(np.zeros(shape, np.float32))
            continue
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else fan_in
        bound = 1.0 / np.sqrt(fan_in)
        tensors.append(rng.uniform(-bound, bound, shape).astype(np.float32))
    return tensors
