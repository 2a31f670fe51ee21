# SPDX-License-Identifier: Apache-2.0
"""R²: which share of the targets' variance a model explains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from muster.metrics.error import gaps
from muster.metrics.metric import Metric, Sums

__all__ = ["R2"]


@dataclass(frozen=True)
class R2(Metric):
    """1 − Σ(y − z)² / Σ(y − ȳ)² of each output by itself, then averaged over the outputs.

    ȳ is the mean over all rows that are added up, so sums of several clients give the R² of all
    their rows. As scikit-learn's `r2_score`, except that targets that are all the same have no
    value (NaN) instead of 0 or 1. The variance is Σy² − (Σy)²/n in float64: centre targets whose
    mean is a million times their spread.

    >>> R2().value(R2().sums(np.array([[1.0], [2.0], [4.0]]), np.array([1.0, 2.0, 3.0])))
    0.5
    """

    name = "r2"
    lower_is_better = False
    rows_of = "numbers"

    def sums(self, outputs: Any, y: Any) -> Sums:
        """Sum by output `(outputs,)` the squared errors, y and y²; and count the rows."""
        gap = gaps(outputs, y)
        y = np.asarray(y, np.float64).reshape(gap.shape)
        parts = {"errors": np.square(gap), "y": y, "squares": np.square(y)}
        return {name: part.sum(0) for name, part in parts.items()} | {"rows": len(y)}

    def value(self, sums: Sums) -> float:
        """Return 1 − errors / (squares − y² / rows), averaged."""
        squares, y = np.asarray(sums["squares"]), np.asarray(sums["y"])
        spread = squares - y * y / sums["rows"]
        noise = 8 * np.finfo(np.float64).eps * squares  # of the difference: no spread at all
        known = spread > noise
        if not known.all():
            return float("nan")
        return float((1 - np.asarray(sums["errors"]) / spread).mean())
