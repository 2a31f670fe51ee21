# SPDX-License-Identifier: Apache-2.0
"""All: every client, every round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from muster.keys import RandomSource
from muster.sampling.sampler import Sampler, SamplerTraits
from muster.types import ClientId, Cohort, Roster, Tree

__all__ = ["All"]


@dataclass(frozen=True)
class All(Sampler):
    """Everybody enrolled takes part in every round.

    >>> All()
    All()
    """

    @property
    def traits(self) -> SamplerTraits:
        """A draw of everybody who is eligible."""
        return SamplerTraits("all")

    def sample(
        self,
        roster: Roster,
        state: Tree,
        round: int,
        key: RandomSource,
        losses: Mapping[ClientId, float] | None = None,
    ) -> tuple[Cohort, Tree]:
        """Return everybody who is eligible."""
        return Cohort(roster.eligible), state
