# SPDX-License-Identifier: Apache-2.0
"""When a run is evaluated, and when it ends before its last round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from muster.errors import PlanError

__all__ = ["Every", "Patience", "Target", "falls"]


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
        """Whether this round is evaluated."""
        return round % self.rounds == 0 or round == last


@dataclass(frozen=True)
class Target:
    """Stop once a central metric reaches a value: at least it, or at most it for a loss.

    >>> Target("accuracy", 0.9).met([{"accuracy": 0.91}])
    True
    """

    metric: str
    value: float

    def met(self, seen: Sequence[dict[str, float]]) -> bool:
        """Whether the last evaluation reached the value."""
        if not seen or self.metric not in seen[-1]:
            return False
        last = seen[-1][self.metric]
        return last <= self.value if falls(self.metric) else last >= self.value


@dataclass(frozen=True)
class Patience:
    """Stop when a central metric has not improved in so many evaluations.

    >>> Patience("loss", 2).met([{"loss": 1.0}, {"loss": 1.1}, {"loss": 1.2}])
    True
    """

    metric: str
    evaluations: int

    def __post_init__(self) -> None:
        if self.evaluations < 1:
            raise PlanError(f"{self}: evaluations must be at least 1, such as 5")

    def met(self, seen: Sequence[dict[str, float]]) -> bool:
        """Whether the best value lies at least so many evaluations back."""
        values = [s[self.metric] for s in seen if self.metric in s]
        if len(values) <= self.evaluations:
            return False
        best = min if falls(self.metric) else max
        return values.index(best(values)) < len(values) - self.evaluations


def falls(metric: str) -> bool:
    """Whether less of a metric is better (losses and errors).

    >>> falls("loss"), falls("accuracy")
    (True, False)
    """
    return any(word in metric for word in ("loss", "error", "mse", "mae"))
