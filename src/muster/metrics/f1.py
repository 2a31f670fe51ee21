# SPDX-License-Identifier: Apache-2.0
"""F1: the harmonic mean of precision and recall, of one class or over all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from muster.errors import PlanError
from muster.metrics.head import labels_of
from muster.metrics.metric import Metric, Sums

__all__ = ["F1"]

AVERAGES = ("binary", "macro", "micro", "weighted")


@dataclass(frozen=True)
class F1(Metric):
    """2 TP / (2 TP + FP + FN), as scikit-learn's `f1_score`.

    "binary": of class 1 of two; "macro": the mean over the classes that occur, among labels or
    predictions; "weighted": that mean by the rows of each class; "micro": of the counts of all
    classes. `classes` is how many there are, where the task does not say it. Called "f1" for
    "binary", else "f1 macro" and so on.

    >>> outputs, y = np.eye(3)[[0, 1, 1]], np.array([0, 1, 2])
    >>> round(F1("macro").value(F1("macro").sums(outputs, y)), 4)
    0.5556
    """

    average: Literal["binary", "macro", "micro", "weighted"] = "binary"
    classes: int | None = None
    lower_is_better = False
    rows_of = "classes"

    def __post_init__(self) -> None:
        if self.average not in AVERAGES:
            raise PlanError(f"{self}: average must be one of {', '.join(AVERAGES)}")
        if self.classes is not None and (not isinstance(self.classes, int) or self.classes < 2):
            raise PlanError(f"{self}: classes must be a whole number above 1, or left out")

    @property
    def name(self) -> str:
        """The name: "f1", or "f1 macro" and so on."""
        return "f1" if self.average == "binary" else f"f1 {self.average}"

    def sums(self, outputs: Any, y: Any) -> Sums:
        """Count by class `(classes,)` the rows that are hit, predicted and held."""
        found = labels_of(outputs)
        count = max(2, outputs.shape[-1])
        if self.classes not in (None, count) or (self.average == "binary" and count != 2):
            wanted = self.classes or 2
            raise PlanError(
                f"{self} is of {wanted} classes, and the model has {count}; give classes={count} "
                f"and an average such as 'macro'"
            )
        y = np.asarray(y).astype(np.intp)
        counts = {"hit": found[found == y], "predicted": found, "held": y}
        return {name: np.bincount(a, minlength=count) for name, a in counts.items()}

    def value(self, sums: Sums) -> float:
        """Return the chosen mean; NaN without rows."""
        hit, both = np.asarray(sums["hit"]), np.asarray(sums["predicted"] + sums["held"])
        held, there = np.asarray(sums["held"]), both > 0
        if not there.any():
            return float("nan")
        each = 2 * hit / np.where(there, both, 1)
        if self.average == "binary":
            return float(each[1])
        if self.average == "micro":
            return float(2 * hit.sum() / both.sum())
        return float(
            np.average(each[there], weights=(held if self.average == "weighted" else there)[there])
        )
