# SPDX-License-Identifier: Apache-2.0
"""The decisions: a command's events and answer, or its refusal. Nowhere else is one refused.

A pure function of the state, of what this server has seen, of the command and of the time; total on
every input. The answer is computed here, with the events, and told once those are durable: computed
later, it would show what others have done since, and what is not on the disk yet.

    command        nothing open    open               decided            of a past round
    poll           wait            its task           wait               settled
    announce       foreign         resume             held, or why not   held, or stale
    body arrived   stale           arrived            ack, or why not    stale
    bytes, steps   stale           its lease begins   why not            stale
    answer         stale           ended              as it was          stale
    lease over     -               late, if over now  -                  -
    commit         not due         not due            committed          -
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from muster.federation.coordinator.admission import AdmissionLimits, admit
from muster.federation.coordinator.apply import ORDERS
from muster.federation.coordinator.commands import (
    AnnounceUpdate,
    AskTask,
    Attempted,
    BeginWork,
    BodyArrived,
    BodyRefused,
    ClosePiece,
    Command,
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
from muster.federation.coordinator.events import (
    Committed,
    Decided,
    Event,
    Excluded,
    MemberEnrolled,
    Opened,
    Ordered,
    Said,
)
from muster.federation.coordinator.lifecycle import closes, late, out
from muster.federation.coordinator.state import CoordinatorState, OpenPiece, Sign, Volatile
from muster.federation.protocol.claims import (
    check_hello,
    check_measured,
    check_training,
    check_weight,
    possible_rows,
    sound,
)
from muster.federation.protocol.limits import ENROLMENTS, MEMBERS
from muster.federation.protocol.message import (
    VERSIONS,
    Ack,
    Decline,
    Evaluate,
    Hello,
    Message,
    RunEnded,
    Settled,
    TrainAssignment,
    TrainingFailure,
    UpdateHeader,
    Wait,
    Welcome,
    agree,
)
from muster.security.refusal import RefusalReason, Refused, shown
from muster.store.records import Assignment, Kind, Member
from muster.types import ClientId

__all__ = ["Decision", "crowded", "decide", "pace"]

DAY = 86400.0


@dataclass(frozen=True)
class Decision:
    """A decision: events, an answer (or a refusal, of one who is heard all the same), a sign.

    `position` is that of the state which the answer tells of, its events among it: it may be told
    once that is durable.
    """

    events: tuple[Event, ...] = ()
    answer: Any = None
    sign: Sign | None = None
    position: int = field(default=0, compare=False)


def decide(
    state: CoordinatorState, volatile: Volatile, command: Command, now: float
) -> Decision | Refused:
    """Return what follows from a command, or why nothing does; `now` is monotonic, in seconds.

    >>> from muster.federation.coordinator.facts import FederationFacts
    >>> state = CoordinatorState(FederationFacts("r", "0" * 64, {}, max, None, 9))
    >>> decide(state, Volatile(), GiveOrder("pause"), 0.0).events
    (Ordered(word='pause'),)
    >>> decide(state, Volatile(), GiveOrder("halt"), 0.0).reason
    <RefusalReason.MALFORMED: 'malformed'>
    """
    rule = _RULES.get(type(command))
    if rule is None:
        return Refused(RefusalReason.MALFORMED, f"{shown(command)} is no command")
    try:
        found = rule(state, volatile, command, now)
        return replace(found, position=state.position + len(found.events))
    except Refused as refused:
        return refused


def crowded(state: CoordinatorState, volatile: Volatile) -> bool:
    """Return whether as many polls are kept waiting as may be.

    Where nobody may learn who was drawn, all are paced or none: how many are not at work now
    would tell how many are.
    """
    most = state.facts.polls
    return (state.facts.hides and len(state.members) > most) or volatile.kept >= most


def pace(state: CoordinatorState, volatile: Volatile, asked: float) -> float:
    """Return the seconds until a client should ask again, so that all together keep the pace.

    A power of two from 1: no client can count the others by it. `asked` is how long it would wait.
    """
    if volatile.closing:
        return 1.0
    if asked > 0 and not crowded(state, volatile):
        return 0.0
    return float(1 << max(0, math.ceil(math.log2(max(1, len(state.members)) / state.facts.pace))))


# Members.


def _hello(s: CoordinatorState, v: Volatile, c: SayHello, now: float) -> Decision:
    facts, name = s.facts, c.name
    version = agree(Hello(VERSIONS, "server", facts.fingerprint), c.hello)
    check_hello(name, c.hello)
    member = Member(name, facts.names.get(name, name), c.hello.rows, c.certificate)
    sign = Sign(member.client, hello=name)
    events: tuple[Event, ...] = ()
    if s.members.get(name) != member:
        if name not in s.members and len(s.members) >= MEMBERS:
            raise Refused(
                RefusalReason.NO_ROOM, f"{MEMBERS} members are enrolled; no more are taken"
            )
        other = s.names.get(member.client, name)
        if other != name:
            raise Refused(
                RefusalReason.DUPLICATE,
                f"{name!r} would enrol as client {member.client!r}, which {other!r} is already; "
                f"give one of them another id",
            )
        events, sign = (MemberEnrolled(member),), replace(sign, changed=_again(v, name, now))
    return Decision(
        events, Welcome(version, facts.run, member.client, facts.lease, facts.study), sign
    )


def _again(v: Volatile, name: str, now: float) -> tuple[float, int]:
    """Count another enrolment of a member: each is a line of the log, so a day lets few in."""
    since, count = v.enrolments.get(name, (now, 0))
    if now - since >= DAY:
        since, count = now, 0
    if count >= ENROLMENTS:
        raise Refused(
            RefusalReason.TOO_OFTEN,
            f"{name} has changed its rows or its certificate {count} times within a day; "
            f"keep to what it said last, or wait",
        )
    return since, count + 1


def _poll(s: CoordinatorState, v: Volatile, c: AskTask, now: float) -> Decision:
    client, poll = _member(s, c.name).client, c.poll
    _run(s, poll.run)
    said = _next(s, v, client, c)
    sign = Sign(
        client,
        took=isinstance(said, TrainAssignment | Evaluate),
        ended=isinstance(said, RunEnded),
    )
    if said is not None:
        return Decision((), said, sign)
    if client in s.excluded:
        why = f"{c.name} takes part no more: {s.excluded[client]}"
        return Decision((), Refused(RefusalReason.LEFT_OUT, why), sign)
    if v.quarantined(s, client):
        why = (
            f"{c.name} has failed in too many rounds on end and is left out; mend it (its "
            f"log has the reason), then say hello again"
        )
        return Decision((), Refused(RefusalReason.LEFT_OUT, why), sign)
    if c.left <= 0 or v.closing or crowded(s, v):
        return Decision((), Wait(pace(s, v, poll.wait)), sign)
    return Decision((), None, sign)


def _next(s: CoordinatorState, v: Volatile, client: ClientId, c: AskTask) -> Message | None:
    """Return what a client is told at once; None where it may be kept waiting."""
    facts, pending = s.facts, c.poll.pending
    if pending and pending <= s.committed:
        ours = c.poll.attempt == facts.attempt_of(pending)  # else it was lost with its round
        fate = client in s.fates[pending] if pending in s.fates else c.fate
        return Settled(facts.run, pending, ours and fate, c.poll.attempt)
    piece = s.current
    held = None if piece is None else piece.assignments.get(client)
    if piece is not None and held is not None and _asks(s, v, piece, held):
        opened = piece.opened
        about = (facts.run, opened.round, opened.model, facts.lease)
        if opened.kind == "evaluate":
            return Evaluate(*about, client in opened.counted, facts.attempt)
        peers = next((len(group) for group in opened.groups if client in group), 0)
        return TrainAssignment(*about, piece.times.get(client, 1), peers, facts.attempt)
    return v.ended


def _asks(s: CoordinatorState, v: Volatile, piece: OpenPiece, held: Assignment) -> bool:
    """Return whether a client is still asked for something.

    Where sums are masked: once its secure sum is open here, until it is over for it.
    """
    if held.standing != "invited" or piece.key in v.untold:
        return False
    if piece.opened.kind != "train":
        return True
    session = v.session if v.session and v.session.round == piece.opened.round else None
    if session is None:
        return not s.facts.claims.masked
    return held.client not in session.over


# Updates.


def _announce(s: CoordinatorState, v: Volatile, c: AnnounceUpdate, now: float) -> Decision:
    """Answer whether the body is wanted: False where it is held already."""
    member, update = _member(s, c.name), c.update
    client, facts = member.client, s.facts
    if update.run == facts.run and v.held.get(client) == (update.round, update.digest):
        return Decision((), False)
    piece = s.current
    held = None if piece is None else piece.assignments.get(client)
    current = s.committed + 1
    if piece is not None:
        current = piece.opened.round + (piece.opened.kind == "evaluate")
    terms = AdmissionLimits(
        facts.run,
        current,
        invited=held is not None and piece is not None and current == piece.opened.round,
        left=v.leases.get(client, math.inf) - now,
        held=held.digest if held else "",
        limit=facts.size,
        room=c.room,
        attempt=facts.attempt,
    )
    try:
        admit(update, terms)
    except Refused as refused:
        if refused.reason is RefusalReason.NO_ROOM:  # a full disk is not the client's silence
            return Decision((), refused, Sign(client, renews=True))
        raise
    assert piece is not None and held is not None
    _undecided(held, update.round)
    _check(s, update, member, piece)
    return Decision((), True, Sign(client, renews=True))


def _check(s: CoordinatorState, update: UpdateHeader, member: Member, piece: OpenPiece) -> None:
    """Check what an update says of itself, against the plan, the draw and the enrolment."""
    client = member.client
    drawn: Any = next((rows for one, rows in piece.opened.roster if one == client), None)
    if possible_rows(drawn) != drawn:  # an odd record
        drawn = member.rows
    check_training(update.metrics, {member.rows, drawn}, s.facts.claims)
    times = piece.times.get(client, 1)
    check_weight(update.weight, drawn, times, s.facts.weigh)  # however it has enrolled since


def _undecided(held: Assignment, round: int) -> None:
    if held.standing == "late":
        raise Refused(RefusalReason.LATE, f"round {round} goes on without it: {held.text}")
    if held.standing in ("declined", "failed"):
        raise Refused(RefusalReason.CLOSED, f"the seat in round {round} is {held.standing}")


def _arrived(s: CoordinatorState, v: Volatile, c: BodyArrived, now: float) -> Decision:
    update, client = c.update, _member(s, c.name).client
    one = Assignment(
        client,
        "arrived",
        digest=update.digest,
        size=update.size,
        weight=update.weight,
        metrics=update.metrics,
    )
    events, held = _decided(s, update.round, update.attempt, "train", one)
    if events or (held.standing == "arrived" and held.digest == update.digest):
        return Decision(events, Ack(True))
    _undecided(held, update.round)
    raise Refused(RefusalReason.DUPLICATE, f"another update for round {update.round} is held")


def _spoiled(s: CoordinatorState, v: Volatile, c: BodyRefused, now: float) -> Decision:
    """Fail the client of a whole update that was no good."""
    one = Assignment(_member(s, c.name).client, "failed", c.reason, c.text)
    return Decision(_decided(s, c.update.round, c.update.attempt, "train", one)[0])


def _disposed(s: CoordinatorState, v: Volatile, c: Disposed, now: float) -> Decision:
    """Look at the assignment first, which is there until its round is the latest."""
    client, update = _member(s, c.name).client, c.update
    piece = s.piece(update.round, "train")
    held = None if piece is None else piece.assignments.get(client)
    counted = held is not None and held.digest == update.digest
    return Decision((), counted or s.committed >= update.round)


def _answer(s: CoordinatorState, v: Volatile, c: GiveAnswer, now: float) -> Decision:
    """Take the answer of a client that declines, failed, or has measured."""
    member, message, piece = _member(s, c.name), c.message, s.current
    client, round = member.client, message.round
    _run(s, message.run)
    _attempt(s, round, message.attempt)
    if piece is None or piece.opened.round != round or client not in piece.assignments:
        raise Refused(RefusalReason.STALE, f"round {round} asks nothing of {client!r} now")
    kind = piece.opened.kind
    if isinstance(message, Decline):
        one = Assignment(client, "declined", "declined", message.text)
    elif isinstance(message, TrainingFailure):
        one = Assignment(client, "failed", message.stage, message.text)
    elif kind == "evaluate" and piece.opened.model == message.model:
        check_measured(message.metrics, member.rows, s.facts.claims)
        one = Assignment(client, "arrived", metrics=message.metrics)
    else:
        raise Refused(RefusalReason.STALE, f"that model of round {round} is not measured now")
    return Decision(_decided(s, round, message.attempt, kind, one)[0], Ack(True))


def _decided(
    s: CoordinatorState, round: int, attempt: int, kind: Kind, one: Assignment
) -> tuple[tuple[Event, ...], Assignment]:
    """Return the event that decides an assignment, unless one has; and what holds before it."""
    piece = s.piece(round, kind) if attempt == s.facts.attempt else None
    held = None if piece is None else piece.assignments.get(one.client)
    if held is None:
        raise Refused(RefusalReason.STALE, f"round {round} is over")
    if held.standing != "invited":
        return (), held
    assert piece is not None
    claims, weigh = s.facts.claims, s.facts.weigh
    kept = sound(one, one.client, kind, piece.times.get(one.client, 1), claims, weigh)
    if kept is not one:  # what is stored would be left out by whoever reads it
        raise Refused(RefusalReason.MALFORMED, kept.text)
    return (Decided(round, attempt, kind, one),), held


# Progress.


def _bytes(s: CoordinatorState, v: Volatile, c: ShowBytes, now: float) -> Decision:
    """Note that bytes moved: the client's lease begins anew, in the round that is open."""
    piece = s.current
    current = piece is not None and piece.opened.round == c.round
    return Decision((), None, Sign(_member(s, c.name).client, renews=current and c.amount > 0))


def _steps(s: CoordinatorState, v: Volatile, c: ShowSteps, now: float) -> Decision:
    """Note the steps done so far; other than said before (a restart repeats) is progress."""
    client, piece, said = _member(s, c.name).client, s.current, c.said
    _run(s, said.run)
    _attempt(s, said.round, said.attempt)
    held = None if piece is None else piece.assignments.get(client)
    if piece is None or piece.opened.round != said.round or held is None:
        raise Refused(
            RefusalReason.STALE, f"round {said.round} is over, or does not ask {client!r}"
        )
    _undecided(held, said.round)
    mark = (said.round, said.steps)
    if v.steps.get(client) == mark:
        return Decision((), Ack(True))
    return Decision((), Ack(True), Sign(client, renews=True, steps=mark))


def _attempted(s: CoordinatorState, v: Volatile, c: Attempted, now: float) -> Decision:
    _attempt(s, c.round, c.attempt)
    return Decision()


def _attempt(s: CoordinatorState, round: int, attempt: int) -> None:
    """Raise `Refused` for what belongs to rounds that this server has lost, or has not yet."""
    now = s.facts.attempt
    if attempt != now:
        raise Refused(
            RefusalReason.STALE,
            f"attempt {attempt} of round {round} is not played; it is attempt {now}",
        )


# Secure sums.


def _join(s: CoordinatorState, v: Volatile, c: JoinSecure, now: float) -> Decision:
    """Return the session of a round that a member takes part in; None before it begins."""
    client, session = _member(s, c.name).client, v.session
    if c.round <= s.committed:
        raise Refused(RefusalReason.STALE, f"round {c.round} is over")
    if v.ended is not None:
        raise Refused(RefusalReason.CLOSED, f"the run has ended: {v.ended.text}")
    if session is None or session.round != c.round:
        if c.begun:
            raise Refused(
                RefusalReason.CLOSED, f"no secure sum of round {c.round} is open; poll again"
            )
        return Decision((), None, Sign(client))
    if c.name not in session.clients:
        raise Refused(RefusalReason.FOREIGN, f"not invited to round {c.round}; wait for a task")
    return Decision((), session, None if c.begun else Sign(client))


def _hear(s: CoordinatorState, v: Volatile, c: HearSecure, now: float) -> Decision:
    """Take a message: of each kind the first by a member stands; the answer is its number."""
    word, piece = c.word, s.piece(c.round, "train")
    member = _member(s, word.name) if word.name else None
    if piece is None:
        raise Refused(RefusalReason.STALE, f"round {c.round} is over")
    if member is not None and member.client not in piece.assignments:
        raise Refused(RefusalReason.FOREIGN, f"not invited to round {c.round}; wait for a task")
    held = piece.said.get((word.name, word.kind))
    if held is None:
        number = 1 + len(piece.said)
        event = Said(c.round, piece.attempt, word)
        sign = None if member is None else Sign(member.client, renews=True)
        return Decision((event,), number, sign)
    if member is not None and held[1] != word.digest:
        raise Refused(
            RefusalReason.DUPLICATE, f"another message of kind {word.kind} is held of {word.name}"
        )
    return Decision((), held[0], None if member is None else Sign(member.client))


# The engine.


def _begin(s: CoordinatorState, v: Volatile, c: BeginWork, now: float) -> Decision:
    """Open a piece of a round; the very same again changes nothing."""
    work, before = c.work, s.piece(c.work.round, c.work.kind)
    if work.round <= s.committed:
        raise Refused(
            RefusalReason.STALE,
            f"round {work.round} cannot be opened: round {s.committed} is committed; go on with "
            f"round {s.committed + 1}",
        )
    if before is None:
        strangers = [client for client in work.cohort if client not in s.names]
        if strangers:
            raise Refused(
                RefusalReason.UNENROLLED,
                f"round {work.round} asks {strangers[0]!r}, who is not enrolled; ask members",
            )
        return Decision((Opened(work, s.facts.attempt),))
    if set(before.opened.cohort) != set(work.cohort):
        raise Refused(
            RefusalReason.FOREIGN,
            f"round {work.round} was opened for other clients than this plan draws; restore the "
            f"plan that it was opened with",
        )
    if before.opened.model != work.model:
        raise Refused(
            RefusalReason.FOREIGN,
            f"round {work.round} is open already, to {work.kind} another model; go on with what "
            f"is open",
        )
    return Decision()


def _leases(s: CoordinatorState, v: Volatile, c: EndLeases, now: float) -> Decision:
    """End the leases that are over *now*: a list of before would end those of another round."""
    piece = s.piece(c.round, c.kind)
    gone = [] if piece is None else late(piece.assignments, v.leases, now)
    return _all(s, c.round, c.kind, gone)


def _close(s: CoordinatorState, v: Volatile, c: ClosePiece, now: float) -> Decision:
    """Close what is open: whoever has not answered is late. The answer says why."""
    piece = s.piece(c.round, c.kind)
    if piece is None:
        raise Refused(RefusalReason.STALE, f"round {c.round} is over")
    cause = closes(c.call, piece.assignments.values(), now)
    if cause is None:
        raise Refused(RefusalReason.CLOSED, f"round {c.round} waits for its clients still")
    waiting = [one for one in piece.assignments.values() if one.standing == "invited"]
    return replace(_all(s, c.round, c.kind, [out(one, cause) for one in waiting]), answer=cause)


def _settle(s: CoordinatorState, v: Volatile, c: DecideAssignments, now: float) -> Decision:
    return _all(s, c.round, c.kind, c.assignments)


def _all(s: CoordinatorState, round: int, kind: Kind, ends: Sequence[Assignment]) -> Decision:
    """Decide those that are invited still."""
    piece = s.piece(round, kind)
    if piece is None and ends:
        raise Refused(RefusalReason.STALE, f"round {round} is over")
    waiting = piece.assignments if piece is not None else {}
    found: dict[ClientId, Event] = {}
    for one in ends:
        held = waiting.get(one.client)
        if held is not None and held.standing == "invited" and one.standing != "invited":
            found.setdefault(one.client, Decided(round, s.facts.attempt, kind, one))
    return Decision(tuple(found.values()))


def _committing(s: CoordinatorState, v: Volatile, c: CommitRound, now: float) -> Decision:
    """Commit a round once: whoever says that it is committed may say it again."""
    if c.round <= s.committed:
        return Decision()
    if c.round != s.committed + 1:
        raise Refused(RefusalReason.FOREIGN, f"round {c.round} does not follow round {s.committed}")
    for piece in s.works.values():
        waiting = [one for one in piece.assignments.values() if one.standing == "invited"]
        if waiting:
            raise Refused(
                RefusalReason.CLOSED, f"round {c.round} waits for {len(waiting)} clients still"
            )
    trained = s.piece(c.round, "train")
    came = trained.assignments if trained is not None else {}
    for client in c.accepted:
        if client not in came or came[client].standing != "arrived":
            raise Refused(
                RefusalReason.FOREIGN, f"nothing of {client!r} has arrived in round {c.round}"
            )
    return Decision((Committed(c.round, c.accepted),))


def _exclude(s: CoordinatorState, v: Volatile, c: Exclude, now: float) -> Decision:
    """Exclude a client: the first reason stands."""
    return Decision() if c.client in s.excluded else Decision((Excluded(c.client, c.why),))


def _conclude(s: CoordinatorState, v: Volatile, c: Conclude, now: float) -> Decision:
    return Decision((), RunEnded(s.facts.run, s.committed, c.text))


# Operators.


def _order(s: CoordinatorState, v: Volatile, c: GiveOrder, now: float) -> Decision:
    if c.word not in ORDERS:
        raise Refused(RefusalReason.MALFORMED, f"{c.word!r} is no order; use {', '.join(ORDERS)}")
    return Decision() if c.word == s.wanted else Decision((Ordered(c.word),))


def _return(s: CoordinatorState, v: Volatile, c: OrderReturn, now: float) -> Decision:
    """Take one order to go back at a time: the engine sees to it before it does more."""
    if not v.plays:
        raise Refused(
            RefusalReason.CLOSED,
            "this server does not play the run: ask the one that leads, or wait until it "
            "has ended and roll its folder back",
        )
    if v.returning:
        raise Refused(RefusalReason.DUPLICATE, "it is going back already; wait for that")
    return Decision((), True)


def _member(s: CoordinatorState, name: str) -> Member:
    member = s.members.get(name)
    if member is None:
        raise Refused(RefusalReason.UNENROLLED, f"{name} has not said hello here")
    return member


def _run(s: CoordinatorState, run: str) -> None:
    if run != s.facts.run:
        raise Refused(RefusalReason.UNKNOWN_RUN, f"this server runs {s.facts.run}")


_RULES: dict[type, Callable[..., Decision]] = {
    SayHello: _hello,
    AskTask: _poll,
    AnnounceUpdate: _announce,
    BodyArrived: _arrived,
    BodyRefused: _spoiled,
    Disposed: _disposed,
    GiveAnswer: _answer,
    ShowBytes: _bytes,
    ShowSteps: _steps,
    Attempted: _attempted,
    JoinSecure: _join,
    HearSecure: _hear,
    BeginWork: _begin,
    EndLeases: _leases,
    ClosePiece: _close,
    DecideAssignments: _settle,
    CommitRound: _committing,
    GiveOrder: _order,
    OrderReturn: _return,
    Exclude: _exclude,
    Conclude: _conclude,
}
