# SPDX-License-Identifier: Apache-2.0
"""The coordinator of one server: the one writer of its state, and where all others look.

A command is decided by `decide` and by nothing else. Where nothing follows from it, it is answered
at once from the state that is durable. Else it waits for the writer, which takes all that waits:

    for each: decide → append → apply → keep its answer back;  one sync for all;  give the answers

Until the sync, events are applied to the writer's own copy, which is *ahead*; whoever asks
meanwhile is told of the state whose position is durable. Where the sync fails, nothing was told,
and the copy is made anew. Another server's events, and those that the store writes itself (a
commit, a rollback), are read from the journal and applied in the same way: servers that have read
the same journal hold the same state. What lives shorter (leases, who was heard when) is `volatile`,
and here alone.

The gate is held for a few steps of memory, and never while anybody waits for a disk.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from muster.errors import RunError
from muster.federation.coordinator.apply import apply, fold
from muster.federation.coordinator.commands import (
    BeginWork,
    ClosePiece,
    Command,
    CommitRound,
    Conclude,
    DecideAssignments,
    EndLeases,
    Exclude,
    GiveOrder,
    HearSecure,
    OrderReturn,
)
from muster.federation.coordinator.decide import Decision, decide
from muster.federation.coordinator.events import (
    Committed,
    Decided,
    Event,
    Excluded,
    Opened,
    Said,
    WentBack,
    read_event,
    row_of,
)
from muster.federation.coordinator.facts import FederationFacts
from muster.federation.coordinator.lifecycle import phase
from muster.federation.coordinator.notifier import EngineNews, Notifier
from muster.federation.coordinator.secagg_progress import SecAggProgress
from muster.federation.coordinator.state import CoordinatorState, Sign, Volatile
from muster.federation.coordinator.status import Told, lacking, status
from muster.security.refusal import Refused
from muster.store.ledger import FederationStore
from muster.store.records import Assignment, Kind, Member, OpenWork, SecAggEvent, Transition
from muster.store.sql.journal import JournalTurn
from muster.types import ClientId

__all__ = ["Back", "FederationFacts", "RoundState"]

LOG = logging.getLogger("muster.server")
# What the engine alone says: in the store's transaction it is compared with who leads.
LEADS = (BeginWork, EndLeases, ClosePiece, DecideAssignments, CommitRound, Exclude)


@dataclass(frozen=True)
class Back:
    """An operator's order to go back to a round: by whom, why, and where the answer goes."""

    round: int
    by: str
    reason: str
    done: Future[dict[str, Any]] = field(default_factory=Future)


Placed = tuple[int, Event]  # an event and its position


class _Kept(NamedTuple):
    """An answer that waits until what it tells is durable."""

    future: Future[Decision]
    found: Decision | Refused


class _Written(NamedTuple):
    """The events that a turn of the writer wrote, or found; the answers to give."""

    events: list[Placed]
    kept: list[_Kept]


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
        self.ledger, self.clock, self.wall = ledger, clock, wall
        self.refusals: Counter[str] = Counter()
        self._told_refusals: Counter[str] = Counter()
        self.back: Back | None = None  # what an operator wants the run to go back to
        self.phase = "waiting"
        self.news, self.notifier = EngineNews(), Notifier()
        self._gate = threading.Lock()
        self._state, self.volatile = CoordinatorState(facts), Volatile()
        self._waiting: list[tuple[Command, Future[Decision]]] = []
        self.follow()
        self._ahead, self._torn = self._state.copy(), False
        self.volatile.untold = set() if ledger.shared else set(self._state.works)
        for name, why in self._state.odd.items():
            cause = f"{name} must say hello again: {why}"
            self.ledger.record(Transition(self.wall(), 0, "enrolled", "left out", cause))

    # What is durable, for whoever looks: it changes only behind a sync.

    @property
    def state(self) -> CoordinatorState:
        """The state that is durable; nobody but the writer changes it."""
        return self._state

    @property
    def facts(self) -> FederationFacts:
        """The facts that do not change, but for the attempt that rounds are played in."""
        return self._state.facts

    @property
    def members(self) -> Mapping[str, Member]:
        """The members, by name."""
        return MappingProxyType(self._state.members)

    @property
    def committed(self) -> int:
        """The last committed round."""
        return self._state.committed

    @property
    def wanted(self) -> str:
        """The order that stands: what operators want of the run."""
        return self._state.wanted

    @property
    def excluded(self) -> Mapping[ClientId, str]:
        """The clients that take part no more, and why."""
        return MappingProxyType(self._state.excluded)

    @property
    def opened(self) -> OpenWork | None:
        """The work opened last, until its round is committed."""
        with self._gate:
            piece = self._state.current
        return None if piece is None else piece.opened

    @property
    def seats(self) -> dict[ClientId, Assignment]:
        """The assignments of that."""
        with self._gate:
            piece = self._state.current
            return {} if piece is None else dict(piece.assignments)

    def assignments(self, round: int, kind: Kind) -> dict[ClientId, Assignment] | None:
        """Return what became of whom in a piece of a round; None where it is not open."""
        with self._gate:
            piece = self._state.piece(round, kind)
            return None if piece is None else dict(piece.assignments)

    def leases(self) -> dict[ClientId, float]:
        """Return until when each may be silent."""
        with self._gate:
            return dict(self.volatile.leases)

    def present(self) -> list[Member]:
        """Return the members that may be asked now, by client id."""
        with self._gate:
            return self.volatile.present(self._state, self.clock())

    def here(self) -> list[Member]:
        """Return the members that have been heard of lately."""
        with self._gate:
            return self.volatile.here(self._state, self.clock())

    def quarantined(self, client: ClientId) -> bool:
        """Return whether a client is left out until it says hello, or for good."""
        with self._gate:
            return self.volatile.quarantined(self._state, client)

    def heard_all(self) -> bool:
        """Return whether everybody who is here has heard that the run is over."""
        with self._gate:
            here = self.volatile.here(self._state, self.clock())
            return {member.client for member in here} <= self.volatile.told

    def moved(self) -> dict[ClientId, int]:
        """Return how often each was heard here, for the other servers."""
        with self._gate:
            return dict(self.volatile.moved)

    def status(self) -> Told:
        """Return what an operator sees, as plain data."""
        with self._gate:
            found = status(self._state, self.volatile, self.clock())
        return found | {"phase": self.phase, "refusals": dict(self.refusals)}

    def lacking(self, enough: int) -> Told:
        """Say why no round begins: how many are here of so many, and where others are."""
        with self._gate:
            return lacking(self._state, self.volatile, self.clock(), enough)

    @property
    def closing(self) -> bool:
        """True while the server goes down."""
        return self.volatile.closing

    @property
    def session(self) -> SecAggProgress | None:
        """The secure sum of the round that is open, as its members see it."""
        return self.volatile.session

    # Commands.

    def ask(self, command: Command) -> Any:
        """Answer a command from which nothing follows that must be stored.

        Raises `Refused`, and `TypeError` where something does follow: `submit` that.
        """
        with self._gate:
            self.volatile.kept = self.notifier.waiting
            found = decide(self._state, self.volatile, command, self.clock())
            if isinstance(found, Decision) and found.events:
                raise TypeError(f"{command!r:.80} is to be written down; submit it")
            news = self._signed(found)
        if news:
            self.news.ring()
        return _answer(found).answer

    def submit(self, command: Command) -> Future[Decision]:
        """Decide a command; resolves once what follows is durable, to that, or raises `Refused`."""
        future: Future[Decision] = Future()
        with self._gate:
            found = decide(self._state, self.volatile, command, self.clock())
            waits = isinstance(found, Decision) and bool(found.events)
            if waits:
                self._waiting.append((command, future))
            first, news = len(self._waiting) == 1, not waits and self._signed(found)
        if news:
            self.news.ring()
        if not waits:
            _give(_Kept(future, found))
        elif first:
            self._turn([])
        return future

    def _turn(self, alone: list[tuple[Command, Future[Decision]]]) -> None:
        """Have the writer take all that waits, or one command by itself."""
        taken = list(alone)

        def write(turn: JournalTurn) -> _Written:
            if not alone:
                with self._gate:
                    taken.extend(self._waiting)
                    self._waiting.clear()
            return self._write(turn, taken)

        try:
            job = self.ledger.write(write)
        except RunError as error:  # it is closed
            with self._gate:
                taken.extend(self._waiting)
                self._waiting.clear()
            for _, future in taken:
                future.set_exception(error)
        else:
            job.add_done_callback(lambda done: self._told(done, taken))

    def _write(
        self, turn: JournalTurn, taken: Sequence[tuple[Command, Future[Decision]]]
    ) -> _Written:
        """One turn of the writer, inside the store's transaction; it may be begun again."""
        if self._torn:
            with self._gate:
                self._ahead = self._state.copy()
        self._torn, ahead = True, self._ahead
        events: list[Placed] = []
        while turn.position > ahead.position and (more := turn.after(ahead.position)):
            fresh = [(row.position, read_event(row)) for row in more]
            events += fresh
            fold(ahead, fresh)
        ahead.position = turn.position
        kept, rows, leads = list[_Kept](), [], False
        for command, future in taken:
            with self._gate:
                found = decide(ahead, self.volatile, command, self.clock())
            kept.append(_Kept(future, found))
            for event in found.events if isinstance(found, Decision) else ():
                rows.append(row_of(event))
                apply(ahead, event).position += 1
                events.append((ahead.position, event))
                leads |= isinstance(command, LEADS) or (
                    isinstance(command, HearSecure) and not command.word.name
                )
        if rows:
            turn.append(rows, leads=leads)
        return _Written(events, kept)

    def _told(
        self, job: Future[_Written], taken: Sequence[tuple[Command, Future[Decision]]]
    ) -> None:
        """Give the answers of a turn whose events are durable; one that failed told nobody."""
        error = job.exception()
        if error is None:
            written = job.result()
            self._torn = False
            self._applied(written.events)
            with self._gate:
                signs = [self._signed(one.found) for one in written.kept]
            if any(signs):
                self.news.ring()
            for one in written.kept:
                _give(one)
        elif len(taken) > 1:  # one of them cannot be written: each has its own turn
            for each in taken:
                self._turn([each])
        else:
            for _, future in taken:
                future.set_exception(error)

    def follow(self) -> None:
        """Take in what is in the journal: another server's events, a commit, a rollback."""
        while rows := self.ledger.rows(self._state.position):
            self._applied([(row.position, read_event(row)) for row in rows])

    def _applied(self, events: Iterable[Placed]) -> None:
        """Take in events that are durable, and do what follows from them."""
        with self._gate:
            fresh = [one for one in events if one[0] > self._state.position]
            now = self.clock()
            for position, event in fresh:
                apply(self._state, event).position = position
                self.volatile.heed(event, self._state, now)
                self._session_of(event)
        ring: set[ClientId] = set()
        everybody = False
        for _, event in fresh:
            match event:
                case Opened(work):
                    ring.update(work.cohort)
                    self._step(f"{len(work.cohort)} clients invited")
                case Decided():
                    self._step("a client has answered")
                case Committed(round):
                    everybody = True
                    self._count_refusals(round)
                    self.phase = "waiting"
                case WentBack():
                    everybody = True
                    self.phase = "waiting"
                case Excluded(client):
                    ring.add(client)
        if fresh:
            self.notifier.ring(None if everybody else ring)
            self.news.ring()

    def _session_of(self, event: Event) -> None:
        """Count one more message of a secure sum that is open."""
        session = self.volatile.session
        if isinstance(event, Said) and session is not None and session.round == event.round:
            piece = self._state.piece(event.round, "train")
            session.last = len(piece.said) if piece is not None else session.last

    def _signed(self, found: Decision | Refused) -> bool:
        """Take in what a command showed of who said it; whether that is news for the engine."""
        if isinstance(found, Refused) or found.sign is None:
            return False
        sign, now = found.sign, self.clock()
        since = self.volatile.since(self._state, now)
        back = self.volatile.seen.get(sign.client, now) < since
        self.volatile.take(sign, now, self.facts.lease)
        if sign.took:
            self._fetched(sign)
        return back or sign.ended or bool(sign.hello)

    # Steps of a round, for who reads its log.

    def _fetched(self, sign: Sign) -> None:
        """Note that a client has its task."""
        self._step("a client has its task")

    def _step(self, cause: str) -> None:
        """Write a step down; what the log lacks is no reason to leave an answer out."""
        piece = self._state.current
        if piece is None or piece.opened.kind != "train":
            return
        try:
            self.move(phase(piece.assignments.values(), bool(self.volatile.taken)), cause)
        except RunError as error:
            LOG.error("a step of round %d is not in its log: %s", piece.opened.round, error)

    def move(self, phase: str, cause: str) -> None:
        """Move the round as a whole a step on; of several servers the one that plays writes it."""
        before, self.phase = self.phase, phase
        if phase != before and (self.volatile.plays or not self.ledger.shared):
            piece = self._state.current
            round = piece.opened.round if piece else self.committed + 1
            self.ledger.record(Transition(self.wall(), round, before, phase, cause))

    def _count_refusals(self, round: int) -> None:
        """Write down what was refused since the last round, by reason."""
        fresh = self.refusals - self._told_refusals
        if fresh:
            told = ", ".join(f"{count} {reason}" for reason, count in sorted(fresh.items()))
            step = Transition(self.wall(), round, "collecting", "collecting", f"refused: {told}")
            self._told_refusals += fresh
            try:
                self.ledger.record(step)
            except RunError as error:
                LOG.error("the refusals of round %d are not in its log: %s", round, error)

    # The engine.

    def do(self, command: Command) -> Decision:
        """Return what followed from a command of the engine's, durable. Raises `Refused`."""
        return self.submit(command).result()

    def show(self, round: int, kind: Kind) -> None:
        """Tell those who are asked, as the model is there; after a restart leases begin now."""
        with self._gate:
            piece = self._state.piece(round, kind)
            if piece is not None and piece.key in self.volatile.untold:
                self.volatile.untold.discard(piece.key)
                lease = self.clock() + self.facts.lease
                self.volatile.leases |= dict.fromkeys(piece.assignments, lease)
        if piece is not None:
            self.notifier.ring(piece.opened.cohort)

    def judge(self, round: int, cause: str) -> None:
        """Judge a round that takes nothing more: who has failed once more, who rests."""
        self.move("committing", cause)
        with self._gate:
            piece = self._state.piece(round, "train")
            until = self.clock() + self.facts.lease
            seats = piece.assignments.values() if piece is not None else ()
            out = self.volatile.judge(seats, until)
        self.notifier.ring(out)

    def settled(self, round: int, accepted: Iterable[ClientId]) -> None:
        """Settle a committed round: whoever waits for its fate hears it."""
        self.follow()  # what the store wrote down in the commit
        self.do(CommitRound(round, tuple(accepted)))

    def heard(self, round: int, after: int) -> list[SecAggEvent]:
        """Return some messages of a round's secure sum behind the first `after`, in order."""
        found = enumerate(map(read_event, self.ledger.said(round, after)), after + 1)
        return [replace(one.word, number=n) for n, one in found if isinstance(one, Said)]

    def join(self, session: SecAggProgress) -> None:
        """Show a secure sum to its members: they are told of their task from now on."""
        with self._gate:
            self.volatile.session = session
        self.notifier.ring(list(session.clients.values()))

    def tell(self, session: SecAggProgress, client: ClientId, data: bytes, *, ended: bool) -> None:
        """Put a message of a secure sum where its client finds it; its lease begins."""
        with self._gate:
            number = session.told.get(client, (0, b""))[0] + 1
            session.told[client] = number, data
            if ended:
                session.over.add(client)
            else:
                self.volatile.leases[client] = self.clock() + self.facts.lease
        self.notifier.ring([client])

    def heard_elsewhere(self, client: ClientId) -> None:
        """Note that a client was heard at another server."""
        now = self.clock()
        with self._gate:
            self.volatile.seen[client] = now
            if client in self.volatile.leases:
                self.volatile.leases[client] = now + self.facts.lease

    # Operators, and the end.

    def order(self, word: str) -> None:
        """Take an order for the run, durable. Raises `Refused` for what is no order."""
        self.do(GiveOrder(word))

    def plays(self, plays: bool) -> None:
        """Note whether this server leads, and plays rounds."""
        with self._gate:
            self.volatile.plays = plays

    def ask_back(self, back: Back) -> None:
        """Ask the engine to go back for an operator: it sees to it before it does more.

        Raises `Refused` where no engine plays here, or another such order waits.
        """
        with self._gate:
            _answer(decide(self._state, self.volatile, OrderReturn(back.round), self.clock()))
            self.back, self.volatile.returning = back, True
        self.news.ring()

    def take_back(self, *, refuse: bool) -> Back | None:
        """Return the order to go back that waits; where none does, or to `refuse`, take no more.

        A server that has played to the end takes no more of them.
        """
        with self._gate:
            back = self.back
            if back is None or refuse:
                self.volatile.plays = False
                self.back, self.volatile.returning = None, False
        return back

    def came_back(self) -> None:
        """Forget an order to go back: it is answered."""
        with self._gate:
            self.back, self.volatile.returning = None, False

    def end(self, text: str) -> None:
        """End the run."""
        with self._gate:
            found = decide(self._state, self.volatile, Conclude(text), self.clock())
            self.volatile.ended = _answer(found).answer
        self.phase = "ended"
        self.news.ring()
        self.notifier.ring(None)

    def close(self) -> None:
        """Close, as the server goes down: nobody is kept waiting."""
        with self._gate:
            self.volatile.closing = True
        self.news.ring()
        self.notifier.ring(None)


def _answer(found: Decision | Refused) -> Decision:
    """Return what was decided. Raises `Refused` for what was refused."""
    if isinstance(found, Refused):
        raise found
    if isinstance(found.answer, Refused):
        raise found.answer
    return found


def _give(kept: _Kept) -> None:
    """Tell who waits; one who does not wait any more hears nothing."""
    if not kept.future.set_running_or_notify_cancel():
        return
    try:
        kept.future.set_result(_answer(kept.found))
    except Refused as refused:
        kept.future.set_exception(refused)
