# SPDX-License-Identifier: Apache-2.0
"""Rotation: each client has its turn once in so many rounds, in a slot of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from muster.errors import PlanError
from muster.keys import Key, RandomSource, hashes
from muster.sampling.sampler import Sampler, SamplerTraits
from muster.types import ClientId, Cohort, Roster, Tree

__all__ = ["Rotation"]


@dataclass(frozen=True)
class Rotation(Sampler):
    """A client takes part in one of `slots` rounds, then `slots` rounds later, and so on.

    Its slot is a hash of its own id under the plan's seed, so nobody moves when another joins or
    leaves. Slots are not of one size, and may be empty: N clients are about N/slots in a round.
    Who sees every cohort sees a client in T rounds ⌈T/slots⌉ times: that many Gaussians are
    accounted, where a fixed-size draw that is seen costs all T. Slots are no secret.

    >>> Rotation(slots=10).traits.separation
    10
    """

    slots: int

    def __post_init__(self) -> None:
        whole = isinstance(self.slots, int) and not isinstance(self.slots, bool)
        if not whole or not 1 <= self.slots <= 10**6:
            raise PlanError(
                f"Rotation(slots={self.slots!r}): a whole number of rounds from 1 to 10^6 is needed"
            )

    @property
    def traits(self) -> SamplerTraits:
        """Turns so many rounds apart, from the plan's seed also where other draws are secret."""
        return SamplerTraits("rotation", separation=self.slots, public=True)

    def sample(
        self,
        roster: Roster,
        state: Tree,
        round: int,
        key: RandomSource,
        losses: Mapping[ClientId, float] | None = None,
    ) -> tuple[Cohort, Tree]:
        """Sample those whose slot is this round's. Raises `PlanError` for a key that is a secret.

        Of the key only the seed counts that it begins with, so the round is in it or not.
        """
        if not isinstance(key, Key):
            raise PlanError(
                f"{self} was given a secret to draw from, which would give every client another "
                f"slot in each round; give it a key of the plan's seed"
            )
        people = roster.eligible
        mine = self._turns(people, round, key.root).nonzero()[0]
        return Cohort(tuple(people[i] for i in mine)), state

    def turn(self, client: ClientId, round: int, root: Key) -> bool:
        """Return whether a client has its turn in a round: what the client itself can check."""
        return bool(self._turns((client,), round, root)[0])

    def _turns(self, clients: Sequence[ClientId], round: int, root: Key) -> Any:
        slots = hashes(root.at("slots"), clients) % self.slots
        return slots == (round - 1) % self.slots

    def share(self, roster: Roster) -> float:
        """Return one in `slots`: the chance of a client over the draw of its slot."""
        return 1 / self.slots
