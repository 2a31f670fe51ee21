# SPDX-License-Identifier: Apache-2.0
"""The records beside the journal: steps of lifecycles, and progress that servers share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, insert, select, text
from sqlalchemy.dialects import postgresql

from muster.store.records import Transition, name_of
from muster.store.sql.tables import progress, transition, transition_row, transitions
from muster.store.sql.transact import Transactions, Turn
from muster.types import ClientId

__all__ = ["beat", "progressed", "recorded", "written"]

BEATS = postgresql.insert(progress)
BEAT = BEATS.on_conflict_do_update(
    index_elements=["client"], set_={"amount": BEATS.excluded.amount}
)
SOON = text("SET LOCAL synchronous_commit TO off")


def recorded(turn: Turn, steps: Sequence[Transition]) -> None:
    """Add steps of lifecycles to the log."""
    turn.connection.execute(insert(transitions), [transition_row(step) for step in steps])


def written(connection: Connection, last: int) -> list[Transition]:
    """Return the last steps, in order."""
    rows = connection.execute(select(transitions).order_by(transitions.c.id.desc()).limit(last))
    return [transition(row) for row in reversed(rows.all())]


def beat(transactions: Transactions, amounts: Mapping[ClientId, int]) -> None:
    """Progress by client, in one order, so that two servers never wait for each other."""
    rows = sorted((name_of(client), amount) for client, amount in amounts.items())
    values = [{"client": client, "amount": amount} for client, amount in rows]

    def body(connection: Connection, _: bool) -> None:
        connection.execute(SOON)
        connection.execute(BEAT, values)

    transactions.change("tell progress", body)


def progressed(connection: Connection) -> dict[ClientId, int]:
    """Progress by client."""
    return {json.loads(row.client): row.amount for row in connection.execute(select(progress))}
