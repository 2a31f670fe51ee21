# SPDX-License-Identifier: Apache-2.0
"""The state after an event: what was stored can be applied, whatever it is.

No clock, no disk, no lock, no draw. `apply` accepts each event in each state; one that fits nothing
changes nothing, and one that is odd marks the client whose it is and changes nothing else. The door
has checked all of it before it was stored; it is checked again since a disk, a person or another
version may have altered it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from muster.federation.coordinator.events import (
    Committed,
    Decided,
    Event,
    Excluded,
    MemberEnrolled,
    Odd,
    Opened,
    Ordered,
    Said,
    WentBack,
)
from muster.federation.coordinator.state import CoordinatorState, OpenPiece, WorkKey
from muster.federation.protocol.claims import odd_member, sound
from muster.store.journal import RECENT
from muster.store.records import Assignment, Member, OpenWork
from muster.types import ClientId

__all__ = ["ORDERS", "apply", "fold"]

ORDERS = ("run", "pause", "drain", "stop")  # what operators may want
NAMED = 128  # characters of a name that is none


def apply(state: CoordinatorState, event: Event) -> CoordinatorState:
    """Return the state with an event in it, changed in place.

    >>> from muster.federation.coordinator.facts import FederationFacts
    >>> state = CoordinatorState(FederationFacts("r", "0" * 64, {}, max, None, 9))
    >>> apply(state, MemberEnrolled(Member("ann", "a", 3))).names
    {'a': 'ann'}
    """
    match event:
        case MemberEnrolled(member):
            _enrol(state, member)
        case Opened(work, attempt):
            _open(state, work, attempt)
        case Decided(round, attempt, kind, assignment):
            _decide(state, WorkKey(round, attempt, kind), assignment)
        case Said(round, attempt, word):
            piece = state.works.get(WorkKey(round, attempt, "train"))
            if piece is not None:
                number = 1 + len(piece.said)
                piece.said.setdefault((word.name, word.kind), (number, word.digest))
        case Committed(round, accepted):
            _commit(state, round, accepted)
        case WentBack(round, raised):
            state.facts = replace(state.facts, raised=raised)
            state.committed = round
            state.works.clear()
            state.fates = {one: fate for one, fate in state.fates.items() if one <= round}
        case Ordered(word):
            if word in ORDERS:
                state.wanted = word
        case Excluded(client, why):
            state.excluded.setdefault(client, why)
        case Odd():
            _mark(state, event)
    return state


def fold(state: CoordinatorState, events: Iterable[tuple[int, Event]]) -> CoordinatorState:
    """Return the state with these events in it, each with its position; those it has are skipped.

    >>> from muster.federation.coordinator.facts import FederationFacts
    >>> state = CoordinatorState(FederationFacts("r", "0" * 64, {}, max, None, 9))
    >>> fold(state, [(1, Ordered("pause")), (4, Ordered("run"))]).position
    4
    """
    for position, event in events:
        if position > state.position:
            apply(state, event).position = position
    return state


def _enrol(state: CoordinatorState, member: Member) -> None:
    why = odd_member(member)
    if not why and state.names.get(member.client, member.name) != member.name:
        why = f"the client {member.client!r:.40} is {state.names[member.client]!r:.40}"
    if why:
        state.odd[str(member.name)[:NAMED]] = why
        return
    before = state.members.get(member.name)
    if before is not None:
        state.names.pop(before.client, None)
    state.members[member.name] = member
    state.names[member.client] = member.name
    state.odd.pop(member.name, None)


def _open(state: CoordinatorState, work: OpenWork, attempt: int) -> None:
    key = WorkKey(work.round, attempt, work.kind)
    if work.round <= state.committed or attempt != state.facts.attempt or key in state.works:
        return
    times = dict(zip(work.cohort, work.times, strict=False))
    invited = {client: Assignment(client) for client in work.cohort}
    state.works[key] = OpenPiece(work, attempt, times, invited)


def _decide(state: CoordinatorState, key: WorkKey, one: Assignment) -> None:
    """Decide once; what the plan does not let in leaves its client out."""
    piece = state.works.get(key)
    held = None if piece is None else piece.assignments.get(one.client)
    if piece is None or held is None or held.standing != "invited":
        return
    facts, times = state.facts, piece.times.get(one.client, 1)
    piece.assignments[one.client] = sound(
        one, one.client, key.kind, times, facts.claims, facts.weigh
    )


def _commit(state: CoordinatorState, round: int, accepted: tuple[ClientId, ...]) -> None:
    if round < state.committed:
        return
    state.committed = round
    state.fates[round] = frozenset(accepted)
    state.fates = {one: fate for one, fate in state.fates.items() if one > round - RECENT}
    state.works = {key: piece for key, piece in state.works.items() if key.version > round}


def _mark(state: CoordinatorState, odd: Odd) -> None:
    """Leave out the clients of something that was stored and is no event."""
    if odd.topic == "enrolled":
        state.odd[odd.name[:NAMED]] = odd.why
    if odd.topic == "said":  # it has its place among the messages all the same
        trained = state.piece(odd.round, "train")
        if trained is not None:
            trained.said[str(len(trained.said)), "odd"] = 1 + len(trained.said), ""
    if odd.topic != "decided":
        return
    piece = state.piece(odd.round, "evaluate" if odd.kind == "evaluate" else "train")
    for client in odd.clients if piece is not None else ():
        assert piece is not None
        if client in piece.assignments:
            why = f"what is stored of it cannot have been let in: {odd.why}"
            piece.assignments[client] = Assignment(client, "failed", "record", why)
