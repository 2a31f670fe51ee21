# SPDX-License-Identifier: Apache-2.0
"""A plan without local work: least squares, one step on one row a site, any number of parameters.

`MUSTER_BENCH_PARAMETERS` (a square), `_SITES` and `_ROUNDS` come with the environment, so that a
server and its sites read the same plan. One step is a few passes over the vector, beside those of
any client: copy, gradient, difference. Targets stay far away, so that updates stay large and
their floats random: nothing of them compresses.
"""

import os

import numpy as np

import muster
from muster import algorithms, optimizers, tasks

__all__ = ["plan", "population"]

PARAMETERS, SITES, ROUNDS = (
    int(os.environ.get(f"MUSTER_BENCH_{name}", default))
    for name, default in (("PARAMETERS", 2500), ("SITES", 2), ("ROUNDS", 10))
)
WIDE = round(PARAMETERS**0.5)

plan = muster.Plan(
    task=tasks.numpy.LinearRegression(WIDE - 1, WIDE),
    algorithm=algorithms.FedAvg(),
    local=muster.Local(steps=1, batch=None, optimizer=optimizers.SGD(0.01)),
    evaluate=muster.Every(1, clients=0),
    rounds=ROUNDS,
)


def row(client: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the one row of a site."""
    draw = np.random.default_rng([20240, client])
    x = draw.standard_normal((1, WIDE - 1), dtype=np.float32)
    return x, 100 * draw.standard_normal((1, WIDE), dtype=np.float32)


def population() -> muster.Population:
    """Return all sites; each loads its own row."""
    return muster.Population.lazy(range(SITES), row, sizes=1)
