# SPDX-License-Identifier: Apache-2.0
"""Poisson: each client independently with one rate, so a cohort may be empty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from muster.errors import PlanError
from muster.keys import RandomSource
from muster.sampling.sampler import Sampler, SamplerTraits
from muster.types import ClientId, Cohort, Roster, Tree

__all__ = ["Poisson"]


@dataclass(frozen=True)
class Poisson(Sampler):
    """Each client takes part with probability `rate`, independently of all others.

    A cohort of nobody is legal; without noise it leaves the model as it was. Pair it with
    `Mean(denominator="expected")` for the unbiased estimator with a fixed denominator.

    >>> Poisson(rate=0.1).rate
    0.1
    """

    rate: float

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise PlanError(f"Poisson(rate={self.rate!r}): the rate must lie in (0, 1]")

    @property
    def traits(self) -> SamplerTraits:
        """A draw by independent coins of one chance."""
        return SamplerTraits("poisson")

    def sample(
        self,
        roster: Roster,
        state: Tree,
        round: int,
        key: RandomSource,
        losses: Mapping[ClientId, float] | None = None,
    ) -> tuple[Cohort, Tree]:
        """Sample by independent coins."""
        people = roster.eligible
        heads = key.uniform(len(people)) < self.rate
        return Cohort(tuple(people[i] for i in heads.nonzero()[0])), state

    def share(self, roster: Roster) -> float:
        """Return the rate."""
        return self.rate
