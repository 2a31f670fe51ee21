# SPDX-License-Identifier: Apache-2.0
"""A plan of `MUSTER_BENCH_PARAMETERS` numbers (a square) whose training costs next to nothing.

Least squares, one step on one row, as in `network_plan`; here the site reads its row from a path,
clients and server evaluate in every round, and `MUSTER_BENCH_KIND` says what is different:
"masked" sums, "noised" updates, or the same model in "torch".
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import muster
from muster import algorithms, metrics, optimizers, pipeline, tasks

__all__ = ["evaluate_on", "local_data", "plan"]

PARAMETERS, ROUNDS = (
    int(os.environ.get(f"MUSTER_BENCH_{name}", default))
    for name, default in (("PARAMETERS", 2500), ("ROUNDS", 2))
)
KIND = os.environ.get("MUSTER_BENCH_KIND", "plain")
WIDE = round(PARAMETERS**0.5)

STAGES: dict[str, tuple[pipeline.Stage, ...]] = {
    "masked": (pipeline.Clip(1.0), pipeline.Quantize(16), pipeline.SecureSum()),
    "noised": (pipeline.Clip(1.0), pipeline.LocalNoise(1.0, 1e-5)),
}


@dataclass(frozen=True)
class Off(metrics.Metric):
    """The mean distance from what is wanted: one sum, however many outputs a row has."""

    lower_is_better = True
    name = "off"

    def sums(self, outputs: Any, y: Any) -> dict[str, Any]:
        """Return the sums over rows."""
        return {"off": np.abs(outputs - y).mean(1).sum(), "rows": len(y)}

    def value(self, sums: dict[str, Any]) -> Any:
        """Return the mean over rows."""
        return sums["off"] / sums["rows"]


def task() -> muster.types.Task:
    """Return the model: a matrix and a bias."""
    if KIND != "torch":
        return tasks.numpy.LinearRegression(WIDE - 1, WIDE)
    from torch import nn

    return tasks.torch.Regressor(lambda: nn.Linear(WIDE - 1, WIDE))


plan = muster.Plan(
    task=task(),
    algorithm=algorithms.FedAvg(),
    local=muster.Local(steps=1, batch=None, optimizer=optimizers.SGD(0.01)),
    pipeline=STAGES.get(KIND, ()),
    weighting="equal",
    metrics=(Off(),),
    evaluate=muster.Every(1, clients=0 if KIND == "masked" else 100),
    rounds=ROUNDS,
)


def local_data(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the one row of a site; the path is only asked to be there."""
    path.stat()
    draw = np.random.default_rng(20240)
    x = draw.standard_normal((1, WIDE - 1), dtype=np.float32)
    return x, 100 * draw.standard_normal((1, WIDE), dtype=np.float32)


def evaluate_on() -> tuple[np.ndarray, np.ndarray]:
    """Return the same row, of the server's."""
    return local_data(Path(__file__))
