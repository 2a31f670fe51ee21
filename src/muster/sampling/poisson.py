# SPDX-License-Identifier: Apache-2.0
"""Poisson: each client independently with one rate, so a cohort may be empty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from muster.errors import PlanError
from muster.keys import RandomSource
from muster.spelling import Spelled
from muster.types import Cohort, Roster, Tree

__all__ = ["Poisson"]


@dataclass(frozen=True)
class Poisson(Spelled):
    """Each client takes part with probability `rate`, independently of all others.

    A cohort of nobody is legal; without noise it leaves the model as it was. Pair it with
    `Mean(denominator="expected")` for the unbiased estimator with a fixed denominator.

    >>> Poisson(rate=0.1).rate
    0.1
    """

    rate: float
    kind: ClassVar[str] = "poisson"  # what an accountant of privacy calls it

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise PlanError(f"Poisson(rate={self.rate!r}): the rate must lie in (0, 1]")

    def sample(
        self, roster: Roster, state: Tree, round: int, key: RandomSource, probe: Any
    ) -> tuple[Cohort, Tree]:
        """Sample by independent coins."""
        heads = key.uniform(len(roster.clients)) < self.rate
        return Cohort(tuple(roster.clients[i] for i in heads.nonzero()[0])), state

    def share(self, roster: Roster) -> float:
        """Return the rate."""
        return self.rate
