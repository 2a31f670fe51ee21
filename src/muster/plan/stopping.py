# SPDX-License-Identifier: Apache-2.0
"""Stopping: when a run is evaluated, and when it ends before its last round."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from muster.errors import PlanError

__all__ = ["EarlyStopping", "Every", "Target"]


@dataclass(frozen=True)
class Every:
    """Evaluate every so many rounds, and after the last: centrally and on up to `clients`.

    `clients=None` evaluates on every client; 0 on none.

    >>> Every(5).due(10, last=99)
    True
    """

    rounds: int = 1
    clients: int | None = 100

    def __post_init__(self) -> None:
        if self.rounds < 1 or (self.clients is not None and self.clients < 0):
            raise PlanError(f"{self}: rounds must be at least 1, clients at least 0 or None")

    def due(self, round: int, last: int) -> bool:
        """Return whether this round is evaluated."""
        return round % self.rounds == 0 or round == last


@dataclass(frozen=True)
class Target:
    """Stop once a metric of the plan reaches a value, from below or, where less is better, above.

    >>> Target("accuracy", 0.9).met([{"accuracy": 0.91}], {"accuracy": False})
    True
    """

    metric: str
    value: float

    def __post_init__(self) -> None:
        _refuse_name(self)
        if not isinstance(self.value, int | float) or not math.isfinite(self.value):
            raise PlanError(f"{self}: value must be a finite number")

    def met(self, seen: Sequence[Mapping[str, float]], lower: Mapping[str, bool]) -> bool:
        """Return whether the last evaluation met it; `lower`: by metric, whether less is better.

        A NaN is no value, and reaches nothing.
        """
        last = seen[-1].get(self.metric, math.nan) if seen else math.nan
        return last <= self.value if lower[self.metric] else last >= self.value


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when a metric of the plan has not improved in so many evaluations.

    >>> falling = [{"loss": 1.0}, {"loss": 1.1}, {"loss": 1.2}]
    >>> EarlyStopping("loss", 2).met(falling, {"loss": True})
    True
    """

    metric: str
    evaluations: int

    def __post_init__(self) -> None:
        _refuse_name(self)
        if not isinstance(self.evaluations, int) or self.evaluations < 1:
            raise PlanError(f"{self}: evaluations must be a whole number above 0, such as 5")

    def met(self, seen: Sequence[Mapping[str, float]], lower: Mapping[str, bool]) -> bool:
        """Return whether the best value lies at least so many evaluations back.

        A NaN is no value: it is never the best, and an evaluation without improvement.
        """
        if len(seen) <= self.evaluations:
            return False
        sign = 1 if lower[self.metric] else -1
        values = [sign * one.get(self.metric, math.nan) for one in seen]
        known = [value for value in values if not math.isnan(value)]
        best = values.index(min(known)) if known else 0
        return best < len(values) - self.evaluations


def _refuse_name(rule: Target | EarlyStopping) -> None:
    if not isinstance(rule.metric, str):
        raise PlanError(f"{rule}: give the name of a metric of the plan, such as 'accuracy'")
