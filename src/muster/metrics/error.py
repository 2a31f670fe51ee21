# SPDX-License-Identifier: Apache-2.0
"""Errors of numbers: their mean size, and the root of their mean square."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from muster.metrics.metric import Metric, Sums

__all__ = ["MAE", "RMSE", "gaps"]


@dataclass(frozen=True)
class MAE(Metric):
    """Mean absolute error, averaged over the outputs of a row.

    >>> MAE().sums(np.array([[1.0], [3.0]]), np.array([2.0, 3.0]))
    {'sizes': 1.0, 'numbers': 2}
    """

    name = "mae"
    lower_is_better = True
    rows_of = "numbers"

    def sums(self, outputs: Any, y: Any) -> Sums:
        """Sum |outputs − y|, and count them."""
        gap = gaps(outputs, y)
        return {"sizes": float(np.abs(gap).sum()), "numbers": gap.size}

    def value(self, sums: Sums) -> float:
        """Return sizes / numbers."""
        return float(sums["sizes"] / sums["numbers"])


@dataclass(frozen=True)
class RMSE(Metric):
    """Root of the mean squared error: of each output by itself, then averaged over the outputs.

    As scikit-learn's `root_mean_squared_error`.

    >>> RMSE().value(RMSE().sums(np.array([[1.0], [5.0]]), np.array([4.0, 1.0])))
    3.5355339059327378
    """

    name = "rmse"
    lower_is_better = True
    rows_of = "numbers"

    def sums(self, outputs: Any, y: Any) -> Sums:
        """Sum (outputs − y)² by output `(outputs,)`, and count the rows."""
        return {"squares": np.square(gaps(outputs, y)).sum(0), "rows": len(y)}

    def value(self, sums: Sums) -> float:
        """Return the mean of √(squares / rows)."""
        return float(np.sqrt(np.asarray(sums["squares"]) / sums["rows"]).mean())


def gaps(outputs: Any, y: Any) -> Any:
    """Return outputs − y `(rows, outputs)`, in float64."""
    outputs = np.asarray(outputs, np.float64)
    return (outputs - np.asarray(y, np.float64).reshape(outputs.shape)).reshape(len(outputs), -1)
