# SPDX-License-Identifier: Apache-2.0
"""The measures of a task by itself: its loss, and the means that its own code returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

from muster.errors import PlanError
from muster.metrics.metric import Metric, Sums

__all__ = ["Loss", "TaskMean"]


class _OfTask(Metric):
    """Sums that the task gives; abstract."""

    def sums(self, outputs: Any, y: Any) -> NoReturn:
        """Refuse: the task has them."""
        raise PlanError(f"the sums of {self} are those of its task; evaluate the task")

    def value(self, sums: Sums) -> float:
        """Return sum / rows."""
        return float(sums["sum"] / sums["rows"])


@dataclass(frozen=True)
class Loss(_OfTask):
    """The mean of the task's own loss over rows, without a penalty; always measured.

    >>> Loss().value({"sum": 3.0, "rows": 2})
    1.5
    """

    name = "loss"
    lower_is_better = True


@dataclass(frozen=True)
class TaskMean(_OfTask):
    """A mean over rows that the `measure` of a `tasks.custom.Custom` returns under this name.

    >>> TaskMean("accuracy", lower_is_better=False).name
    'accuracy'
    """

    name: str
    lower_is_better: bool
