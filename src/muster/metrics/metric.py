# SPDX-License-Identifier: Apache-2.0
"""The seam of every metric: what it is called, which way is better, and what adds up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

__all__ = ["Metric", "Needs", "Sums", "TAKEN", "called"]

Needs = Literal["outputs", "probabilities", "labels"]
TAKEN = {"rows", "held out", "count", "each", "on"}  # words of a record beside the metrics
LONGEST = 64  # letters of a name

Sums = Mapping[str, Any]  # by name: a number, or an array of one axis


class Metric:
    """A metric: `sums` over rows, which add up over blocks, clients and masks, and their `value`.

    Subclass it as a frozen dataclass whose fields are settings. A subclass gives:

    - `name`: what results, tables and stop rules call it, different for different settings;
    - `lower_is_better`: whether less is better, as for a loss;
    - `needs`: what `sums` is given of each row: the model's "outputs" `(rows, outputs)` as they
      are, the "probabilities" `(rows, classes)` of a classifier (two columns for one logit), or
      the predicted "labels" `(rows,)`; in NumPy, whatever the framework of the task;
    - `rows_of`: "classes" or "numbers", where the targets must be one or the other;
    - `ranges`: between which numbers a sum lies for one row, by name, where that is known: what a
      member tells beyond it is refused;
    - `native`: whether `sums` is given the arrays of the task's own framework instead (on the
      CPU), such as tensors.

    Where a model answers several positions of a row (a text), each position is a row.

    >>> import numpy as np
    >>> class Hits(Metric):
    ...     name, lower_is_better, needs = "hits", False, "labels"
    ...     def sums(self, outputs, y):
    ...         return {"hits": (outputs == y).sum(), "rows": len(y)}
    ...     def value(self, sums):
    ...         return sums["hits"] / sums["rows"]
    >>> Hits().value(Hits().sums(np.array([1, 0]), np.array([1, 1])))
    np.float64(0.5)
    """

    lower_is_better: bool
    needs: ClassVar[Needs] = "outputs"
    rows_of: ClassVar[Literal["classes", "numbers"] | None] = None
    native: ClassVar[bool] = False
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {}

    if TYPE_CHECKING:  # at run time a subclass may have it as a field

        @property
        def name(self) -> str:
            """The name of this metric with these settings."""

    def sums(self, outputs: Any, y: Any) -> Sums:
        """Return sums over the rows of `outputs` and `y` by name: numbers or arrays of one axis."""
        raise NotImplementedError

    def value(self, sums: Sums) -> float:
        """Return the value that sums over some rows stand for, NaN where they have none."""
        raise NotImplementedError


def called(name: Any) -> bool:
    """Return whether this may be the name of a metric: short, printable, and no word of a record.

    >>> called("top 5"), called("a/b"), called("rows")
    (True, False, False)
    """
    fits = isinstance(name, str) and 0 < len(name) <= LONGEST and name.isprintable()
    return fits and name == name.strip() and "/" not in name and name not in TAKEN
