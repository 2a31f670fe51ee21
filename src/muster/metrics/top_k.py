# SPDX-License-Identifier: Apache-2.0
"""Top-k accuracy: the share of rows whose class is among the k likeliest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from muster.errors import PlanError
from muster.metrics.metric import Metric, Sums

__all__ = ["TopK"]


@dataclass(frozen=True)
class TopK(Metric):
    """Share of rows whose true class is among the k with the largest outputs; "top 5" for k = 5.

    Of classes with equal outputs at the edge, those that are not the true one come first, so that
    a model with equal outputs for all has no hits.

    >>> TopK(2).sums(np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]]), np.array([1, 2]))
    {'hits': 1, 'rows': 2}
    """

    k: int = 5
    lower_is_better = False
    rows_of = "classes"
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"hits": (0.0, 1.0), "rows": (0.0, 1.0)}

    def __post_init__(self) -> None:
        if not isinstance(self.k, int) or self.k < 1:
            raise PlanError(f"{self}: k must be a whole number above 0; give one such as 5")

    @property
    def name(self) -> str:
        """The name: "top 5" for k = 5."""
        return f"top {self.k}"

    def sums(self, outputs: Any, y: Any) -> Sums:
        """Count hits and rows."""
        y = np.asarray(y).astype(np.intp)
        own = np.take_along_axis(outputs, y[:, None], 1)
        before = (outputs >= own).sum(1) - 1  # that are not the own one, which is no less
        return {"hits": int((before < self.k).sum()), "rows": len(y)}

    def value(self, sums: Sums) -> float:
        """Return hits / rows."""
        return float(sums["hits"] / sums["rows"])
