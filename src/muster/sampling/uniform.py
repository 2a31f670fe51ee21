# SPDX-License-Identifier: Apache-2.0
"""Uniform: every client is equally likely, without replacement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from muster.errors import PlanError
from muster.keys import RandomSource
from muster.spelling import Spelled
from muster.types import Cohort, Roster, Tree

__all__ = ["Uniform"]


@dataclass(frozen=True)
class Uniform(Spelled):
    """A fraction or a count of the clients enrolled, drawn anew each round.

    A fraction C of N clients is max(1, round(C·N)) of them, halves rounded to even (McMahan et
    al. 2017 take max(C·N, 1)). A count larger than the population is refused.

    >>> Uniform(fraction=0.1).count is None
    True
    """

    fraction: float | None = None
    count: int | None = None
    kind: ClassVar[str] = "uniform"  # what an accountant of privacy calls it

    def __post_init__(self) -> None:
        if (self.fraction is None) == (self.count is None):
            raise PlanError(f"{self}: give exactly one of fraction and count")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise PlanError(
                f"Uniform(fraction={self.fraction!r}): the fraction must lie in (0, 1]; "
                f"for a number of clients use Uniform(count=...)"
            )
        if self.count is not None and (not isinstance(self.count, int) or self.count < 1):
            raise PlanError(
                f"Uniform(count={self.count!r}): the count must be a whole number, at least 1"
            )

    def size(self, population: int) -> int:
        """Count the clients of a population that take part."""
        size = self.count if self.count else max(1, round(float(self.fraction or 0) * population))
        if size > population:
            raise PlanError(
                f"{self} asks for more than the {population} clients enrolled; "
                f"use at most {population}"
            )
        return size

    def sample(
        self, roster: Roster, state: Tree, round: int, key: RandomSource, probe: Any
    ) -> tuple[Cohort, Tree]:
        """Return so many clients without replacement."""
        n = len(roster.clients)
        chosen = key.choice(n, self.size(n))
        return Cohort(tuple(map(roster.clients.__getitem__, chosen.tolist()))), state

    def share(self, roster: Roster) -> float:
        """Return m/N."""
        return self.size(len(roster.clients)) / len(roster.clients)
