# SPDX-License-Identifier: Apache-2.0
"""TrimmedMean: in every coordinate the mean without the extremes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from muster.aggregation.middle import middle
from muster.aggregation.robust import RobustAggregator
from muster.errors import PlanError
from muster.types import Tree
from muster.vectors import tree_map

__all__ = ["TrimmedMean"]


@dataclass(frozen=True)
class TrimmedMean(RobustAggregator):
    """The mean of what is left in each coordinate without the `f` lowest and the `f` highest.

    Bears `f` lies among more than 2·f replies. Yin et al. 2018 (arXiv 1803.01498), definition 2,
    with f in place of their fraction β.

    >>> import numpy as np
    >>> TrimmedMean(1).aggregate({"delta": np.array([[1.0], [2.0], [90.0]])})
    {'delta': array([2.])}
    """

    f: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.f, int) or self.f < 0:
            raise PlanError(f"TrimmedMean(f={self.f!r}): a whole number from 0 up is needed")

    @property
    def min_replies(self) -> int:
        """One more than is left out."""
        return 2 * self.f + 1

    def aggregate(self, rows: Tree) -> Any:
        """Return the mean of the middle along the first axis."""
        return tree_map(lambda x: middle(x, self.f), rows)
