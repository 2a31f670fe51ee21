# SPDX-License-Identifier: Apache-2.0
"""Random sequences of commands to a coordinator, and what must hold after each and at the end.

Three of four commands are drawn from what the state allows next, as uniform ones reach no commit;
the fourth from anywhere: other members, other rounds, the mutants of valid messages that the codec
lets through, and what is no command at all.
"""

from collections import Counter
from dataclasses import replace
from functools import cache, partial

from tests.adversary.mutants import json_mutants
from tests.federation.coordinator.scenes import (
    FACTS,
    LEASE,
    METRICS,
    MODEL,
    OTHER,
    PRINT,
    RUN,
    work,
)

from muster.federation.coordinator import apply as applying
from muster.federation.coordinator import decide as deciding
from muster.federation.coordinator.apply import fold
from muster.federation.coordinator.commands import (
    AnnounceUpdate,
    AskTask,
    Attempted,
    BeginWork,
    BodyArrived,
    BodyRefused,
    ClosePiece,
    CommitRound,
    Conclude,
    DecideAssignments,
    Disposed,
    EndLeases,
    Exclude,
    GiveAnswer,
    GiveOrder,
    HearSecure,
    JoinSecure,
    OrderReturn,
    SayHello,
    ShowBytes,
    ShowSteps,
)
from muster.federation.coordinator.decide import Decision
from muster.federation.coordinator.events import (
    Committed,
    Decided,
    Said,
    WentBack,
    read_event,
    row_of,
)
from muster.federation.coordinator.lifecycle import Call
from muster.federation.coordinator.secagg_progress import SecAggProgress
from muster.federation.coordinator.state import CoordinatorState, Volatile
from muster.federation.protocol.message import (
    VERSIONS,
    Ack,
    Decline,
    Hello,
    Measured,
    Poll,
    Progress,
    TrainingFailure,
    UpdateHeader,
    from_json,
)
from muster.security.refusal import Refused
from muster.store.journal import forgets
from muster.store.records import Assignment, SecAggEvent

NAMES = ("a", "b", "c", "d")
ODD = (None, 7, "poll", (), {}, object(), float("nan"))
DIGESTS = ("c" * 64, OTHER)


class Broken(AssertionError):
    """A rule does not hold."""


def demand(holds, rule):
    """Raise `Broken` unless it holds."""
    if not holds:
        raise Broken(rule)


def of(kind):
    """A constructor of messages that makes each of them once: the codec checks every field."""
    return cache(partial(kind, RUN))


asks, declines, fails, steps = map(of, (Poll, Decline, TrainingFailure, Progress))


@cache
def measured(round, attempt):
    """Sums over two rows."""
    return Measured(RUN, round, MODEL, {"rows": 2.0}, attempt)


@cache
def hello(name, rows):
    """The first word of a member."""
    return Hello(VERSIONS, name or "x", PRINT, rows)


@cache
def update(name, round=1, digest=DIGESTS[0], attempt=1):
    """A valid update of a member with ten rows."""
    return UpdateHeader(RUN, round, digest, 100, 10.0, METRICS, attempt)


@cache
def hostile():
    """Commands of members whose messages are mutants that the codec lets through."""
    found = []
    for message, command in (
        (Hello(VERSIONS, "a", PRINT, 10), SayHello),
        (Poll(RUN, 1, 9.0), AskTask),
        (update("a"), AnnounceUpdate),
        (update("a"), BodyArrived),
        (Decline(RUN, 1, "no"), GiveAnswer),
        (TrainingFailure(RUN, 1, "train", "it"), GiveAnswer),
        (Measured(RUN, 1, MODEL, {"rows": 2.0}), GiveAnswer),
        (Progress(RUN, 1, 7), ShowSteps),
    ):
        for mutant in json_mutants(message):
            try:
                said = from_json(mutant.data, type(message))
            except Refused:
                continue
            found += [command(name, said) for name in ("a", "b", "nobody")]
    return tuple(found)


STRANGE = (  # well-formed, and never right
    SayHello("a", Hello((7,), "a", PRINT, 10)),
    SayHello("a", Hello(VERSIONS, "a", OTHER, 10)),
    SayHello("a", Hello(VERSIONS, "b", PRINT, 10)),
)


class World:
    """A leader that decides, its journal, and the invariants that an observer checks."""

    def __init__(self, draw):
        self.draw, self.now = draw, 0.0
        self.state, self.volatile = CoordinatorState(FACTS), Volatile(plays=True)
        self.journal, self.snapshot, self.said = [], None, []
        self.arrived, self.spoken = Counter(), Counter()
        self.counts = Counter()

    def play(self, length):
        """So many commands, then the rules about the whole."""
        for step in range(length):
            self.now += self.draw.random() * (8.0 if self.draw.random() < 0.2 else 0.5)
            command = self.allowed() if self.draw.random() < 0.75 else self.anything()
            self.said.append(command)
            self.do(command)
            if step == length // 2:
                self.snapshot = self.state.copy()
        self.end()

    def do(self, command):
        """Decide it as a writer does: events, applied one by one, then what was seen."""
        before = self.state.position
        found = deciding.decide(self.state, self.volatile, command, self.now)
        demand(isinstance(found, Decision | Refused), "decide gives a decision or a refusal")
        if isinstance(found, Refused):
            self.counts[str(found.reason)] += 1
            return demand(self.state.position == before, "what is refused changes nothing")
        if isinstance(found.answer, Refused):
            self.counts[str(found.answer.reason)] += 1
        lease = dict(self.volatile.leases)
        for event in found.events:
            self.check(event, lease)
            self.put(event)
        if found.sign is not None:
            self.volatile.take(found.sign, self.now, LEASE)
        self.check_told(command, found, lease)
        return None

    def put(self, event):
        """Into the journal and into the state."""
        self.counts[type(event).__name__] += 1
        position = self.state.position + 1
        self.journal.append((position, event))
        applying.apply(self.state, event).position = position
        self.volatile.heed(event, self.state, self.now)

    def check(self, event, lease):
        """The invariants about one event, before it is applied."""
        state = self.state
        if isinstance(event, Decided):
            one = event.assignment
            place = (event.round, event.attempt, event.kind, one.client)
            self.arrived[place] += 1
            demand(self.arrived[place] == 1, "I2: an assignment is decided once")
            demand(event.round > state.committed, "I3: nothing of a past round is decided")
            if one.reason == "lease":
                demand(lease[one.client] <= self.now, "L2: late only when its lease is over")
        if isinstance(event, Said):
            place = (event.round, event.attempt, event.word.name, event.word.kind)
            self.spoken[place] += 1
            demand(self.spoken[place] == 1, "I4: a kind of message is said once")
        if isinstance(event, Committed):
            demand(event.round == state.committed + 1, "I3: versions are 1, 2, 3")
            for piece in state.works.values():
                demand(
                    all(one.standing != "invited" for one in piece.assignments.values()),
                    "I6: every assignment has arrived or ended",
                )
                if piece.opened.kind == "train":
                    demand(
                        set(event.accepted) <= set(piece.opened.cohort) <= set(state.names),
                        "I3: accepted, of the cohort, enrolled",
                    )

    def check_told(self, command, found, lease):
        """The invariants about an answer."""
        if isinstance(command, BodyArrived) and found.answer == Ack(True):
            header, client = command.update, self.state.members[command.name].client
            piece = self.state.piece(header.round, "train")
            held = None if piece is None else piece.assignments.get(client)
            demand(
                held is not None and held.digest == header.digest and held.standing == "arrived",
                "D1: what is acknowledged has arrived",
            )
        if isinstance(command, AskTask) and found.sign is not None and not found.sign.took:
            demand(self.volatile.leases == lease, "a bare poll renews no lease")

    def end(self):
        """Law 9: the state is a function of the events, however they are read."""
        state, facts = self.state, FACTS
        demand(fold(CoordinatorState(facts), self.journal) == state, "fold of events = state")
        rest = self.snapshot or CoordinatorState(facts)
        demand(fold(rest, self.journal) == state, "snapshot and rest = replay")
        rows = [replace(row_of(event), position=at) for at, event in self.journal]
        reader = fold(CoordinatorState(facts), ((row.position, read_event(row)) for row in rows))
        demand(reader.digest() == state.digest(), "two readers of the journal agree")
        kept = []
        for row in rows:
            spans = forgets(row)
            kept = [one for one in kept if not any(span.covers(one) for span in spans)]
            kept.append(row)
        short = fold(CoordinatorState(facts), ((row.position, read_event(row)) for row in kept))
        demand(short.digest() == state.digest(), "a bounded journal = the whole")

    # What comes next.

    def allowed(self):
        """A command that the state allows next."""
        draw, state = self.draw, self.state
        if len(state.members) < 3:
            return self.hello(draw.choice(NAMES))
        piece = state.current
        if piece is None:
            round = state.committed + 1
            cohort = tuple(sorted(draw.sample(sorted(state.names), 2)))
            if draw.random() < 0.05 and round > 1:
                self.go_back(draw.randrange(round))
            return BeginWork(work(round, cohort=cohort))
        waiting = [c for c, one in piece.assignments.items() if one.standing == "invited"]
        round, kind, attempt = piece.opened.round, piece.opened.kind, piece.attempt
        if not waiting:
            if kind == "train" and draw.random() < 0.3:
                came = [c for c, one in piece.assignments.items() if one.standing == "arrived"]
                again = work(round, "evaluate", piece.opened.cohort)
                return BeginWork(replace(again, counted=tuple(came)))
            trained = state.piece(round, "train")
            held = trained.assignments if trained else {}
            came = [c for c, one in held.items() if one.standing == "arrived"]
            return CommitRound(round, tuple(c for c in came if draw.random() < 0.9))
        name = state.names[draw.choice(waiting)]
        if self.volatile.session is None and draw.random() < 0.3:
            self.begin_secure(piece)
        choice = draw.random()
        if kind == "evaluate" and choice < 0.4:
            return GiveAnswer(name, measured(round, attempt))
        if choice < 0.4:
            return BodyArrived(name, update(name, round, attempt=attempt))
        return draw.choice(
            (
                lambda: AskTask(name, asks(0, 9.0), 9.0),
                lambda: AskTask(name, asks(max(0, round - 1), 0.0)),
                lambda: AnnounceUpdate(
                    name, update(name, round, attempt=attempt), draw.choice((99, 1 << 40))
                ),
                lambda: BodyRefused(name, update(name, round, attempt=attempt), "malformed", "it"),
                lambda: GiveAnswer(name, declines(round, "no", attempt)),
                lambda: GiveAnswer(name, fails(round, "train", "it", attempt)),
                lambda: ShowBytes(name, round, 5),
                lambda: ShowSteps(name, steps(round, draw.randrange(9), attempt)),
                lambda: JoinSecure(name, round, draw.random() < 0.5),
                lambda: self.word(name, round),
                lambda: self.word("", round),
                lambda: EndLeases(round, kind),
                lambda: ClosePiece(round, kind, Call(1, self.now + draw.uniform(-1, 1))),
                lambda: DecideAssignments(
                    round, kind, (Assignment(state.members[name].client, "late", "secure"),)
                ),
            )
        )()

    def anything(self):
        """A command from anywhere."""
        draw = self.draw
        now, attempts = self.state.committed + 1, (self.state.facts.attempt, 1, 2)
        round, attempt = draw.choice((now, now, now, 0, 1, 2, 9, 1 << 30)), draw.choice(attempts)
        name, digest = draw.choice((*NAMES, "nobody", "")), draw.choice(DIGESTS)
        header = update(name, max(1, round), digest, attempt)
        kind = draw.choice(("train", "evaluate"))
        return draw.choice(
            (
                lambda: draw.choice(ODD),
                lambda: draw.choice(hostile()),
                lambda: draw.choice(hostile()),
                lambda: draw.choice(STRANGE),
                lambda: AnnounceUpdate(name, replace(header, size=501)),
                lambda: draw.choice(self.said) if self.said else None,
                lambda: self.hello(name),
                lambda: AskTask(name, asks(round, 9.0, attempt), draw.uniform(-1, 9)),
                lambda: AnnounceUpdate(name, header, draw.choice((0, 99, 1 << 40))),
                lambda: BodyArrived(name, header),
                lambda: BodyRefused(name, header, "malformed", "it"),
                lambda: Disposed(name, header),
                lambda: ShowBytes(name, round, draw.randrange(3)),
                lambda: ShowSteps(name, steps(max(1, round), draw.randrange(3), attempt)),
                lambda: Attempted(round, attempt),
                lambda: JoinSecure(name, round, draw.random() < 0.5),
                lambda: self.word(name, round),
                lambda: BeginWork(work(max(1, self.state.committed + draw.choice((0, 1, 1))))),
                lambda: EndLeases(round, kind),
                lambda: ClosePiece(round, kind, Call(draw.randrange(3), self.now)),
                lambda: DecideAssignments(round, kind, (Assignment(name, "late", "secure"),)),
                lambda: CommitRound(round, (name,)),
                lambda: GiveOrder(draw.choice(("run", "pause", "drain", "stop", "halt", ""))),
                lambda: OrderReturn(round),
                lambda: Exclude(name, "it lied"),
                lambda: Conclude("over"),
            )
        )()

    def hello(self, name):
        rows = self.draw.choice((10, 10, 10, 11))
        return SayHello(name, hello(name, rows))

    def word(self, name, round):
        data = self.draw.choice((b"x", b"y"))
        word = SecAggEvent(name, self.draw.choice(("1", "2")), data, digest=data.hex() * 32)
        return HearSecure(round, word)

    def begin_secure(self, piece):
        clients = {self.state.names[client]: client for client in piece.opened.cohort}
        self.volatile.session = SecAggProgress(piece.opened.round, clients, 9, str, {})

    def go_back(self, round):
        """The engine has gone back: the store wrote it down."""
        self.put(WentBack(round, (*self.state.facts.raised, round)))
