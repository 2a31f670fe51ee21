# SPDX-License-Identifier: Apache-2.0
"""Members, what is open, and who sits where: each change is compared first, then set, once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, select, text, update
from sqlalchemy.dialects import postgresql

from muster.errors import RunError
from muster.store.records import Assignment, Kind, Member, OpenWork, Transition
from muster.store.sql.tables import (
    control,
    member,
    members,
    name_of,
    opened,
    opened_row,
    opening,
    progress,
    rounds,
    seat,
    seat_row,
    seats,
    transition,
    transition_row,
    transitions,
)
from muster.store.sql.transact import Transactions, Turn
from muster.types import ClientId

__all__ = [
    "all_open",
    "beat",
    "decide",
    "enrol",
    "invited",
    "last_round",
    "latest",
    "listed",
    "open_round",
    "progressed",
    "recorded",
    "seated",
    "version",
    "want",
    "wanted",
    "written",
]

PLACE = (seats.c.round == bindparam("b_round"), seats.c.kind == bindparam("b_kind"))
ONE = (*PLACE, seats.c.client == bindparam("b_client"))
DECIDED = ("standing", "reason", "text", "digest", "size", "weight", "metrics")
DECIDE = (
    update(seats)
    .where(*ONE, seats.c.standing == "invited")
    .values({seats.c[name]: bindparam(f"b_{name}") for name in DECIDED})
)
DECIDE_ONE = DECIDE.returning(seats.c.client)
ENROLLED = select(members).where(members.c.name == bindparam("b_name"))
SAME_CLIENT = select(members.c.name).where(members.c.client == bindparam("b_client"))
BEATS = postgresql.insert(progress)
BEAT = BEATS.on_conflict_do_update(
    index_elements=["client"], set_={"amount": BEATS.excluded.amount}
)
SOON = text("SET LOCAL synchronous_commit TO off")
LAST = select(func.max(rounds.c.round))
LATEST = select(opened).order_by(opened.c.round.desc(), opened.c.kind).limit(1)  # evaluate < train


def enrol(turn: Turn, one: Member) -> Member:
    """Write a member down, unless the very same is there already."""
    row = turn.connection.execute(ENROLLED, {"b_name": one.name}).one_or_none()
    if row is not None and member(row) == one:
        return one
    values = {"client": name_of(one.client), "rows": one.rows, "certificate": one.certificate}
    other = turn.connection.execute(SAME_CLIENT, {"b_client": values["client"]}).scalar()
    if other not in (None, one.name):
        raise RunError(
            f"{one.name!r} would enrol as client {one.client!r}, which {other!r} is already; give "
            f"one of them another id"
        )
    if row is None:
        turn.connection.execute(insert(members), {"name": one.name, **values})
    else:
        turn.connection.execute(update(members).where(members.c.name == one.name), values)
    turn.touched = True
    return one


def listed(connection: Connection) -> dict[str, Member]:
    """Return all members by name, as they are stored: whoever takes them in checks them."""
    rows = connection.execute(select(members).order_by(members.c.name))
    return {row.name: member(row) for row in rows}


def last_round(connection: Connection) -> int:
    """Return the last committed round, or 0."""
    return connection.execute(LAST).scalar() or 0


def open_round(turn: Turn, one: OpenWork) -> None:
    """Open a piece of a round and invite its cohort; again the same: nothing changes."""
    last = last_round(turn.connection)
    if one.round <= last:
        raise RunError(
            f"round {one.round} cannot be opened in {turn.name}, which has committed round {last}; "
            f"go on with round {last + 1}"
        )
    place = {"round": one.round, "kind": one.kind}
    row = turn.connection.execute(select(opened).filter_by(**place)).one_or_none()
    if row is not None:
        if replace(opening(row), since=one.since) == one:
            return
        raise RunError(
            f"round {one.round} is open already in {turn.name}, to {one.kind} another model or "
            f"with another cohort; go on with what is open"
        )
    turn.connection.execute(insert(opened), opened_row(one))
    if one.cohort:
        invited = [seat_row(one.round, one.kind, Assignment(client)) for client in one.cohort]
        turn.connection.execute(insert(seats), invited)
    turn.touched = True


def latest(connection: Connection) -> tuple[OpenWork, dict[ClientId, Assignment]] | None:
    """Return the work opened last that is not over, and its seats."""
    row = connection.execute(LATEST).one_or_none()
    if row is None:
        return None
    return opening(row), seated(connection, row.round, row.kind)


def version(connection: Connection) -> int:
    """Count how often anything that followers look at has changed."""
    return int(connection.execute(select(control.c.version)).scalar_one())


def wanted(connection: Connection) -> str:
    """Return the operators' wish for the run."""
    return str(connection.execute(select(control.c.wanted)).scalar_one())


def all_open(connection: Connection) -> list[OpenWork]:
    """Return all that is open: a round's training, and its evaluation."""
    return [opening(row) for row in connection.execute(select(opened))]


def seated(connection: Connection, round: int, kind: Kind) -> dict[ClientId, Assignment]:
    """Return all seats of what is open, as they are stored: whoever takes them in checks them."""
    rows = connection.execute(select(seats).where(*PLACE), {"b_round": round, "b_kind": kind})
    return {found.client: found for found in map(seat, rows) if found.client is not None}


def invited(connection: Connection, round: int, kind: Kind) -> set[ClientId]:
    """Return the clients for which a piece of a round was opened."""
    query = select(opened).filter_by(round=round, kind=kind)
    row = connection.execute(query).one_or_none()
    return set() if row is None else set(opening(row).cohort)


def decide(
    turn: Turn, round: int, kind: Kind, asked: Sequence[Assignment]
) -> dict[ClientId, Assignment]:
    """Decide seats that are "invited"; the seats of these clients as they are afterwards."""
    rows = [
        {f"b_{name}": value for name, value in seat_row(round, kind, one).items()} for one in asked
    ]
    if len(rows) == 1:
        if turn.connection.execute(DECIDE_ONE, rows[0]).first() is not None:
            turn.touched = True
            return {asked[0].client: asked[0]}
        return _held(turn.connection, rows)
    if not rows:
        return {}
    before = seated(turn.connection, round, kind)
    waiting = {c for c, found in before.items() if found.standing == "invited"}
    fresh = [row for row, one in zip(rows, asked, strict=True) if one.client in waiting]
    if fresh:
        turn.connection.execute(DECIDE, fresh)
        turn.touched = True
        before = seated(turn.connection, round, kind)
    return {one.client: before[one.client] for one in asked if one.client in before}


def recorded(turn: Turn, steps: Sequence[Transition]) -> None:
    """Add steps of lifecycles to the log."""
    turn.connection.execute(insert(transitions), [transition_row(step) for step in steps])


def written(connection: Connection, last: int) -> list[Transition]:
    """Return the last steps, in order."""
    rows = connection.execute(select(transitions).order_by(transitions.c.id.desc()).limit(last))
    return [transition(row) for row in reversed(rows.all())]


def want(turn: Turn, word: str) -> None:
    """Say what operators want of the run."""
    turn.connection.execute(update(control).values(wanted=word))
    turn.touched = True


def beat(transactions: Transactions, amounts: Mapping[ClientId, int]) -> None:
    """Record progress by client, in one order, so that two servers never wait for each other."""
    rows = sorted((name_of(client), amount) for client, amount in amounts.items())
    values = [{"client": client, "amount": amount} for client, amount in rows]

    def body(connection: Connection, _: bool) -> None:
        connection.execute(SOON)
        connection.execute(BEAT, values)

    transactions.change("tell progress", body)


def progressed(connection: Connection) -> dict[ClientId, int]:
    """Return progress by client."""
    return {json.loads(row.client): row.amount for row in connection.execute(select(progress))}


def _held(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> dict[ClientId, Assignment]:
    found = [connection.execute(select(seats).where(*ONE), row).one_or_none() for row in rows]
    held = [seat(row) for row in found if row is not None]
    return {one.client: one for one in held}
