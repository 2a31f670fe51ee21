# SPDX-License-Identifier: Apache-2.0
"""A round whose sum is masked: the server's side of the session, played in the engine's thread.

What a member says is written down in the ledger before it is answered, and is read from there in
the one order in which it was written; so a server that comes back plays the same events again and
stands where the other one fell. A step ends when everybody due has spoken or left, or when all
that are missing have lost their leases: to be told something begins a lease, to speak renews it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from muster.errors import PlanError, RunError
from muster.plan import Plan
from muster.secagg import Aborted, Closed, Heard, Reason, Refused, Step, Sum, Tell, server
from muster.secagg.messages import Ended, Message, Quit, Roster
from muster.service.round.hall import Hall
from muster.service.round.lifecycle import closes
from muster.service.round.session import Session
from muster.service.round.updates import sum_of
from muster.store.records import Opened, Seat, Word
from muster.types import ClientId, Reply

__all__ = ["LABELS", "Masking", "Speech"]

STEPS = (Step.ADVERTISE, Step.SHARE, Step.MASK, Step.CONSENT, Step.UNMASK)
LABELS = (
    *(f"secure: {step.value} begins" for step in STEPS),
    "secure: before a message is recorded",
    "secure: a message is recorded",
    "secure: before a step is closed",
    "secure: a step is closed",
    "secure: opened",
    "secure: seats are decided",
)
QUIT, ADVERT = str(Quit.kind), "1"
HEAD = 64  # octets of a message beside its largest field
SMALL = 1 << 16  # octets that any message may have


class Speech(Protocol):
    """What a masked round needs of a ledger (see `store.ledger.Ledger`)."""

    blobs: Any

    def hear(self, round: int, word: Word) -> Any:
        """Write an event down."""

    def heard(self, round: int, after: int = 0) -> list[Word]:
        """The next events."""

    def decide(self, round: int, kind: Any, seats: Any) -> Any:
        """Decide seats that are open."""


class Masking:
    """One round's session, made before the round is shown; `check` raises when it is to stop."""

    def __init__(
        self, plan: Plan, ledger: Speech, hall: Hall, opened: Opened, *,
        check: Callable[[], None], at: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.plan, self.ledger, self.hall, self.opened = plan, ledger, hall, opened
        self.check, self.at = check, at
        names = {member.client: member.name for member in hall.members.values()}
        clients = {names[client]: client for client in opened.cohort}
        try:
            self.terms = _terms(plan, hall, opened)
        except PlanError as error:
            self.terms, self.fault = None, str(error)
        limit = SMALL if self.terms is None else _longest(self.terms)
        self.session = Session(opened.round, clients, limit, at)
        self.step: Step | None = None
        self.live, self.spoken = set(clients), set[str]()
        self.left: dict[str, Seat] = {}  # who said that it left, and its seat unless it counts
        self.advertised = self.number = 0
        self.metrics: dict[ClientId, Mapping[str, float]] = {}
        self._fell: dict[str, str] = {}  # who was told that it is late, and in which step
        self._queue: deque[Word] = deque()
        self._speaker = ""
        self._written: tuple[Message | None, bytes] = (None, b"")

    def outcome(self) -> tuple[Reply | None, str]:
        """The sum of the survivors, or None; and why it took nothing more. Seats are decided."""
        facts, round = self.hall.facts, self.opened.round
        facts.note("server", "secure sum begun", round=round, invited=len(self.opened.cohort))
        found: Sum | None = None
        try:
            if self.terms is None:
                raise Aborted(Reason.COHORT, self.fault)
            found = self._played()
            reason, cause = Reason.DONE, f"the sum of {len(found.survivors)} clients is open"
        except Aborted as stop:
            reason, cause = (
                stop.reason,
                f"the secure sum was given up ({stop.reason.value}): {stop}",
            )
        self.at("secure: opened")
        alive = {self.session.clients[name] for name in found.survivors} if found else set()
        self._decide([self._seat(client, alive, (reason, cause)) for client in self.opened.cohort])
        self.at("secure: seats are decided")
        facts.note(
            "server", "secure sum ended", round=round, reason=reason.value, survivors=len(alive),
            disputes=[list(pair) for pair in found.disputes[:20]] if found else [],
        )  # fmt: skip
        return self._reply(found, alive) if found else None, cause

    def _played(self) -> Sum:
        """The session. Raises `Aborted`."""
        assert self.terms is not None
        members, vouch = self.hall.members, self.hall.facts.vouch

        def verify(name: str, data: bytes, signature: bytes) -> bool:
            return vouch(name, members[name].certificate, data, signature)

        side, event = server(self.terms, self.session.clients, verify), None
        while True:
            try:
                action = side.send(event)
            except StopIteration as end:
                total: Sum = end.value
                return total
            event = None
            if isinstance(action, Tell):
                self._tell(action)
            elif isinstance(action, Refused):
                self._refused(action)
            else:
                event = self._next(action.step)

    def _tell(self, tell: Tell) -> None:
        """Put it where the client finds it; its lease begins."""
        client, hall = self.session.clients[tell.name], self.hall
        self.advertised += isinstance(tell.message, Roster)
        if self._written[0] is not tell.message:
            self._written = tell.message, tell.message.to_bytes()
        with hall.changed:
            number = self.session.told.get(client, (0, b""))[0] + 1
            self.session.told[client] = number, self._written[1]
            if isinstance(tell.message, Ended):
                self.live.discard(tell.name)
                self.session.over.add(client)
                self._fell.setdefault(tell.name, self.step.value if self.step else "")
            else:
                hall.leases[client] = hall.clock() + hall.facts.lease
        hall.bell.ring([client])

    def _refused(self, refused: Refused) -> None:
        """A message had no effect: its sender has not spoken."""
        self._speaker = ""
        self.hall.refusals[f"secure: {refused.reason.name.lower()}"] += 1
        self.hall.facts.note(
            refused.name, "secure message refused", round=self.opened.round,
            step=self.step.value if self.step else "", reason=refused.reason.value,
        )  # fmt: skip

    def _next(self, step: Step) -> Heard | Closed:
        """The next event, as it is written down."""
        if self._speaker:
            self.spoken.add(self._speaker)
        if step is not self.step:
            self.step, self._speaker = step, ""
            self.spoken.clear()
            self.at(f"secure: {step.value} begins")
        while True:
            if not self._queue:
                self._queue.extend(self.ledger.heard(self.opened.round, self.number))
            if self._queue:
                return self._event(self._queue.popleft())
            self._wait(step)

    def _event(self, word: Word) -> Heard | Closed:
        self.number, self._speaker = word.number, word.name
        if not word.name:
            return Closed(Step(word.kind))
        data = word.data or bytes(self.ledger.blobs.whole(word.blob))
        if word.kind == QUIT:
            self._quit(word.name, data)
        elif word.kind == ADVERT:
            self.metrics[self.session.clients[word.name]] = word.metrics
        return Heard(word.name, data)

    def _wait(self, step: Step) -> None:
        """Until there may be another event; what only the server knows it writes down itself."""
        hall = self.hall
        with hall.changed:
            self.check()
            if self.session.last > self.number:
                return
            due = self.live - self.spoken - self.left.keys()
            gone = [name for name in due if self._standing(name) in ("declined", "failed")]
            closed = None if gone else self._closed(step, due)
            if not gone and closed is not None and closed > 0:
                hall.changed.wait(min(closed, hall.facts.lease))
                return
        if gone:
            quit_ = Quit(Reason.STOPPED.name).to_bytes()
            for name in gone:
                self._hear(Word(name, QUIT, quit_))
            return
        self.at("secure: before a step is closed")
        self._hear(Word("", step.value))
        self.at("secure: a step is closed")

    def _closed(self, step: Step, due: set[str]) -> float:
        """Seconds until nobody who is due has a lease, or the round is to go on without them."""
        hall, now = self.hall, self.hall.clock()
        until = max((hall.leases.get(self.session.clients[n], now) for n in due), default=now)
        if step is Step.ADVERTISE:
            here = {self.session.clients[name] for name in self.spoken}
            seats = [Seat(c, "arrived") if c in here else s for c, s in hall.seats.items()]
            if closes(hall.call, seats, now) is not None:
                return 0.0
            until = min(until, hall.call.until)
        return until - now

    def _standing(self, name: str) -> str:
        return self.hall.seats[self.session.clients[name]].standing

    def _hear(self, word: Word) -> None:
        if self.ledger.hear(self.opened.round, word).result() is None:
            raise RunError(
                f"round {self.opened.round} is not open any more; another server has gone on"
            )

    def _quit(self, name: str, data: bytes) -> None:
        """A client has left, and said why; if its vector is in the sum, it counts all the same."""
        said, client = Quit.from_bytes(data).reason, self.session.clients[name]
        reason = Reason.__members__.get(said, Reason.STOPPED)
        standing: Any = "declined" if reason is Reason.STOPPED else "failed"
        self.left[name] = seat = Seat(client, standing, "secure", f"it left: {reason.value}")
        if name not in self.spoken and self.step in STEPS[: STEPS.index(Step.MASK) + 1]:
            self._decide([seat])
        self.hall.facts.note(
            name, "left a secure sum", round=self.opened.round, reason=reason.value
        )

    def _decide(self, seats: list[Seat]) -> None:
        with self.hall.changed:
            held = self.hall.seats
            waiting = [s for s in seats if held[s.client].standing == "invited"]
        if waiting:
            found = self.ledger.decide(self.opened.round, "train", waiting).result()
            self.hall.sit(self.opened.round, "train", found)

    def _seat(self, client: ClientId, alive: set[ClientId], end: tuple[Reason, str]) -> Seat:
        """What became of a client that is not decided yet."""
        reason, cause = end
        if client in alive:
            return Seat(client, "arrived", metrics=self.metrics.get(client, {}))
        name = next(n for n, c in self.session.clients.items() if c == client)
        if name in self.left:
            return self.left[name]
        if reason is not Reason.DONE:
            return Seat(client, "late", reason.name.lower(), cause)
        step = self._fell.get(name, Step.UNMASK.value)
        return Seat(client, "late", "lease", f"it fell silent in the secure sum, at {step}")

    def _reply(self, found: Sum, alive: set[ClientId]) -> Reply:
        """The sum as the pipeline decodes it."""
        plan, cohort = self.plan, self.opened.cohort
        assert plan.secure is not None and self.terms is not None
        sums, weight = plan.frame.restore(found.total, len(alive))
        like = self.hall.facts.template["buffers"]
        facts = plan.secure.facts(self.terms, self.advertised, len(alive))
        clients = tuple(client for client in cohort if client in alive)
        return Reply(
            clients, sums, float(weight), self._public(clients), np.zeros(like.shape, like.dtype),
            facts,
        )  # fmt: skip

    def _public(self, clients: tuple[ClientId, ...]) -> Mapping[str, float]:
        """The metrics that the plan makes public, added in the fixed shape."""
        assert self.plan.secure is not None
        if self.plan.secure.metrics == "hidden":
            return {}
        each = (Reply((client,), {}, 0.0, self.metrics[client], {}) for client in clients)
        return sum_of(each, self.opened.cohort).metrics


def _terms(plan: Plan, hall: Hall, opened: Opened) -> Any:
    assert plan.secure is not None
    count = len(opened.cohort)
    return plan.secure.terms(
        plan.frame, run=hall.facts.run, round=opened.round,
        plan=bytes.fromhex(hall.facts.fingerprint), model=bytes.fromhex(opened.model),
        cohort=count, needed=plan.needed(count),
    )  # fmt: skip


def _longest(terms: Any) -> int:
    """Octets of the longest message of a client: its vector, or shares for all others."""
    return int(max(SMALL, HEAD + terms.ring.nbytes(terms.size), HEAD + 88 * terms.cohort))
