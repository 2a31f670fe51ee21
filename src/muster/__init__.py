# SPDX-License-Identifier: Apache-2.0
"""muster: federated learning that loses nothing.

Train one model over many data holders without moving their data:

    run = muster.simulate(plan, population, evaluate_on=(x, y))
"""

import importlib
from typing import TYPE_CHECKING, Any

from muster import (
    aggregation,
    algorithms,
    data,
    errors,
    metrics,
    optimizers,
    pipeline,
    sampling,
    schedules,
    tasks,
)
from muster.data import Population
from muster.local import Local
from muster.plan import EarlyStopping, Every, Keep, Plan, Target
from muster.privacy.per_example import PerExample

if TYPE_CHECKING:
    from muster.runs.drive import Options
    from muster.runs.run import Run
    from muster.runs.simulate import explain, simulate

__version__ = "0.1.0"

__all__ = [
    "EarlyStopping",
    "Every",
    "Keep",
    "Local",
    "Options",
    "PerExample",
    "Plan",
    "Population",
    "Run",
    "Target",
    "aggregation",
    "algorithms",
    "data",
    "errors",
    "explain",
    "metrics",
    "optimizers",
    "pipeline",
    "sampling",
    "schedules",
    "simulate",
    "tasks",
]

LATER = ("Options", "Run", "explain", "simulate")  # they bring the store: NumPy alone until then


def __getattr__(name: str) -> Any:
    if name in LATER:
        return getattr(importlib.import_module("muster.runs"), name)
    raise AttributeError(f"module 'muster' has no attribute {name!r}")
