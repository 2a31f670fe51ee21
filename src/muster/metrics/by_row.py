# SPDX-License-Identifier: Apache-2.0
"""A function of values by row as a metric: their mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from muster.errors import PlanError
from muster.metrics.metric import Metric, Sums

__all__ = ["ByRow"]


@dataclass(frozen=True)
class ByRow(Metric):
    """The mean of `function(outputs, y)`, which gives one number for each row.

    It is given the task's own arrays (tensors of a torch task), as a loss is. It may give one
    number for each position of a row too, like `y`. `lower_is_better` must be said; the name is
    that of the function unless `called`.

    >>> def close(outputs, y):
    ...     return abs(outputs[:, 0] - y) < 1
    >>> metric = ByRow(close, lower_is_better=False)
    >>> metric.name, metric.sums(np.array([[1.0], [5.0]]), np.array([1.5, 3.0]))
    ('close', {'sum': 1.0, 'values': 2})
    """

    function: Callable[[Any, Any], Any]
    lower_is_better: bool
    called: str | None = None
    native: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise PlanError(f"ByRow({self.function!r}): give a function (outputs, y) of values")

    @property
    def name(self) -> str:
        """`called`, else the name of the function."""
        if self.called is not None:
            return self.called
        inner: Any = self.function
        while isinstance(inner, partial):
            inner = inner.func
        return str(getattr(inner, "__name__", type(inner).__name__))

    def sums(self, outputs: Any, y: Any) -> Sums:
        """Return the sum of the values, and how many. Raises `PlanError` for another shape."""
        found = self.function(outputs, y)
        shape, rows = getattr(found, "shape", None), len(y)
        if shape is None or tuple(shape) not in ((rows,), tuple(np.shape(y))):
            given = f"{type(found).__name__} {found!r}" if not shape else f"shape {tuple(shape)}"
            raise PlanError(
                f"the metric {self.name!r} returned {given:.80} for {rows} rows; it must return "
                f"one number for each row, shape ({rows},): not their mean, which muster takes "
                f"over all rows and clients"
            )
        values = np.asarray(found, np.float64)
        return {"sum": float(values.sum()), "values": values.size}

    def value(self, sums: Sums) -> float:
        """Return sum / values."""
        return float(sums["sum"] / sums["values"])
