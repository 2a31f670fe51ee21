# SPDX-License-Identifier: Apache-2.0
"""The events of a federation: all that is stored of it, beside models, and their rows in a journal.

A server that comes back, and one that follows, reads them in their order and knows all that the one
did which wrote them. Not events: polls, progress, leases, half of an upload, refusals.

What an event makes needless leaves the journal with it (`muster.store.journal`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from muster.errors import RunError
from muster.store.records import (
    Assignment,
    Body,
    JournalRow,
    Kind,
    Member,
    OpenWork,
    SecAggEvent,
    client_of,
    name_of,
)
from muster.types import ClientId

__all__ = [
    "Committed",
    "Decided",
    "Event",
    "Excluded",
    "MemberEnrolled",
    "Odd",
    "Opened",
    "Ordered",
    "Said",
    "WentBack",
    "read_event",
    "row_of",
]


@dataclass(frozen=True)
class MemberEnrolled:
    """A member, or the same with other rows or another certificate."""

    member: Member


@dataclass(frozen=True)
class Opened:
    """A piece of a round is open."""

    work: OpenWork
    attempt: int = 1


@dataclass(frozen=True)
class Decided:
    """The fate of one assignment: it arrived, or ended with a reason. The first one stands."""

    round: int
    attempt: int
    kind: Kind
    assignment: Assignment


@dataclass(frozen=True)
class Said:
    """A message of a secure sum, or the end of one of its steps; its place is its number."""

    round: int
    attempt: int
    word: SecAggEvent


@dataclass(frozen=True)
class Committed:
    """A round is over: whose replies are in its model."""

    round: int
    accepted: tuple[ClientId, ...]


@dataclass(frozen=True)
class WentBack:
    """The run stands after an older round; `raised` are the rounds behind which it began anew."""

    round: int
    raised: tuple[int, ...]


@dataclass(frozen=True)
class Ordered:
    """An order: what operators want of the run."""

    word: str


@dataclass(frozen=True)
class Excluded:
    """A client takes part no more, and why."""

    client: ClientId
    why: str


@dataclass(frozen=True)
class Odd:
    """Something that was stored and is no event: whose it is, as far as that can be told.

    A disk, a person or another version altered it. Its client is left out of what it was about.
    """

    topic: str
    clients: tuple[ClientId, ...]
    why: str
    name: str = ""
    round: int = 0
    kind: str = ""


Event = MemberEnrolled | Opened | Decided | Said | Committed | WentBack | Ordered | Excluded | Odd


def row_of(event: Event) -> JournalRow:
    """Return the row of an event in a journal; `read_event` is the inverse.

    >>> row = row_of(Excluded("a", "it lied"))
    >>> (row.topic, row.key, row.body), read_event(row)
    (('excluded', '"a"', {'why': 'it lied'}), Excluded(client='a', why='it lied'))
    """
    match event:
        case MemberEnrolled(member):
            body = {name: value for name, value in vars(member).items() if name != "name"}
            return JournalRow("enrolled", 0, member.name, body)
        case Opened(work, attempt):
            roster = [[client, rows] for client, rows in work.roster]
            lists = {"cohort": [*work.cohort], "times": [*work.times], "roster": roster}
            lists |= {"groups": [[*group] for group in work.groups], "counted": [*work.counted]}
            body = {"model": work.model, "since": work.since, "attempt": attempt} | lists
            return JournalRow("opened", work.round, work.kind, body)
        case Decided(round, attempt, kind, assignment):
            body = vars(assignment) | {"attempt": attempt, "metrics": dict(assignment.metrics)}
            return JournalRow("decided", round, f"{kind} {name_of(assignment.client)}", body)
        case Said(round, attempt, word):
            said = ("name", "kind", "blob", "digest")
            body = {name: getattr(word, name) for name in said}
            body |= {"attempt": attempt, "metrics": dict(word.metrics)}
            return JournalRow("said", round, f"{word.kind} {word.name}", body, word.data)
        case Committed(round, accepted):
            return JournalRow("committed", round, "", {"accepted": [*accepted]})
        case WentBack(round, raised):
            return JournalRow("went back", round, "", {"raised": [*raised]})
        case Ordered(word):
            return JournalRow("ordered", 0, "", {"word": word})
        case Excluded(client, why):
            return JournalRow("excluded", 0, name_of(client), {"why": why})
        case Odd(topic, _, why, name, round, kind):
            return JournalRow(topic, round, name, {"odd": why, "kind": kind})


def read_event(row: JournalRow) -> Event:
    """Return the event of a row, or an `Odd` one.

    Raises `RunError` for what a round was opened for, where that is damaged: nobody but the server
    wrote it, and without it nobody knows what was asked.
    """
    try:
        return _READ[row.topic](row, row.body)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if row.topic == "opened":
            raise RunError(
                f"what round {row.round} was opened for is damaged ({error}); restore the run from "
                f"a copy, or start a new one"
            ) from error
        kind, _, key = row.key.partition(" ") if row.topic == "decided" else ("", "", row.key)
        client = client_of(key)
        clients = () if client is None else (client,)
        return Odd(row.topic, clients, f"{error!r:.200}", row.key, row.round, kind)


def _enrolled(row: JournalRow, body: Body) -> Event:
    return MemberEnrolled(Member(row.key, body["client"], body["rows"], body["certificate"]))


def _opened(row: JournalRow, body: Body) -> Event:
    work = OpenWork(
        row.round,
        _kind(row.key),
        tuple(body["cohort"]),
        tuple(body["times"]),
        tuple((client, rows) for client, rows in body["roster"]),
        body["model"],
        body["since"],
        tuple(map(tuple, body["groups"])),
        tuple(body["counted"]),
    )
    return Opened(work, body["attempt"])


def _decided(row: JournalRow, body: Body) -> Event:
    kind, _, name = row.key.partition(" ")
    fields = {name: body[name] for name in Assignment.__dataclass_fields__}
    one, key = Assignment(**fields), client_of(name)
    if one.client != key:
        clients = tuple(c for c in (key, client_of(name_of(one.client))) if c is not None)
        return Odd("decided", clients, "it names two clients", "", row.round, kind)
    return Decided(row.round, body["attempt"], _kind(kind), one)


def _said(row: JournalRow, body: Body) -> Event:
    fields = {name: body[name] for name in ("name", "kind", "blob", "digest", "metrics")}
    return Said(row.round, body["attempt"], replace(SecAggEvent(**fields), data=bytes(row.data)))


def _committed(row: JournalRow, body: Body) -> Event:
    return Committed(row.round, tuple(body["accepted"]))


def _went_back(row: JournalRow, body: Body) -> Event:
    return WentBack(row.round, tuple(body["raised"]))


def _ordered(row: JournalRow, body: Body) -> Event:
    return Ordered(body["word"])


def _excluded(row: JournalRow, body: Body) -> Event:
    client = client_of(row.key)
    if client is None:
        raise ValueError(f"{row.key:.60} is no client")
    return Excluded(client, body["why"])


def _kind(text: str) -> Kind:
    if text == "train":
        return "train"
    if text == "evaluate":
        return "evaluate"
    raise ValueError(f"{text:.60} is neither train nor evaluate")


_READ = {
    "enrolled": _enrolled,
    "opened": _opened,
    "decided": _decided,
    "said": _said,
    "committed": _committed,
    "went back": _went_back,
    "ordered": _ordered,
    "excluded": _excluded,
}
