# SPDX-License-Identifier: Apache-2.0
"""The server's side of one session, as a generator: it hears, forwards, adds, and opens one sum.

Bonawitz et al. 2017, figure 4, server's part. It draws nothing at random and holds no key, so it
is a function of what it heard: record each event (`Heard`, `Closed`) before it is passed on, and
a server started again with the same events stands where the other one fell. Masked vectors are
added as they come and not kept; integers add to the same sum in any order.

A step ends when everybody due has spoken or quit, or when the driver says that it is closed.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muster.secagg import messages
from muster.secagg.agreement import Binding, usable
from muster.secagg.answers import SEALED, SHARE, end, graph_for
from muster.secagg.messages import Delivery, Ended, Message, Quorum, Roster, Survivors
from muster.secagg.session import (
    Aborted,
    Await,
    Closed,
    Heard,
    Reason,
    Refused,
    Step,
    Sum,
    Tell,
    Terms,
    bitmap,
)
from muster.secagg.unmask import Cohort, Set, unmask

__all__ = ["Effect", "server"]

Effect = Tell | Refused | Await
Event = Heard | Closed
Flow = Generator[Effect, Event | None, Any]
Accept = Callable[[str, Any], Reason | None]
Verify = Callable[[str, bytes, bytes], bool]
# what clients say, by step
KINDS = tuple(messages.KINDS[kind] for kind in (1, 3, 5, 7, 9))
STEPS = tuple(Step)


@dataclass
class _Book:
    """What the server knows of the conversation; `live` are the clients it still counts on."""

    terms: Terms
    live: set[str]
    verify: Verify
    invited: frozenset[str]
    session: bytes = b""
    gone: set[str] = field(default_factory=set)
    spoken: dict[tuple[str, type[Message]], None] = field(default_factory=dict)
    told: dict[str, Message] = field(default_factory=dict)


def server(terms: Terms, invited: Iterable[str], verify: Verify) -> Flow:
    """One session of the invited clients; returns a `Sum`, or raises `Aborted`.

    `verify(name, data, signature)` says whether a signature is that client's. All clients are
    told how it ended, those who fell out as soon as they did.

    >>> terms = Terms("run-1", 1, bytes(32), bytes(32), size=4, most=255, cohort=5)
    >>> side = server(terms, ["ann", "bob", "eve"], lambda name, data, mark: True)
    >>> next(side)
    Await(step=<Step.ADVERTISE: 'advertise'>)
    >>> side.send(Closed(Step.ADVERTISE))
    Tell(name='ann', message=Ended(reason='COHORT'))
    """
    names = frozenset(invited)
    book = _Book(terms, set(names), verify, names)
    try:
        found = yield from _session(book)
    except Aborted as stop:
        yield from _dismiss(book, sorted(book.live), stop.reason)
        raise
    yield from _dismiss(book, sorted(book.live), Reason.DONE)
    return found


def _session(book: _Book) -> Flow:
    """The straight line."""
    roster = yield from _advertise(book)
    book.session = roster.session(book.terms.run, book.terms.round)
    names = tuple(entry.name for entry in roster.entries)
    graph = graph_for(book.terms, len(names), book.session)
    index = {name: i for i, name in enumerate(names)}
    binding = Binding(book.session, book.terms.context)
    cohort = Cohort(book.terms, roster.entries, graph, index, binding)
    sharing, sealed = yield from _share(book, cohort)
    yield from _deliver(book, cohort, sharing, sealed)
    del sealed
    alive, total = yield from _mask(book, cohort, sharing)
    yield from _consent(book, cohort, sharing, alive)
    shares = yield from _reveal(book, cohort, sharing)
    disputes = unmask(cohort, (sharing, alive), shares, total)
    return Sum(total, tuple(names[i] for i in np.flatnonzero(alive)), disputes)


def _advertise(book: _Book) -> Flow:
    """Whose keys came: signed, usable, and like nobody else's."""
    entries: dict[str, messages.Entry] = {}
    taken: set[bytes] = set()

    def accept(name: str, advert: messages.Advert) -> Reason | None:
        entry = advert.entry
        keys = {entry.mask_key, entry.channel_key, entry.commitment}
        if advert.context != book.terms.context:
            return Reason.TERMS
        if entry.name != name or not book.verify(
            name, entry.statement(advert.context), entry.signature
        ):
            return Reason.SIGNATURE
        if len(keys) < 3 or keys & taken or not usable(entry.mask_key):
            return Reason.KEYS
        if not usable(entry.channel_key):
            return Reason.KEYS
        taken.update(keys)
        entries[name] = entry
        return None

    yield from _collect(book, Step.ADVERTISE, accept)
    yield from _narrow(book, set(entries))
    if len(entries) > book.terms.cohort:
        end(Reason.COHORT, f"{len(entries)} clients; the terms allow {book.terms.cohort}")
    roster = Roster(book.terms.context, tuple(entries[name] for name in sorted(entries)))
    for name in sorted(entries):
        yield from _tell(book, name, roster)
    return roster


def _share(book: _Book, cohort: Cohort) -> Flow:
    """Whose shares came, `(clients,)`, and the sealed shares `(pairs, 88)` by sender."""
    sealed = np.zeros((cohort.pairs, SEALED), np.uint8)
    sharing = np.zeros(len(cohort.entries), np.bool_)

    def accept(name: str, shares: messages.Shares) -> Reason | None:
        index = cohort.index[name]
        places = cohort.places(index)[cohort.graph.holders(index) != index]
        if len(shares.sealed) != SEALED * len(places):
            return Reason.MALFORMED
        sealed[places] = np.frombuffer(shares.sealed, np.uint8).reshape(-1, SEALED)
        sharing[index] = True
        return None

    yield from _collect(book, Step.SHARE, accept)
    yield from _narrow(book, {name for name, i in cohort.index.items() if sharing[i]})
    cohort.check(sharing, sharing)
    return sharing, sealed


def _deliver(book: _Book, cohort: Cohort, sharing: Set, sealed: NDArray[np.uint8]) -> Flow:
    """To each holder what is sealed for it."""
    for name in sorted(book.live):
        mine = sealed[cohort.arrivals(cohort.index[name], sharing)].tobytes()
        yield from _tell(book, name, Delivery(book.session, bitmap(sharing), mine))


def _mask(book: _Book, cohort: Cohort, sharing: Set) -> Flow:
    """Who survived, and the sum of their masked vectors."""
    ring, size = book.terms.ring, book.terms.size
    total, room = ring.zeros(size), ring.buffer(size)
    alive = np.zeros(len(cohort.entries), np.bool_)

    def accept(name: str, masked: messages.Masked) -> Reason | None:
        if len(masked.vector) != ring.nbytes(size):
            return Reason.MALFORMED
        np.add(total, ring.unpack(masked.vector, size, room), out=total)
        alive[cohort.index[name]] = True
        return None

    yield from _collect(book, Step.MASK, accept)
    yield from _narrow(book, {name for name, i in cohort.index.items() if alive[i]})
    cohort.check(sharing, alive)
    for name in sorted(book.live):
        yield from _tell(book, name, Survivors(book.session, bitmap(alive)))
    return alive, total


def _consent(book: _Book, cohort: Cohort, sharing: Set, alive: Set) -> Flow:
    """Each client gets the signatures of the holders of its secrets under the survivors."""
    statement = cohort.binding.consent(bitmap(sharing), bitmap(alive))
    signatures: dict[int, bytes] = {}

    def accept(name: str, consent: messages.Consent) -> Reason | None:
        if not book.verify(name, statement, consent.signature):
            return Reason.SIGNATURE
        signatures[cohort.index[name]] = consent.signature
        return None

    yield from _collect(book, Step.CONSENT, accept)
    yield from _narrow(book, {cohort.entries[i].name for i in signatures})
    signed = np.zeros(len(cohort.entries), np.bool_)
    signed[list(signatures)] = True
    cohort.check(sharing, signed)
    for name in sorted(book.live):
        holders = cohort.graph.holders(cohort.index[name])
        near = tuple(signatures[j] for j in holders[signed[holders]].tolist())
        yield from _tell(book, name, Quorum(book.session, bitmap(signed), near))


def _reveal(book: _Book, cohort: Cohort, sharing: Set) -> Flow:
    """The shares that came, `(pairs, 18)` by holder."""
    shares = cohort.no_shares()
    spoke = np.zeros(len(cohort.entries), np.bool_)

    def accept(name: str, revealed: messages.Revealed) -> Reason | None:
        index = cohort.index[name]
        places = cohort.places(index)[sharing[cohort.graph.holders(index)]]
        if len(revealed.shares) != SHARE * len(places):
            return Reason.MALFORMED
        shares[places] = np.frombuffer(revealed.shares, "<u2").reshape(len(places), -1)
        spoke[index] = True
        return None

    yield from _collect(book, Step.UNMASK, accept)
    cohort.check(sharing, spoke)
    return shares


def _collect(book: _Book, step: Step, accept: Accept) -> Flow:
    """Hear a step out."""
    waiting = set(book.live)
    while waiting - book.gone:
        event = yield Await(step)
        if isinstance(event, Closed) and event.step is step:
            return
        if not isinstance(event, Heard):
            continue
        reason = _judged(book, step, event, accept)
        if reason is None:
            waiting.discard(event.name)
            continue
        yield Refused(event.name, reason)
        if reason in (Reason.DUPLICATE, Reason.LATE) and event.name in book.told:
            yield Tell(event.name, book.told[event.name])  # the first time it may have been lost


def _judged(book: _Book, step: Step, event: Heard, accept: Accept) -> Reason | None:
    """Take a message in, or say why it has no effect."""
    name = event.name
    if name not in book.invited:
        return Reason.UNKNOWN
    try:
        came = event.message
        message = messages.read(came) if isinstance(came, bytes) else came
    except messages.Malformed:
        return Reason.MALFORMED
    if isinstance(message, messages.Quit):
        book.gone.add(name)
        return None
    kind = type(message)
    if (name, kind) in book.spoken:
        return Reason.DUPLICATE
    if kind is not KINDS[STEPS.index(step)]:
        late = kind in KINDS[: STEPS.index(step)]
        return Reason.LATE if late else Reason.ORDER
    if name not in book.live:
        return Reason.LATE
    if not isinstance(message, messages.Advert) and vars(message)["session"] != book.session:
        return Reason.SESSION
    reason = accept(name, message)
    if reason is None:
        book.spoken[name, kind] = None
    return reason


def _narrow(book: _Book, names: set[str]) -> Flow:
    """Go on with some of the live clients; the others are told that they are late."""
    fallen = sorted(book.live - names)
    book.live &= names
    if len(book.live) < book.terms.minimum:
        book.live |= set(fallen)  # to be told the true reason
        end(
            Reason.COHORT,
            f"{len(names)} clients are left; {book.terms.minimum} are required: invite more",
        )
    yield from _dismiss(book, fallen, Reason.LATE)


def _tell(book: _Book, name: str, message: Message) -> Flow:
    book.told[name] = message
    yield Tell(name, message)


def _dismiss(book: _Book, names: Iterable[str], reason: Reason) -> Flow:
    for name in names:
        yield from _tell(book, name, Ended(reason.name))
