# SPDX-License-Identifier: Apache-2.0
"""The journal of a federation as rows: appended in a writer's turn, read in order by everybody.

A position is one more than the last, and the turn that gives it holds the only right to write, so
whoever has read up to one has read all before it. The rows that an event makes needless go in its
transaction; a round, a member, a message stands there once, and the database sees to that as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from muster.store.journal import RECENT, RowSpan, forgets
from muster.store.records import JournalRow
from muster.store.sql.tables import control, journal
from muster.store.sql.transact import Turn

__all__ = ["JournalTurn", "after", "append", "of_topic", "position", "reconcile"]

PAGE = 4096  # rows that are read at once
SAID = 64  # messages that are: one is small, or a blob
POSITION = select(control.c.version)
AFTER = select(journal).where(journal.c.position > bindparam("p")).order_by(journal.c.position)
AFTER = AFTER.limit(PAGE)
TOPIC = select(journal).where(journal.c.topic == bindparam("t")).order_by(journal.c.position)
ANY = delete(journal).where(
    journal.c.topic == bindparam("t"), journal.c.round.between(bindparam("a"), bindparam("z"))
)
ONE = delete(journal).where(  # by the index of those that stand once
    journal.c.topic == bindparam("t"),
    journal.c.round == bindparam("a"),
    journal.c.key == bindparam("k"),
)


@dataclass
class JournalTurn:
    """A writer's turn at the journal; `epoch` is that of the lead that this process took last."""

    turn: Turn
    epoch: int | None = None

    @property
    def position(self) -> int:
        """Return the position of the newest row."""
        return self.turn.position

    def after(self, position: int) -> list[JournalRow]:
        """Return the next rows behind a position, in order; none when all were read."""
        return after(self.turn.connection, position)

    def append(self, rows: Sequence[JournalRow], *, leads: bool) -> None:
        """Write rows behind the last. Raises `RunError` for one who led and leads no more.

        With `leads`, also for one who never did: they are the engine's, not what members said.
        """
        if leads or self.epoch is not None:
            self.turn.fence(self.epoch)
        append(self.turn, rows)


def append(turn: Turn, rows: Sequence[JournalRow]) -> None:
    """Write rows behind the last, and remove those that they make needless."""
    fresh: dict[str, dict[str, list[JournalRow]]] = {}  # by topic and key: a batch may be long
    gone: list[RowSpan] = []
    for position, row in enumerate(rows, turn.position + 1):
        for span in forgets(row):
            gone.append(span)
            keys = fresh.get(span.topic, {})
            for key in list(keys) if span.key is None else [span.key] if span.key in keys else []:
                keys[key] = [one for one in keys[key] if not span.covers(one)]
        found = fresh.setdefault(row.topic, {}).setdefault(row.key, [])
        found.append(replace(row, position=position))
    for statement, keyed in ((ANY, False), (ONE, True)):
        given = [
            {"t": one.topic, "a": one.first, "z": one.last, "k": one.key}
            for one in gone
            if (one.key is not None) is keyed
        ]
        if given:
            turn.connection.execute(statement, given)
    kept = [row for keys in fresh.values() for found in keys.values() for row in found]
    kept.sort(key=lambda row: row.position)
    if kept:
        values = [vars(row) | {"body": dict(row.body)} for row in kept]
        turn.connection.execute(insert(journal), values)
        turn.position += len(rows)
        turn.connection.execute(update(control).values(version=turn.position))


def after(connection: Connection, position: int) -> list[JournalRow]:
    """Return the next rows behind a position, as stored: whoever reads them checks them.

    At most `PAGE` of them, in order; what goes between two pages goes with an event behind it.
    """
    return [_row(row) for row in connection.execute(AFTER, {"p": position})]


def of_topic(connection: Connection, topic: str, round: int = 0, skip: int = 0) -> list[JournalRow]:
    """Return the rows of a topic, in order; with a `round`, its next behind so many."""
    query = TOPIC
    if round:
        query = query.where(journal.c.round == round).offset(skip).limit(SAID)
    return [_row(row) for row in connection.execute(query, {"t": topic})]


def position(connection: Connection) -> int:
    """Return the position of the newest row."""
    return int(connection.execute(POSITION).scalar_one())


def reconcile(
    turn: Turn, last: int, accepted: Callable[[int], Sequence[Any]], raised: Sequence[int]
) -> None:
    """Write down which rounds were committed, or taken back, by who keeps no journal: a simulation.

    `last` is the last committed round, `accepted(round)` its clients, `raised` the rounds behind
    which a federation began a new attempt.
    """
    query = select(journal.c.round).where(journal.c.topic.in_(("committed", "went back")))
    newest = query.order_by(journal.c.position.desc()).limit(1)
    stands = turn.connection.execute(newest).scalar() or 0
    if stands > last:
        append(turn, [JournalRow("went back", last, "", {"raised": [*raised]})])
    fresh = range(max(stands, last - RECENT) + 1, last + 1)
    append(
        turn, [JournalRow("committed", one, "", {"accepted": [*accepted(one)]}) for one in fresh]
    )


def _row(row: Any) -> JournalRow:
    return JournalRow(row.topic, row.round, row.key, row.body, row.data or b"", row.position)
