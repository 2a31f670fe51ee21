# SPDX-License-Identifier: Apache-2.0
"""The server's side of one session, as a generator: it hears, forwards, adds, and opens one sum.

Bonawitz et al. 2017, figure 4, server's part. It draws nothing at random and holds no key, so it
is a function of what it heard: record each event (`Heard`, `Closed`) before it is passed on, and
a server started again with the same events stands where the other one fell. Masked vectors are
added as they come and not kept; integers add to the same sum in any order.

A step ends when everybody due has spoken or quit, or when the driver says that it is closed. Who
lied is named, left out before anything is masked where that shows in time, and never the honest.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from muster.errors import PlanError
from muster.secagg import messages
from muster.secagg.agreement import Binding, usable
from muster.secagg.answers import end, graph_for
from muster.secagg.commitments import KINDS as SECRETS
from muster.secagg.commitments import SHARE, root
from muster.secagg.dealing import Dealing, SessionMembers, room_for_shares
from muster.secagg.messages import (
    Delivery,
    KeyRoster,
    Members,
    Quorum,
    SecAggMessage,
    SessionEnded,
    Survivors,
)
from muster.secagg.session import (
    Aborted,
    Await,
    Closed,
    Heard,
    Liar,
    MessageRefused,
    SessionReason,
    SessionStep,
    SessionTerms,
    Sum,
    Tell,
    bitmap,
)
from muster.secagg.unmask import Set, unmask

__all__ = ["Effect", "server"]

Effect = Tell | MessageRefused | Await
Event = Heard | Closed
Flow = Generator[Effect, Event | None, Any]
Accept = Callable[[str, Any], SessionReason | None]
Verify = Callable[[str, bytes, bytes], bool]
STEPS = tuple(SessionStep)
SAID = {  # the step in which a client says what
    messages.Advert: SessionStep.ADVERTISE,
    messages.Shares: SessionStep.SHARE,
    messages.Compared: SessionStep.COMPARE,
    messages.OpenedShares: SessionStep.ANSWER,
    messages.MaskedVector: SessionStep.MASK,
    messages.Consent: SessionStep.CONSENT,
    messages.Revealed: SessionStep.UNMASK,
}


@dataclass
class _Conversation:
    """The server's knowledge of the conversation; `live` are the clients it still counts on."""

    terms: SessionTerms
    live: set[str]
    verify: Verify
    invited: frozenset[str]
    session: bytes = b""
    gone: set[str] = field(default_factory=set)
    spoken: dict[tuple[str, type[SecAggMessage]], None] = field(default_factory=dict)
    told: dict[str, SecAggMessage] = field(default_factory=dict)
    lied: dict[str, str] = field(default_factory=dict)


def server(terms: SessionTerms, invited: Iterable[str], verify: Verify) -> Flow:
    """Run one session of the invited clients; returns a `Sum`, or raises `Aborted`.

    `verify(name, data, signature)` says whether a signature is that client's. All clients are
    told how it ended, those who fell out as soon as they did.

    >>> terms = SessionTerms("s", "run-1", 1, bytes(32), bytes(32), size=4, most=255, cohort=5)
    >>> side = server(terms, ["ann", "bob", "eve"], lambda name, data, mark: True)
    >>> next(side)  # doctest: +ELLIPSIS
    Await(step=<SessionStep.ADVERTISE: 'advertise'>, due=frozenset({...}))
    >>> side.send(Closed(SessionStep.ADVERTISE))
    Tell(name='ann', message=SessionEnded(reason='COHORT'))
    """
    names = frozenset(invited)
    book = _Conversation(terms, set(names), verify, names)
    try:
        found = yield from _session(book)
    except Aborted as stop:
        stop.liars = (*_caught(book), *stop.liars)
        yield from _dismiss(book, sorted(book.live), stop.reason)
        raise
    yield from _dismiss(book, sorted(book.live), SessionReason.DONE)
    return found


def _session(book: _Conversation) -> Flow:
    """Walk the straight line."""
    cohort = yield from _advertise(book)
    dealing = yield from _share(book, cohort)
    members = yield from _compare(book, dealing)
    alive, total = yield from _mask(book, cohort, members)
    yield from _consent(book, cohort, members, alive)
    spoke, shares = yield from _reveal(book, cohort, members)
    lied = unmask(dealing, (members, alive, spoke), shares, total)
    return Sum(total, tuple(cohort.names(np.flatnonzero(alive))), (*_caught(book), *lied))


def _caught(book: _Conversation) -> tuple[Liar, ...]:
    return tuple(Liar(name, why) for name, why in sorted(book.lied.items()))


def _advertise(book: _Conversation) -> Flow:
    """Collect the keys that are signed, usable, and like nobody else's.

    Before anybody is told, it is known that so many can make a sum: else each of them would refuse
    the roster, and have left, where another one was silent.
    """
    entries: dict[str, messages.PublicKeys] = {}
    taken: set[bytes] = set()

    def accept(name: str, advert: messages.Advert) -> SessionReason | None:
        entry = advert.entry
        keys = {entry.mask_key, entry.channel_key, entry.commitment}
        if advert.context != book.terms.context:
            return SessionReason.TERMS
        if entry.name != name or not book.verify(
            name, entry.statement(advert.context), entry.signature
        ):
            return SessionReason.SIGNATURE
        if len(keys) < 3 or keys & taken or not usable(entry.mask_key):
            return SessionReason.KEYS
        if not usable(entry.channel_key):
            return SessionReason.KEYS
        taken.update(keys)
        entries[name] = entry
        return None

    yield from _collect(book, SessionStep.ADVERTISE, accept)
    yield from _narrow(book, set(entries))
    if len(entries) > book.terms.cohort:
        end(SessionReason.COHORT, f"{len(entries)} clients; the terms allow {book.terms.cohort}")
    roster = KeyRoster(book.terms.context, tuple(entries[name] for name in sorted(entries)))
    book.session = roster.session(*book.terms.place)
    try:
        graph = graph_for(book.terms, len(entries), book.session)
    except PlanError as error:
        end(SessionReason.COHORT, str(error))
    for name in sorted(entries):
        yield from _tell(book, name, roster)
    binding = Binding(book.session, book.terms.context)
    return SessionMembers(book.terms, roster.entries, graph, roster.places, binding)


def _share(book: _Conversation, cohort: SessionMembers) -> Flow:
    """Collect what is dealt, and by whom; hand out the pieces."""
    dealing = Dealing(cohort)

    def accept(name: str, shares: messages.Shares) -> SessionReason | None:
        statement = cohort.binding.dealing(root(shares.leaves), shares.proof)
        if not book.verify(name, statement, shares.signature):
            return SessionReason.SIGNATURE
        return dealing.take(cohort.index[name], shares)

    yield from _collect(book, SessionStep.SHARE, accept)
    yield from _narrow(book, {name for name, i in cohort.index.items() if dealing.sharing[i]})
    cohort.check(dealing.sharing, dealing.sharing)
    for name in sorted(book.live):
        pieces = dealing.pieces(cohort.index[name])
        yield from _tell(book, name, Delivery(book.session, bitmap(dealing.sharing), pieces))
    return dealing


def _compare(book: _Conversation, dealing: Dealing) -> Flow:
    """Find who is in the sum: who compared what it was dealt, without those who lied."""
    cohort = dealing.cohort

    def accept(name: str, compared: messages.Compared) -> SessionReason | None:
        holder = cohort.index[name]
        dealers = [one.dealer for one in compared.complaints]
        if not dealing.complaints_by(holder, dealers):
            return SessionReason.MALFORMED
        for one in compared.complaints:
            digest = dealing.digest(one.dealer, holder)
            statement = cohort.binding.complaint(one.dealer, holder, digest)
            if one.holder != holder or not book.verify(name, statement, one.signature):
                return SessionReason.SIGNATURE
        dealing.wrong |= {(one.dealer, holder): one for one in compared.complaints}
        there[holder] = True
        return None

    there = np.zeros(len(cohort.entries), np.bool_)
    yield from _collect(book, SessionStep.COMPARE, accept)
    yield from _out(book, cohort, there, dealing.overdone())
    found = yield from _answer(book, dealing, there)
    yield from _out(book, cohort, there, found)
    yield from _narrow(book, set(cohort.names(np.flatnonzero(there))))
    cohort.check(there, there)
    for name in sorted(book.live):
        yield from _tell(book, name, Members(book.session, bitmap(there)))
    dealing.release()
    return there


def _answer(book: _Conversation, dealing: Dealing, there: Set) -> Flow:
    """Let those answer whom somebody complained about; who lied, and who did not answer."""
    cohort = dealing.cohort
    due, found = dealing.accused(~there), dict[int, str]()

    def accept(name: str, opened: messages.OpenedShares) -> SessionReason | None:
        index = cohort.index[name]
        if index not in due or len(opened.shares) != SECRETS * SHARE * len(due[index]):
            return SessionReason.MALFORMED
        fits = dealing.answered(index, due[index], opened.shares)
        found[index] = "" if fits else "it opened another share than it had bound itself to"
        return None

    for index, complaints in due.items():
        name = cohort.entries[index].name
        yield from _tell(book, name, messages.Complaints(book.session, tuple(complaints)))
    if due:
        names = set(cohort.names(due)) & book.live
        yield from _collect(book, SessionStep.ANSWER, accept, names)
    return {index: found.get(index, "") for index in due if index not in found or found[index]}


def _out(book: _Conversation, cohort: SessionMembers, there: Set, found: Mapping[int, str]) -> Flow:
    """Leave some out: who lied is told so and remembered, who was silent is late."""
    for index, why in sorted(found.items()):
        there[index] = False
        name = cohort.entries[index].name
        if not why:
            continue
        book.lied[name] = why
        if name in book.live:
            book.live.discard(name)
            yield from _dismiss(book, [name], SessionReason.LIED)


def _mask(book: _Conversation, cohort: SessionMembers, members: Set) -> Flow:
    """Collect the masked vectors; return who survived, and their sum."""
    ring, size = book.terms.ring, book.terms.size
    total, room = ring.zeros(size), ring.buffer(size)
    alive = np.zeros(len(cohort.entries), np.bool_)

    def accept(name: str, masked: messages.MaskedVector) -> SessionReason | None:
        if len(masked.vector) != ring.nbytes(size):
            return SessionReason.MALFORMED
        np.add(total, ring.unpack(masked.vector, size, room), out=total)
        alive[cohort.index[name]] = True
        return None

    yield from _collect(book, SessionStep.MASK, accept)
    yield from _narrow(book, {name for name, i in cohort.index.items() if alive[i]})
    cohort.check(members, alive)
    for name in sorted(book.live):
        yield from _tell(book, name, Survivors(book.session, bitmap(alive)))
    return alive, total


def _consent(book: _Conversation, cohort: SessionMembers, members: Set, alive: Set) -> Flow:
    """Give each client its secrets' holders' signatures under the survivors."""
    statement = cohort.binding.consent(bitmap(members), bitmap(alive))
    signatures: dict[int, bytes] = {}

    def accept(name: str, consent: messages.Consent) -> SessionReason | None:
        if not book.verify(name, statement, consent.signature):
            return SessionReason.SIGNATURE
        signatures[cohort.index[name]] = consent.signature
        return None

    yield from _collect(book, SessionStep.CONSENT, accept)
    yield from _narrow(book, {cohort.entries[i].name for i in signatures})
    signed = np.zeros(len(cohort.entries), np.bool_)
    signed[list(signatures)] = True
    cohort.check(members, signed)
    for name in sorted(book.live):
        holders = cohort.graph.holders(cohort.index[name])
        near = tuple(signatures[j] for j in holders[signed[holders]].tolist())
        yield from _tell(book, name, Quorum(book.session, bitmap(signed), near))


def _reveal(book: _Conversation, cohort: SessionMembers, members: Set) -> Flow:
    """Collect the shares `(pairs, 22)`, by holder; return who spoke, and them."""
    shares = room_for_shares(cohort)
    spoke = np.zeros(len(cohort.entries), np.bool_)

    def accept(name: str, revealed: messages.Revealed) -> SessionReason | None:
        index = cohort.index[name]
        places = cohort.places(index)[members[cohort.graph.holders(index)]]
        if len(revealed.shares) != SHARE * len(places):
            return SessionReason.MALFORMED
        shares[places] = np.frombuffer(revealed.shares, "<u2").reshape(len(places), -1)
        spoke[index] = True
        return None

    yield from _collect(book, SessionStep.UNMASK, accept)
    cohort.check_holders(members, spoke)
    return spoke, shares


def _collect(
    book: _Conversation, step: SessionStep, accept: Accept, due: set[str] | None = None
) -> Flow:
    """Hear a step out: all who are live, or those who are due."""
    waiting = set(book.live if due is None else due)
    while waiting - book.gone:
        event = yield Await(step, frozenset(waiting - book.gone))
        if isinstance(event, Closed) and event.step is step:
            return
        if not isinstance(event, Heard):
            continue
        reason = _judged(book, step, event, accept)
        if reason is None:
            waiting.discard(event.name)
            continue
        yield MessageRefused(event.name, reason)
        if reason in (SessionReason.DUPLICATE, SessionReason.LATE) and event.name in book.told:
            yield Tell(event.name, book.told[event.name])  # the first time it may have been lost


def _judged(
    book: _Conversation, step: SessionStep, event: Heard, accept: Accept
) -> SessionReason | None:
    """Take a message in, or say why it has no effect."""
    name = event.name
    if name not in book.invited:
        return SessionReason.UNKNOWN
    try:
        came = event.message
        message = messages.read(came) if isinstance(came, bytes) else came
    except messages.Malformed:
        return SessionReason.MALFORMED
    if isinstance(message, messages.Quit):
        book.gone.add(name)
        return None
    kind = type(message)
    if (name, kind) in book.spoken:
        return SessionReason.DUPLICATE
    if kind not in SAID:
        return SessionReason.ORDER
    if SAID[kind] is not step:
        return (
            SessionReason.LATE
            if STEPS.index(SAID[kind]) < STEPS.index(step)
            else SessionReason.ORDER
        )
    if name not in book.live:
        return SessionReason.LATE
    if not isinstance(message, messages.Advert) and vars(message)["session"] != book.session:
        return SessionReason.SESSION
    reason = accept(name, message)
    if reason is None:
        book.spoken[name, kind] = None
    return reason


def _narrow(book: _Conversation, names: set[str]) -> Flow:
    """Go on with some of the live clients; the others are told that they are late."""
    fallen = sorted(book.live - names)
    book.live &= names
    if len(book.live) < book.terms.minimum:
        book.live |= set(fallen)  # to be told the true reason
        end(
            SessionReason.COHORT,
            f"{len(names)} clients are left; {book.terms.minimum} are required: invite more",
        )
    yield from _dismiss(book, fallen, SessionReason.LATE)


def _tell(book: _Conversation, name: str, message: SecAggMessage) -> Flow:
    book.told[name] = message
    yield Tell(name, message)


def _dismiss(book: _Conversation, names: Iterable[str], reason: SessionReason) -> Flow:
    for name in names:
        yield from _tell(book, name, SessionEnded(reason.name))
