# SPDX-License-Identifier: Apache-2.0
"""A sampler: a frozen dataclass that says who is invited, and what others must know of it.

    traits                                          what others need to know: see `SamplerTraits`
    candidates(roster, state, round, key)           who is asked for its loss first; None for most
    sample(roster, state, round, key, losses)       the cohort of a round, and the next state
    observe(state, roster, replies)                 what came back, after the round
    size(clients), share(roster)                    how many are drawn, and with what chance

A cohort is a function of the seed, the round, the roster and the state alone: `key` is a source of
the round's own, and no clock is read, so that a resumed run and a replay draw the same clients.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from muster.errors import PlanError
from muster.keys import RandomSource
from muster.spelling import Spelled
from muster.types import ClientId, ClientOutcome, Cohort, Roster, Tree

__all__ = ["KINDS", "Sampler", "SamplerTraits", "asks_candidates", "strangers"]

# How a draw is called where privacy is accounted; "" is one that no noise may rely on.
KINDS = ("", "all", "uniform", "poisson", "rotation", "deterministic")


@dataclass(frozen=True)
class SamplerTraits:
    """The facts of a sampler that others need to know, declared by it.

    `kind` is what an accountant of privacy calls the draw: "all" (everybody who is eligible),
    "uniform" (each cohort of one size alike), "poisson" (independent coins of one chance),
    "rotation" (turns that lie `separation` rounds apart), "deterministic" (whatever else draws
    nobody twice: no draw is counted on), or "" where a client may count more than once or by its
    data. `count` clients are drawn, or the `fraction` of those eligible, or neither is known.
    `replacement`: a client may be drawn twice. `separation`: a client takes part once in so many
    rounds, at most. `needs_losses`: it reads the losses of single clients, of candidates or of
    those who trained. `public`: it draws from the plan's seed also where other draws are secret.
    Raises `PlanError` for traits that contradict one another.

    >>> SamplerTraits("uniform", count=3).replacement
    False
    """

    kind: str = ""
    count: int | None = None
    fraction: float | None = None
    replacement: bool = False
    separation: int = 1
    needs_losses: bool = False
    public: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise PlanError(
                f"SamplerTraits(kind={self.kind!r}): no accountant knows that kind of draw; use "
                f"one of {', '.join(map(repr, KINDS))}"
            )
        if self.count is not None and self.fraction is not None:
            raise PlanError(f"{self}: give at most one of count and fraction")
        if self.count is not None and not _whole(self.count):
            raise PlanError(
                f"SamplerTraits(count={self.count!r}): a whole number above 0 is needed, or None"
            )
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise PlanError(
                f"SamplerTraits(fraction={self.fraction!r}): it must lie in (0, 1], or be None"
            )
        if not _whole(self.separation):
            raise PlanError(
                f"SamplerTraits(separation={self.separation!r}): a whole number of rounds above 0 "
                f"is needed"
            )
        if self.replacement and self.kind:
            raise PlanError(
                f"{self}: a client that may be drawn twice moves a sum by more than one bound, "
                f"which no accountant counts; declare kind=''"
            )


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


class Sampler(ABC, Spelled):
    """Client selection. An own one declares its traits and says who is drawn.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class First(Sampler):
    ...     @property
    ...     def traits(self):
    ...         return SamplerTraits("deterministic", count=1)
    ...     def sample(self, roster, state, round, key, losses=None):
    ...         return Cohort(roster.eligible[:1]), state
    >>> First().share(Roster(("a", "b"), lambda: [1, 1]))
    0.5
    """

    @property
    @abstractmethod
    def traits(self) -> SamplerTraits:
        """The facts that others need to know."""

    def candidates(
        self, roster: Roster, state: Tree, round: int, key: RandomSource
    ) -> Cohort | None:
        """Return those who are asked for the current model's loss before the cohort is drawn.

        None, as by default, asks nobody. Those asked evaluate the model on their own rows, which
        takes a trip more; only for a sampler that declares `needs_losses`.
        """
        return None

    @abstractmethod
    def sample(
        self,
        roster: Roster,
        state: Tree,
        round: int,
        key: RandomSource,
        losses: Mapping[ClientId, float] | None = None,
    ) -> tuple[Cohort, Tree]:
        """Draw the cohort of one round among `roster.eligible`; return it and the next state.

        `state` is None in the first round; then what was returned last: None, numbers, text,
        tuples, lists, dicts and arrays of them. `losses` are the mean losses of those candidates
        that answered, None where nobody was asked.
        """

    def observe(self, state: Tree, roster: Roster, replies: Sequence[ClientOutcome]) -> Tree:
        """Return the state after a round, from what became of each client of its cohort, in order.

        Also called where the round was abandoned. By default the state stays as it is.
        """
        return state

    def size(self, clients: int) -> int:
        """Return how many of so many eligible clients are drawn at most.

        Raises `PlanError` where they are too few.
        """
        traits = self.traits
        if traits.fraction is not None:
            return max(1, round(traits.fraction * clients))
        if traits.count is None:
            return clients
        if traits.count > clients and not traits.replacement:
            raise PlanError(
                f"{self} asks for more than the {clients} clients enrolled; use at most {clients}"
            )
        return min(traits.count, clients)

    def share(self, roster: Roster) -> float:
        """Return the part of the eligible clients that a cohort is expected to hold.

        Raises `PlanError` where it differs by client, or is not declared.
        """
        traits, clients = self.traits, len(roster.eligible)
        declared = traits.kind == "all" or traits.count is not None or traits.fraction is not None
        if traits.replacement or not declared:
            raise PlanError(
                f"Mean(denominator='expected') needs one inclusion probability for all, which "
                f"{self} has not; use Mean(denominator='replies')"
            )
        return self.size(clients) / clients


def asks_candidates(sampler: Sampler) -> bool:
    """Return whether a sampler asks clients for their losses before it draws."""
    return type(sampler).candidates is not Sampler.candidates


def strangers(clients: Sequence[ClientId], roster: Roster) -> list[ClientId]:
    """Return those of some clients that are not eligible.

    >>> strangers(("a", "z"), Roster(("a", "b"), lambda: [1, 1]))
    ['z']
    """
    known = roster.eligible
    with suppress(TypeError):  # numbers and words side by side have no order
        places = ((client, bisect_left(known, client)) for client in clients)
        if all(place < len(known) and known[place] == client for client, place in places):
            return []
    members = frozenset(known)
    return [client for client in clients if client not in members]
