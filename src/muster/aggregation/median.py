# SPDX-License-Identifier: Apache-2.0
"""Median: in every coordinate the middle reply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from muster.aggregation.middle import middle
from muster.aggregation.robust import RobustAggregator
from muster.types import Tree
from muster.vectors import tree_map

__all__ = ["Median"]


@dataclass(frozen=True)
class Median(RobustAggregator):
    """med_i x_i[c] in each coordinate c; of an even number the mean of the middle two.

    Bears fewer than half of the replies being lies. Yin et al. 2018 (arXiv 1803.01498),
    definition 1.

    >>> import numpy as np
    >>> Median().aggregate({"delta": np.array([[1.0], [2.0], [90.0]])})
    {'delta': array([2.])}
    """

    def aggregate(self, rows: Tree) -> Any:
        """Return the median along the first axis."""
        return tree_map(lambda x: middle(x, (len(x) - 1) // 2), rows)
