# SPDX-License-Identifier: Apache-2.0
"""All: every client, every round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from muster.keys import RandomSource
from muster.spelling import Spelled
from muster.types import Cohort, Roster, Tree

__all__ = ["All"]


@dataclass(frozen=True)
class All(Spelled):
    """Everybody enrolled takes part in every round.

    >>> All()
    All()
    """

    kind: ClassVar[str] = "all"  # what an accountant of privacy calls it

    def sample(
        self, roster: Roster, state: Tree, round: int, key: RandomSource, probe: Any
    ) -> tuple[Cohort, Tree]:
        """Return the whole roster."""
        return Cohort(roster.clients), state

    def share(self, roster: Roster) -> float:
        """Return one."""
        return 1.0
