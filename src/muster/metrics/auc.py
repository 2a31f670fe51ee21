# SPDX-License-Identifier: Apache-2.0
"""AUC of two classes, from counts in bins of the probability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from muster.errors import PlanError
from muster.metrics.metric import Metric, Needs, Sums

__all__ = ["AUC"]

MOST = 500


@dataclass(frozen=True)
class AUC(Metric):
    """Area under the ROC curve: how often a row of class 1 is given more than one of class 0.

    Rows are counted in so many equal `bins` of the probability of class 1, and two rows in one bin
    count as tied: a half. So it differs from the area over single rows by at most half the share
    of pairs that share a bin; with one bin for each probability that occurs it is the same. NaN
    where one of the classes is missing. Source: Hanley and McNeil 1982; deviation: the bins.

    >>> sums = AUC().sums(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 1]))
    >>> AUC().value(sums)
    1.0
    """

    bins: int = 100
    name = "auc"
    lower_is_better = False
    needs: ClassVar[Needs] = "probabilities"
    rows_of = "classes"

    def __post_init__(self) -> None:
        if not isinstance(self.bins, int) or not 2 <= self.bins <= MOST:
            raise PlanError(f"{self}: bins must be a whole number from 2 to {MOST}, such as 100")

    def sums(self, outputs: Any, y: Any) -> Sums:
        """Count the rows of class 0 and of class 1 in each bin `(bins,)`."""
        if outputs.shape[-1] != 2:
            raise PlanError(
                f"{self} is of two classes, and the model has {outputs.shape[-1]}; use "
                f"F1('macro'), or a metric of your own"
            )
        place = np.fmin(np.fmax(outputs[:, 1] * self.bins, 0), self.bins - 1).astype(np.intp)
        place += self.bins * (np.asarray(y) > 0)  # the rows of class 1 behind those of class 0
        counts = np.bincount(place, minlength=2 * self.bins)
        return {"zeros": counts[: self.bins], "ones": counts[self.bins :]}

    def value(self, sums: Sums) -> float:
        """Return Σ over bins of ones · (zeros below + half the zeros beside), by pair."""
        zeros, ones = np.asarray(sums["zeros"], float), np.asarray(sums["ones"], float)
        pairs = zeros.sum() * ones.sum()
        below = np.cumsum(zeros) - zeros
        return float((ones * (below + zeros / 2)).sum() / pairs) if pairs else float("nan")
