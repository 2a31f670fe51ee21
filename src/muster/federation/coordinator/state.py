# SPDX-License-Identifier: Apache-2.0
"""The state of a coordinator: what is stored, and beside it what a restart forgets.

`CoordinatorState` is a function of the events of the journal and of nothing else (`apply`): two
servers that have read the same events hold the same state, and so does one that comes back.
`Volatile` is what one server alone has seen: leases, who spoke when, marks of progress. It is never
journaled, and part of no digest: after a restart all leases begin anew.

The state is changed in place, as a federation may have 100,000 members and a round as many
assignments; `apply` alone does it, and whoever wants to try an event on it tries it on a `copy`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import NamedTuple

from muster.federation.coordinator.events import (
    Committed,
    Decided,
    Event,
    MemberEnrolled,
    Opened,
    WentBack,
)
from muster.federation.coordinator.facts import FederationFacts
from muster.federation.coordinator.secagg_progress import SecAggProgress
from muster.federation.protocol.message import RunEnded
from muster.store.records import Assignment, Kind, Member, OpenWork
from muster.types import ClientId

__all__ = ["CoordinatorState", "OpenPiece", "Sign", "Volatile", "WorkKey"]

FAILURES = 3  # in a row, after which a member is left out until it says hello again
PRESENT = 2  # leases, or turns of all, without a word after which a member counts as away


class WorkKey(NamedTuple):
    """A piece of a round in one attempt: with a client, it names an assignment."""

    version: int
    attempt: int
    kind: Kind


@dataclass
class OpenPiece:
    """A piece of a round that is open, and what became of each client that was invited.

    `times` is how often each was drawn; `said` the number and the digest of what members said in a
    secure sum, by name and kind.
    """

    opened: OpenWork
    attempt: int
    times: Mapping[ClientId, int]
    assignments: dict[ClientId, Assignment]
    said: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)

    @property
    def key(self) -> WorkKey:
        """The name of the piece."""
        return WorkKey(self.opened.round, self.attempt, self.opened.kind)


@dataclass
class CoordinatorState:
    """The stored state: `position` is that of the newest event in it.

    `members` by name, and `names` the inverse, by client; `odd` who must say hello again since its
    stored record is none, and why. `wanted` is what operators want; `excluded` who takes part no
    more, and why; `fates` whose replies are in the models of the last rounds; `works` what is open.
    """

    facts: FederationFacts
    position: int = 0
    wanted: str = "run"
    committed: int = 0
    members: dict[str, Member] = field(default_factory=dict)
    names: dict[ClientId, str] = field(default_factory=dict)
    odd: dict[str, str] = field(default_factory=dict)
    excluded: dict[ClientId, str] = field(default_factory=dict)
    fates: dict[int, frozenset[ClientId]] = field(default_factory=dict)
    works: dict[WorkKey, OpenPiece] = field(default_factory=dict)

    @property
    def current(self) -> OpenPiece | None:
        """The piece opened last; a round is measured behind its training."""
        if not self.works:
            return None
        return self.works[max(self.works, key=_order)]

    def piece(self, round: int, kind: Kind) -> OpenPiece | None:
        """Return a piece of a round, if it is open in the attempt that is played now."""
        return self.works.get(WorkKey(round, self.facts.attempt, kind))

    def copy(self) -> CoordinatorState:
        """Return the same, to be changed apart."""
        return replace(
            self,
            members=dict(self.members),
            names=dict(self.names),
            odd=dict(self.odd),
            excluded=dict(self.excluded),
            fates=dict(self.fates),
            works={
                key: replace(one, assignments=dict(one.assignments), said=dict(one.said))
                for key, one in self.works.items()
            },
        )

    def digest(self) -> str:
        """Return a SHA-256 of all that is stored; leases and clocks are no part of it."""
        works = [
            (key, one.opened, _listed(one.assignments), one.said)
            for key, one in sorted(self.works.items())
        ]
        fates = [(round, sorted(map(repr, found))) for round, found in sorted(self.fates.items())]
        parts = (
            *(self.position, self.wanted, self.committed, self.facts.raised),
            *(_listed(self.members), _listed(self.odd), _listed(self.excluded), fates, works),
        )
        return sha256(repr(parts).encode()).hexdigest()


@dataclass(frozen=True)
class Sign:
    """A sign of life that a command shows of the one who said it, and what more it shows.

    `renews` begins its lease anew; `steps` is how far it is in a round; `took` that it has fetched
    its task; `hello` its name where it enrolled, and `changed` that its enrolment is another one;
    `ended` that it has heard that the run is over.
    """

    client: ClientId
    renews: bool = False
    steps: tuple[int, int] | None = None
    took: bool = False
    hello: str = ""
    changed: tuple[float, int] | None = None
    ended: bool = False


@dataclass
class Volatile:
    """The signs that one server has seen, and forgets when it ends; times are monotonic seconds.

    `seen` is when each was heard last, `leases` until when each may be silent, `steps` how far each
    said it is, `taken` who has fetched its task, `held` the newest update of each on the disk,
    `failures` in a row, `resting` until when one who declined is left alone, `told` who has heard
    that the run `ended`, `enrolments` when those of a day began, and how many they are; `kept`
    polls are waiting; `moved` counts what was heard here, for the other servers. `plays` says that
    this server leads, `returning` that an order to go back waits; of pieces that are `untold`
    nobody is told before the engine has written their models again, as models wait for no disk;
    `session` is the secure sum of a round that is masked, as its members see it.
    """

    leases: dict[ClientId, float] = field(default_factory=dict)
    seen: dict[ClientId, float] = field(default_factory=dict)
    steps: dict[ClientId, tuple[int, int]] = field(default_factory=dict)
    taken: set[ClientId] = field(default_factory=set)
    held: dict[ClientId, tuple[int, str]] = field(default_factory=dict)
    failures: Counter[ClientId] = field(default_factory=Counter)
    resting: dict[ClientId, float] = field(default_factory=dict)
    told: set[ClientId] = field(default_factory=set)
    enrolments: dict[str, tuple[float, int]] = field(default_factory=dict)
    moved: Counter[ClientId] = field(default_factory=Counter)
    untold: set[WorkKey] = field(default_factory=set)
    kept: int = 0
    plays: bool = False
    returning: bool = False
    closing: bool = False
    ended: RunEnded | None = None
    session: SecAggProgress | None = None

    def take(self, sign: Sign, now: float, lease: float) -> None:
        """Take in what a command has shown; whoever has no lease is given none by progress."""
        client = sign.client
        self.seen[client] = now
        self.moved[client] += 1
        if sign.took:
            self.taken.add(client)
        if sign.took or (sign.renews and client in self.leases):
            self.leases[client] = now + lease
        if sign.steps is not None:
            self.steps[client] = sign.steps
        if sign.hello:
            self.enter(client, now)
            if sign.changed is not None:
                self.enrolments[sign.hello] = sign.changed
        if sign.ended:
            self.told.add(client)

    def heed(self, event: Event, state: CoordinatorState, now: float) -> None:
        """Take in what an event that is in the state by now means here: leases begin and end."""
        match event:
            case MemberEnrolled(member) if state.members.get(member.name) == member:
                self.enter(member.client, now)
            case Opened(work, attempt) if (key := WorkKey(work.round, attempt, work.kind)) in (
                state.works
            ):
                self.leases = dict.fromkeys(state.works[key].assignments, now + state.facts.lease)
                self.taken.clear()
                self.steps.clear()  # a round that is played again counts anew
            case Decided(round, _, "train", Assignment(client, "arrived", digest=digest)) if digest:
                self.held[client] = round, digest
            case Committed():
                self.leases, self.session = {}, None
            case WentBack():
                self.leases, self.held, self.session = {}, {}, None

    def enter(self, client: ClientId, now: float) -> None:
        """Take in that a client is enrolled: one that failed for ever has one more chance."""
        if self.failures[client] >= FAILURES:
            self.failures[client] = FAILURES - 1
        self.resting.pop(client, None)
        self.seen[client] = now

    def judge(self, assignments: Iterable[Assignment], until: float) -> list[ClientId]:
        """Count who has failed once more and who has not; who declined is left alone `until` then.

        Returns those that are left out from now on.
        """
        out = []
        for one in assignments:
            if one.standing == "failed":
                self.failures[one.client] += 1
                if self.failures[one.client] >= FAILURES:
                    out.append(one.client)
            elif one.standing == "declined":
                self.resting[one.client] = until
            elif one.standing == "arrived":
                del self.failures[one.client]
        return out

    def since(self, state: CoordinatorState, now: float) -> float:
        """Return the time since when a member that was heard of is present.

        A crowd keeps to a pace, and is heard less.

        Without this, each of many clients would be away whenever it keeps the pace it was told.
        """
        longest = 2 * len(state.members) / state.facts.pace  # rounded up to powers of two
        return now - PRESENT * max(state.facts.lease, longest)

    def here(self, state: CoordinatorState, now: float) -> list[Member]:
        """Return the members that have been heard of lately."""
        since = self.since(state, now)
        return [one for one in state.members.values() if self.seen.get(one.client, 0) >= since]

    def quarantined(self, state: CoordinatorState, client: ClientId) -> bool:
        """Return whether a client lied, or has failed too often and has not said hello since."""
        return self.failures[client] >= FAILURES or client in state.excluded

    def present(self, state: CoordinatorState, now: float) -> list[Member]:
        """Return those of them that may be asked, and do not fail for ever, by client id."""
        found = [
            member
            for member in self.here(state, now)
            if not self.quarantined(state, member.client)
            and self.resting.get(member.client, now) <= now
        ]
        return sorted(found, key=_client)


def _order(key: WorkKey) -> tuple[int, int, bool]:
    return key.version, key.attempt, key.kind == "evaluate"


def _listed(found: Mapping[ClientId, object] | Mapping[str, object]) -> list[tuple[str, str]]:
    return sorted((repr(name), repr(one)) for name, one in found.items())


def _client(member: Member) -> ClientId:
    return member.client
