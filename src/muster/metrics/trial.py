# SPDX-License-Identifier: Apache-2.0
"""Metrics tried before anything is trained: are these sums, and do they add up?

On rows that are made up, as far as the task says what its outputs are, and on real rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from muster.errors import PlanError
from muster.metrics.by_row import ByRow
from muster.metrics.f1 import F1
from muster.metrics.head import OutputHead, read
from muster.metrics.metric import Metric, Sums
from muster.metrics.sums import sums_of, value_of
from muster.metrics.task_mean import Loss, TaskMean
from muster.vectors import tree_map

__all__ = ["Tried", "made_up", "tried"]

ROWS = 12  # that are made up
UNKNOWN = (12, 13)  # classes, where a task does not say how many


@dataclass(frozen=True)
class Tried(Metric):
    """A metric whose sums are compared with those of two halves of the rows; for a trial.

    Raises `PlanError` where they are not the sums of both: a mean over rows, such as.
    """

    metric: Metric

    @property
    def name(self) -> str:
        """The metric's."""
        return self.metric.name

    @property
    def lower_is_better(self) -> bool:  # type: ignore[override]
        """The metric's."""
        return self.metric.lower_is_better

    @property
    def needs(self) -> Any:  # type: ignore[override]
        """The metric's."""
        return self.metric.needs

    @property
    def native(self) -> bool:  # type: ignore[override]
        """The metric's."""
        return self.metric.native

    def sums(self, outputs: Any, y: Any) -> Sums:
        """Return the metric's sums, once they are found to add up."""
        whole, rows = sums_of(self.metric, outputs, y), len(y)
        if rows > 1:
            cut = rows // 2
            parts = [
                sums_of(self.metric, tree_map(lambda a, p=part: a[p], outputs), y[part])
                for part in (slice(cut), slice(cut, None))
            ]
            self._compare(whole, parts)
        value = self._value(whole) if rows else float("nan")
        if np.ndim(value) or not isinstance(value, int | float | np.number):
            raise PlanError(f"the metric {self.name!r} has the value {value!r:.80}; give a number")
        return whole

    def _value(self, whole: Sums) -> Any:
        try:
            with np.errstate(all="ignore"):
                return self.metric.value(whole)
        except Exception as error:
            raise PlanError(
                f"the metric {self.name!r} raised {type(error).__name__}: {error}; repair its "
                f"value()"
            ) from error

    def _compare(self, whole: Sums, parts: list[dict[str, Any]]) -> None:
        for name, value in whole.items():
            shapes = {np.shape(one.get(name, "")) for one in (whole, *parts) if name in one}
            if any(name not in part for part in parts) or len(shapes) > 1:
                raise PlanError(
                    f"the metric {self.name!r} gives {name!r} in another shape for other rows; a "
                    f"sum has the same name and shape whatever the rows are"
                )
            total = parts[0][name] + parts[1][name]
            if not np.allclose(value, total, rtol=1e-6, atol=1e-9, equal_nan=True):
                raise PlanError(
                    f"the metric {self.name!r} gives {name!r} = {_shown(value)} for all rows, but "
                    f"{_shown(total)} for two halves together; sums() must return sums over rows "
                    f"that add up, not means"
                )

    def value(self, sums: Sums) -> float:
        """Return the metric's value."""
        return value_of(self.metric, sums)


def _shown(value: Any) -> str:
    return f"{float(value):.6g}" if np.ndim(value) == 0 else str(np.asarray(value).tolist())[:60]


def made_up(head: OutputHead, width: int | None = None) -> tuple[Any, Any]:
    """Draw outputs and targets of a few rows such as this head gives, from a fixed seed."""
    draw = np.random.default_rng(7)
    count = 1 if head.kind == "sigmoid" else head.width or width or 1
    outputs = draw.normal(size=(ROWS, count))
    if head.rows_of == "classes":
        return outputs, np.arange(ROWS) % max(2, count)
    shape = (ROWS,) if count == 1 else (ROWS, count)
    return outputs, outputs.reshape(shape) + draw.normal(size=shape)


def tried(metrics: Iterable[Metric], head: OutputHead) -> dict[str, Sums | None]:
    """Return the sums of each metric over rows that are made up; None where none can be.

    Raises `PlanError` for a metric whose sums do not add up, or that raises.
    """
    return {m.name: _tried(m, head) for m in metrics if not isinstance(m, (Loss, TaskMean))}


def _tried(metric: Metric, head: OutputHead) -> Sums | None:
    if metric.native:  # made for the arrays of a framework, of which nothing is known here
        return {"sum": 0.0, "values": 0.0} if isinstance(metric, ByRow) else None
    if head.rows_of is None:
        return None
    if isinstance(metric, F1) and head.width is None:
        head = replace(head, width=metric.classes)
    if head.width is not None or head.kind == "sigmoid":
        outputs, y = made_up(head)
        return Tried(metric).sums(read(metric.needs, outputs), y)
    return _alike(list(_guessed(metric, head)))


def _guessed(metric: Metric, head: OutputHead) -> Iterator[Sums | None]:
    for width in UNKNOWN:
        outputs, y = made_up(head, width)
        try:
            yield sums_of(metric, read(metric.needs, outputs), y)
        except PlanError:  # it may be right for the width that the model will have
            yield None


def _alike(found: list[Sums | None]) -> Sums | None:
    """Return the sums, where names and shapes are the same for any width."""
    shapes = [None if s is None else {k: np.shape(v) for k, v in s.items()} for s in found]
    return found[0] if shapes[0] is not None and shapes[0] == shapes[1] else None
