# SPDX-License-Identifier: Apache-2.0
"""Uniform: every client is equally likely, without replacement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from muster.errors import PlanError
from muster.keys import RandomSource
from muster.sampling.sampler import Sampler, SamplerTraits
from muster.types import ClientId, Cohort, Roster, Tree

__all__ = ["Uniform"]


@dataclass(frozen=True)
class Uniform(Sampler):
    """A fraction or a count of the clients enrolled, drawn anew each round.

    A fraction C of N clients is max(1, round(C·N)) of them, halves rounded to even (McMahan et
    al. 2017 take max(C·N, 1)). A count larger than the population is refused.

    >>> Uniform(fraction=0.1).count is None
    True
    """

    fraction: float | None = None
    count: int | None = None

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

    @property
    def traits(self) -> SamplerTraits:
        """Count the clients of a population that take part."""
        return SamplerTraits("uniform", self.count, self.fraction)

    def sample(
        self,
        roster: Roster,
        state: Tree,
        round: int,
        key: RandomSource,
        losses: Mapping[ClientId, float] | None = None,
    ) -> tuple[Cohort, Tree]:
        """Return so many clients without replacement."""
        people = roster.eligible
        chosen = key.choice(len(people), self.size(len(people)))
        return Cohort(tuple(map(people.__getitem__, chosen.tolist()))), state
