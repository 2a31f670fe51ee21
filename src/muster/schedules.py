# SPDX-License-Identifier: Apache-2.0
"""Schedules of the local rate over rounds: each maps a round (1-based) to a factor.

The factor multiplies the local optimizer's rate for the whole round; algorithms that need the
sum of the rates used (SCAFFOLD) receive it in `Work.rates`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from muster.errors import PlanError
from muster.spelling import Spelled

__all__ = ["Constant", "Cosine", "Exponential", "Milestones", "Schedule"]


class Schedule(Spelled):
    """The seam: a frozen value with `factor(round)`."""

    def factor(self, round: int) -> float:
        """Return the factor of the local rate in this round (1-based)."""
        raise NotImplementedError


@dataclass(frozen=True)
class Constant(Schedule):
    """The rate never moves.

    >>> Constant().factor(9)
    1.0
    """

    def factor(self, round: int) -> float:
        """Return one."""
        return 1.0


@dataclass(frozen=True)
class Exponential(Schedule):
    """decay^(round − 1), or one step down every so many rounds.

    >>> Exponential(0.5, every=2).factor(3)
    0.5
    """

    decay: float
    every: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.decay <= 1 or self.every < 1:
            raise PlanError(f"{self}: decay must lie in (0, 1] and every be at least 1")

    def factor(self, round: int) -> float:
        """Return the decayed factor."""
        return self.decay ** ((round - 1) // self.every)


@dataclass(frozen=True)
class Milestones(Schedule):
    """Multiply by `factor_each` after each of these rounds.

    >>> Milestones((150, 300), 0.5).factor(301)
    0.25
    """

    rounds: tuple[int, ...]
    factor_each: float = 0.1

    def __post_init__(self) -> None:
        if not self.factor_each > 0:
            raise PlanError(f"{self}: factor_each must be above 0, such as 0.1")

    def factor(self, round: int) -> float:
        """Return one factor for each milestone passed."""
        return self.factor_each ** sum(round > milestone for milestone in self.rounds)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from 1 down to `floor` over so many rounds, then `floor`.

    >>> Cosine(10).factor(1)
    1.0
    """

    rounds: int
    floor: float = 0.01

    def __post_init__(self) -> None:
        if self.rounds < 1 or not 0 < self.floor <= 1:
            raise PlanError(
                f"{self}: rounds must be at least 1 and floor lie in (0, 1], since a rate of 0 "
                f"trains nothing"
            )

    def factor(self, round: int) -> float:
        """Return the cosine factor."""
        done = min(1.0, (round - 1) / max(1, self.rounds))
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * done))
