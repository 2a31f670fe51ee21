# SPDX-License-Identifier: Apache-2.0
"""Weighted: clients are drawn in proportion to their rows, with replacement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from muster.errors import PlanError
from muster.keys import Key, RandomSource
from muster.sampling.sampler import Sampler, SamplerTraits
from muster.types import ClientId, Cohort, Roster, Tree

__all__ = ["Weighted"]


@dataclass(frozen=True)
class Weighted(Sampler):
    """`count` draws with P(i) = n_i/n, repeats counted: the plain mean is then unbiased.

    Needs weighting="equal", or size would count twice (Li et al. 2020, arXiv 1907.02189,
    scheme I).

    >>> Weighted(count=3).count
    3
    """

    count: int

    def __post_init__(self) -> None:
        if not isinstance(self.count, int) or self.count < 1:
            raise PlanError(
                f"Weighted(count={self.count!r}): the count must be a whole number, at least 1"
            )

    @property
    def traits(self) -> SamplerTraits:
        """A number of draws, of which several may be of one client."""
        return SamplerTraits(count=self.count, replacement=True)

    def sample(
        self,
        roster: Roster,
        state: Tree,
        round: int,
        key: RandomSource,
        losses: Mapping[ClientId, float] | None = None,
    ) -> tuple[Cohort, Tree]:
        """Return draws with their multiplicities."""
        if not isinstance(key, Key):
            raise PlanError(
                f"{self} was given a secret to draw from, which has no generator for draws by "
                f"rows; give it a key of the plan's seed"
            )
        people, rows = roster.eligible, np.asarray(roster.eligible_rows(), float)
        drawn = key.generator().choice(len(rows), self.count, p=rows / rows.sum())
        times = Counter(drawn.tolist())
        chosen = sorted(times)
        clients = tuple(people[i] for i in chosen)
        return Cohort(clients, tuple(times[i] for i in chosen)), state
