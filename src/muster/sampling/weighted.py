# SPDX-License-Identifier: Apache-2.0
"""Weighted: clients are drawn in proportion to their rows, with replacement."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from muster.errors import PlanError
from muster.spelling import Spelled
from muster.types import Cohort, Roster, Tree

__all__ = ["Weighted"]


@dataclass(frozen=True)
class Weighted(Spelled):
    """`count` draws with P(i) = n_i/n, repeats counted: the plain mean is then unbiased.

    Needs weighting="equal", or size would count twice (Li et al. 2020, arXiv 1907.02189,
    scheme I).

    >>> Weighted(count=3).count
    3
    """

    count: int
    with_replacement: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.count, int) or self.count < 1:
            raise PlanError(
                f"Weighted(count={self.count!r}): the count must be a whole number, at least 1"
            )

    def sample(
        self, roster: Roster, state: Tree, round: int, key: Any, probe: Any
    ) -> tuple[Cohort, Tree]:
        """Return draws with their multiplicities."""
        rows = np.asarray(roster.rows(), float)
        drawn = key.generator().choice(len(rows), self.count, p=rows / rows.sum())
        times = Counter(drawn.tolist())
        chosen = sorted(times)
        clients = tuple(roster.clients[i] for i in chosen)
        return Cohort(clients, tuple(times[i] for i in chosen)), state

    def share(self, roster: Roster) -> float:
        """Refuse: the inclusion probability differs by client."""
        raise PlanError(
            f"Mean(denominator='expected') needs one inclusion probability for all, which "
            f"{self} has not; use Mean(denominator='replies')"
        )
