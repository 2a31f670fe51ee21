# SPDX-License-Identifier: Apache-2.0
"""The committed models that stay on the disk."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from muster.errors import PlanError
from muster.spelling import Spelled

__all__ = ["Keep", "best_of"]


@dataclass(frozen=True)
class Keep(Spelled):
    """Keep the last model, the `best` so far by a metric of the plan, and each `every`-th.

    Version 0, what training started from, is one of those that `every` keeps. By default the last
    alone stays: one model on the disk, and a second one while it is written. What stays may change
    on resume; what is gone does not come back.

    >>> sorted(Keep("loss", every=4).stays((0, 1, 2, 3), {1: 0.5, 2: 0.7, 3: 0.6}, lower=True))
    [0, 1, 3]
    """

    best: str | None = None
    every: int | None = None

    def __post_init__(self) -> None:
        if self.best is not None and not isinstance(self.best, str):
            raise PlanError(
                f"{self}: best must be the name of a metric of the plan, such as 'accuracy', "
                f"or None"
            )
        whole = isinstance(self.every, int) and not isinstance(self.every, bool)
        if self.every is not None and not (whole and self.every >= 1):
            raise PlanError(f"{self}: every must be a whole number of rounds above 0, or None")

    def stays(
        self, versions: Collection[int], values: Mapping[int, float], *, lower: bool
    ) -> frozenset[int]:
        """Return those of these versions that stay; the newest is the last that was committed.

        `values` are those of the metric `best` by version; `lower` whether less of it is better.
        """
        found = {max(versions)} if versions else set()
        if self.every is not None:
            found.update(version for version in versions if version % self.every == 0)
        if self.best is not None:
            top = best_of(versions, values, lower=lower)
            found.update(() if top is None else (top,))
        return frozenset(found)


def best_of(versions: Collection[int], values: Mapping[int, float], *, lower: bool) -> int | None:
    """Return the version with the best value, the earliest of equals; None where none has a value.

    A NaN is no value.

    >>> best_of((0, 1, 2), {0: 0.1, 1: 0.9, 2: float("nan")}, lower=False)
    1
    """
    sign = 1.0 if lower else -1.0
    known = [
        (sign * value, version)
        for version in versions
        if not math.isnan(value := values.get(version, math.nan))
    ]
    return min(known)[1] if known else None
