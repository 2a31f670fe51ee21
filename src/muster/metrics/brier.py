# SPDX-License-Identifier: Apache-2.0
"""The Brier score: the squared error of probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from muster.metrics.metric import Metric, Needs, Sums

__all__ = ["Brier"]


@dataclass(frozen=True)
class Brier(Metric):
    """Mean of Σ over classes of (p − [class is the label])²; half of it for two classes.

    So it is (p₁ − y)² for two classes, and between 0 and 2 for more, as in scikit-learn's
    `brier_score_loss`. Source: Brier 1950.

    >>> Brier().sums(np.array([[0.25, 0.75]]), np.array([1]))
    {'squares': 0.0625, 'rows': 1}
    """

    name = "brier"
    lower_is_better = True
    needs: ClassVar[Needs] = "probabilities"
    rows_of = "classes"

    def sums(self, outputs: Any, y: Any) -> Sums:
        """Sum squares and count rows."""
        right = np.arange(outputs.shape[-1]) == np.asarray(y)[:, None]
        squares = np.square(outputs - right).sum(dtype=np.float64)
        half = 2 if outputs.shape[-1] == 2 else 1
        return {"squares": float(squares / half), "rows": len(y)}

    def value(self, sums: Sums) -> float:
        """Return squares / rows."""
        return float(sums["squares"] / sums["rows"])
