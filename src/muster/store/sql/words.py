# SPDX-License-Identifier: Apache-2.0
"""The words of a round's secure sum, in the one order in which they count, until the commit."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import Connection, func, insert, select

from muster.store.records import SecAggEvent
from muster.store.sql.tables import opened, word, word_row, words
from muster.store.sql.transact import Turn

__all__ = ["hear", "heard"]

PAGE = 64  # events that are read at once: a message is small, or a blob


def hear(turn: Turn, round: int, one: SecAggEvent) -> SecAggEvent | None:
    """Write an event behind those before it; the very same again stays where it was.

    Of two messages of one kind by one member the first stands, and is returned; None when the
    round is not open.
    """
    asked = select(opened.c.round).filter_by(round=round, kind="train")
    if turn.connection.execute(asked).scalar() is None:
        return None
    place = {"round": round, "name": one.name, "kind": one.kind}
    held = turn.connection.execute(select(words).filter_by(**place)).first()
    if held is not None:
        return word(held)
    last = select(func.max(words.c.number)).where(words.c.round == round)
    fresh = replace(one, number=1 + (turn.connection.execute(last).scalar() or 0))
    turn.connection.execute(insert(words), word_row(round, fresh))
    turn.touched = True
    return fresh


def heard(connection: Connection, round: int, after: int) -> list[SecAggEvent]:
    """Return the next events of a round, in order; none when all were read."""
    rows = select(words).where(words.c.round == round, words.c.number > after)
    return [word(row) for row in connection.execute(rows.order_by(words.c.number).limit(PAGE))]
