# SPDX-License-Identifier: Apache-2.0
"""Accuracy: the share of rows whose likeliest class is the right one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from muster.metrics.metric import Metric, Needs, Sums

__all__ = ["Accuracy"]


@dataclass(frozen=True)
class Accuracy(Metric):
    """Share of rows whose predicted label is the true one.

    >>> import numpy as np
    >>> Accuracy().sums(np.array([1, 0, 2]), np.array([1, 1, 2]))
    {'hits': 2, 'rows': 3}
    """

    name = "accuracy"
    lower_is_better = False
    needs: ClassVar[Needs] = "labels"
    rows_of = "classes"
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"hits": (0.0, 1.0), "rows": (0.0, 1.0)}

    def sums(self, outputs: Any, y: Any) -> Sums:
        """Count hits and rows."""
        return {"hits": int((outputs == y).sum()), "rows": len(y)}

    def value(self, sums: Sums) -> float:
        """Return hits / rows."""
        return float(sums["hits"] / sums["rows"])
