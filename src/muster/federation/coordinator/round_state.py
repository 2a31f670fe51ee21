# SPDX-License-Identifier: Apache-2.0
"""The state of a run's rounds: who is here, what is open, who is asked; under one lock.

The engine's thread opens and closes rounds, requests come in the event loop; both see the same.
Whatever must survive is in the ledger before anybody is told: after a restart the state is
built anew from there, and all leases begin again.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from muster.federation.coordinator.facts import FederationFacts
from muster.federation.coordinator.lifecycle import Call, phase
from muster.federation.coordinator.notifier import Notifier
from muster.federation.coordinator.secagg_progress import SecAggProgress
from muster.federation.protocol.claims import odd_member, sound
from muster.federation.protocol.message import RunEnded
from muster.security.refusal import RefusalReason, Refused
from muster.store.ledger import FederationStore
from muster.store.records import Assignment, Kind, Member, OpenWork, Transition
from muster.types import ClientId

__all__ = ["Back", "FederationFacts", "RoundState"]

RECENT = 64  # rounds whose accepted clients are kept at hand
PRESENT = 2  # leases, or turns of all, without a word after which a member counts as away
FAILURES = 3  # in a row, after which a member is left out until it says hello again


@dataclass(frozen=True)
class Back:
    """An operator's order to go back to a round: by whom, why, and where the answer goes."""

    round: int
    by: str
    reason: str
    done: Future[dict[str, Any]] = field(default_factory=Future)


class RoundState:
    """The state of one run's rounds; `clock` is monotonic, `wall` is not."""

    def __init__(
        self,
        ledger: FederationStore,
        facts: FederationFacts,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.facts, self.ledger = facts, ledger
        self.clock, self.wall = clock, wall
        self.changed = threading.Condition()
        self.refusals: Counter[str] = Counter()
        self._told_refusals: Counter[str] = Counter()
        self.members = {name: one for name, one in ledger.members().items() if not self._odd(one)}
        self.opened: OpenWork | None = None
        self.seats: dict[ClientId, Assignment] = {}
        self.counted: frozenset[ClientId] = frozenset()
        self.session: SecAggProgress | None = (
            None  # of a round whose sum is masked, until its commit
        )
        self.call = Call(0)
        self.leases: dict[ClientId, float] = {}
        self.held: dict[ClientId, tuple[int, str]] = {}  # the newest update on disk: round, digest
        self.moved: Counter[ClientId] = Counter()  # progress heard here, for the other servers
        self.ended: RunEnded | None = None
        self.failures: Counter[ClientId] = Counter()  # in a row
        self.excluded = dict(ledger.excluded())  # who takes part no more, and why
        self.resting: dict[ClientId, float] = {}  # who declined, and until when it is left alone
        self.told: set[ClientId] = set()  # who has heard that it ended
        self.wanted = ledger.wanted()
        self.closing = False
        self.back: Back | None = None  # what an operator wants the run to go back to
        self.plays = False  # whether this server leads, and plays rounds
        self.phase = "waiting"
        self.committed = 0
        self._taken: set[ClientId] = set()
        self._fates: dict[int, frozenset[ClientId]] = {}
        for record in ledger.history():
            self._fate(record["round"], record["accepted"])
        start = clock()
        self._seen = {member.client: start for member in self.members.values()}
        self.notifier = Notifier()

    def _odd(self, member: Member) -> bool:
        """Return whether a stored member is none: it is left out until it says hello again."""
        why = odd_member(member)
        if why:
            cause = f"{str(member.name)[:128]} must say hello again: {why}"
            self.ledger.record(Transition(self.wall(), 0, "enrolled", "left out", cause))
        return bool(why)

    # Who is here.

    def enter(self, member: Member) -> None:
        """Enter a member that is enrolled."""
        with self.changed:
            self.members[member.name] = member
            if self.failures[member.client] >= FAILURES:
                self.failures[member.client] = FAILURES - 1  # one more chance
            self.resting.pop(member.client, None)
            self._seen[member.client] = self.clock()
            self.changed.notify_all()

    def hear(self, client: ClientId, amount: int = 0) -> None:
        """Hear that a client has spoken; when something moved, its lease begins anew."""
        now = self.clock()
        with self.changed:
            back = self._seen.get(client, now) < self._since(now)
            self._seen[client] = now
            self.moved[client] += 1
            if amount and client in self.leases:
                self.leases[client] = now + self.facts.lease
            if back:
                self.changed.notify_all()

    def here(self) -> list[Member]:
        """Return the members that have been heard of lately."""
        with self.changed:
            since = self._since(self.clock())
            members = self.members.values()
            return [one for one in members if self._seen.get(one.client, 0) >= since]

    def present(self) -> list[Member]:
        """Return those of them that may be asked, and do not fail for ever, by client id."""
        now = self.clock()
        with self.changed:
            found = [
                member
                for member in self.here()
                if not self.quarantined(member.client)
                and self.resting.get(member.client, now) <= now
            ]
        return sorted(found, key=_client)

    def _since(self, now: float) -> float:
        """Return the time since when a member that was heard of is present.

        A crowd keeps to a pace, and is heard less.

        Without this, each of many clients would be away whenever it keeps the pace it was told.
        """
        longest = 2 * len(self.members) / self.facts.pace  # paces are rounded up to powers of two
        return now - PRESENT * max(self.facts.lease, longest)

    def quarantined(self, client: ClientId) -> bool:
        """Return whether a client lied, or has failed too often and has not said hello since."""
        return self.failures[client] >= FAILURES or client in self.excluded

    def exclude(self, client: ClientId, why: str) -> None:
        """Exclude a client: it takes part no more."""
        with self.changed:
            self.excluded.setdefault(client, why)
        self.notifier.ring([client])

    def judge(self, seats: Iterable[Assignment]) -> None:
        """Note who has failed once more, who has not, and who is left alone for a lease."""
        until = self.clock() + self.facts.lease
        for seat in seats:
            if seat.standing == "failed":
                self.failures[seat.client] += 1
                if self.failures[seat.client] >= FAILURES:
                    self.notifier.ring([seat.client])
            elif seat.standing == "declined":
                self.resting[seat.client] = until
            elif seat.standing == "arrived":
                del self.failures[seat.client]

    def asks(self, seat: Assignment) -> bool:
        """Return whether a client is still asked for something: its secure sum is not over."""
        training = self.opened is not None and self.opened.kind == "train"
        over = training and self.session is not None and seat.client in self.session.over
        return seat.standing == "invited" and not over

    def take(self, client: ClientId) -> None:
        """Note that a client has fetched what it is to do."""
        with self.changed:
            self.leases[client] = self.clock() + self.facts.lease
            self._taken.add(client)
            self._step("a client has its task")

    def accepted(self, round: int) -> frozenset[ClientId]:
        """Return the clients whose replies are in the model of a committed round."""
        if round not in self._fates:  # one record alone: whoever asks may ask often
            record = self.ledger.round_record(round)
            return frozenset(record["accepted"] if record else ())
        return self._fates[round]

    # What is open.

    def show(
        self,
        opened: OpenWork,
        seats: Mapping[ClientId, Assignment],
        call: Call,
        counted: Iterable[ClientId] = (),
    ) -> None:
        """Show that something is open: tell those who are invited."""
        with self.changed:
            self.opened, self.seats, self.call = opened, self._sound(opened, seats), call
            self.counted = frozenset(counted)
            self.leases = dict.fromkeys(seats, self.clock() + self.facts.lease)
            self._taken.clear()
            self._hold()
            self._step(f"{len(seats)} clients invited")
            self.changed.notify_all()
        self.notifier.ring(seats)

    def record_status(self, round: int, kind: Kind, seats: Mapping[ClientId, Assignment]) -> None:
        """Take the seats as the ledger has them now."""
        with self.changed:
            if self.opened and (self.opened.round, self.opened.kind) == (round, kind):
                self.seats |= self._sound(self.opened, seats, seats)
                self._hold()
                self._step("a client has answered")
            self.changed.notify_all()

    def _sound(
        self,
        opened: OpenWork,
        seats: Mapping[ClientId, Assignment],
        clients: Iterable[ClientId] | None = None,
    ) -> dict[ClientId, Assignment]:
        """Return the seats of these clients, or of all invited, as they are unless one is odd."""
        facts, times = self.facts, dict(zip(opened.cohort, opened.times, strict=False))
        return {
            client: sound(
                seats.get(client), client, opened.kind, times[client], facts.claims, facts.weigh
            )
            for client in (opened.cohort if clients is None else clients)
            if client in times
        }

    def move(self, phase: str, cause: str) -> None:
        """Move the round as a whole a step on."""
        if phase != self.phase:
            round = self.opened.round if self.opened else self.committed + 1
            self.ledger.record(Transition(self.wall(), round, self.phase, phase, cause))
            self.phase = phase

    def _hold(self) -> None:
        if self.opened and self.opened.kind == "train":
            found = {c: (self.opened.round, s.digest) for c, s in self.seats.items() if s.digest}
            self.held.update(found)

    def _step(self, cause: str) -> None:
        if self.opened and self.opened.kind == "train":
            self.move(phase(self.seats.values(), bool(self._taken)), cause)

    def settled(self, round: int, accepted: Iterable[ClientId]) -> None:
        """Tell those who wait for a round's fate that it is committed."""
        with self.changed:
            self._fate(round, accepted)
            self._refused(round)
            self.opened, self.seats, self.leases, self.session = None, {}, {}, None
            self.phase = "waiting"
            self.changed.notify_all()
        self.notifier.ring(None)

    def _refused(self, round: int) -> None:
        """Write down what was refused since the last round, by reason."""
        fresh = self.refusals - self._told_refusals
        if fresh:
            told = ", ".join(f"{count} {reason}" for reason, count in sorted(fresh.items()))
            step = Transition(self.wall(), round, "collecting", "collecting", f"refused: {told}")
            self.ledger.record(step)
            self._told_refusals += fresh

    def _fate(self, round: int, accepted: Iterable[ClientId]) -> None:
        self.committed = max(self.committed, round)
        self._fates[round] = frozenset(accepted)
        self._fates.pop(round - RECENT, None)

    def join(self, session: SecAggProgress) -> None:
        """Join a secure sum that another server leads; one that this server leads stands."""
        with self.changed:
            if self.session is None or self.session.round != session.round:
                self.session = session

    def apply_remote(
        self, opened: tuple[OpenWork, dict[ClientId, Assignment]] | None, committed: int
    ) -> None:
        """Take over what the server that leads has opened and committed."""
        with self.changed:
            news, seats = opened or (None, {})
            if news != self.opened:
                self.leases = dict.fromkeys(seats, self.clock() + self.facts.lease)
            self.opened, self.seats = news, self._sound(news, seats) if news else {}
            if self.session and (news is None or news.round != self.session.round):
                self.session = None
            self.committed = max(self.committed, committed)
            self._hold()
        self.notifier.ring(None)

    def ask_back(self, back: Back) -> None:
        """Ask the engine to go back for an operator: it sees to it before it does more.

        Raises `Refused` where no engine plays here, or another such order waits.
        """
        with self.changed:
            if not self.plays:
                raise Refused(
                    RefusalReason.CLOSED,
                    "this server does not play the run: ask the one that leads, or wait until it "
                    "has ended and roll its folder back",
                )
            if self.back is not None:
                raise Refused(RefusalReason.DUPLICATE, "it is going back already; wait for that")
            self.back = back
            self.changed.notify_all()

    def gone_back(self, committed: int, raised: tuple[int, ...]) -> None:
        """Stand after an older round: what was open, and fates beyond it, are void."""
        with self.changed:
            self.facts = replace(self.facts, raised=raised)
            self.opened, self.seats, self.leases, self.session = None, {}, {}, None
            self.counted, self.held, self.phase = frozenset(), {}, "waiting"
            self.committed = committed
            self._fates = {r: fate for r, fate in self._fates.items() if r <= committed}
            self.changed.notify_all()
        self.notifier.ring(None)

    def heard_elsewhere(self, client: ClientId) -> None:
        """Note that a client was heard at another server."""
        now = self.clock()
        with self.changed:
            self._seen[client] = now
            if client in self.leases:
                self.leases[client] = now + self.facts.lease

    def want(self, word: str) -> None:
        """Take a new wish of the operator."""
        with self.changed:
            self.wanted = word
            self.changed.notify_all()

    def end(self, text: str) -> None:
        """End the run."""
        with self.changed:
            self.ended = RunEnded(self.facts.run, self.committed, text)
            self.phase = "ended"
            self.changed.notify_all()
        self.notifier.ring(None)

    def close(self) -> None:
        """Close, as the server goes down: nobody is kept waiting."""
        with self.changed:
            self.closing = True
            self.changed.notify_all()
        self.notifier.ring(None)


def _client(member: Member) -> Any:
    return member.client
