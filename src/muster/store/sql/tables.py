# SPDX-License-Identifier: Apache-2.0
"""The tables of a federation, and its records as their rows.

`meta`, `rounds`, `state` and `memory` are those that SQLiteStore reads. What a table is made of
stands in the migrations; here is what is asked of it. A client's id is kept as JSON, so that 1
and "1" are two clients.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)

from muster.errors import RunError
from muster.store.records import (
    Assignment,
    Member,
    OpenWork,
    SecAggEvent,
    Transition,
    client_of,
    name_of,
)

__all__ = [
    "blobs",
    "chunks",
    "client_of",
    "control",
    "member",
    "members",
    "memory",
    "meta",
    "name_of",
    "opened",
    "opened_row",
    "opening",
    "progress",
    "rounds",
    "seat",
    "seat_row",
    "seats",
    "state",
    "superseded",
    "transition",
    "transition_row",
    "transitions",
    "versions",
    "word",
    "word_row",
    "words",
]

_all = MetaData()

meta = Table("meta", _all, Column("key", Text, primary_key=True), Column("value", Text))
rounds = Table("rounds", _all, Column("round", Integer, primary_key=True), Column("record", Text))
state = Table(
    "state",
    _all,
    Column("one", Integer, primary_key=True),
    Column("round", Integer),
    Column("file", Text),
    Column("arrays", LargeBinary),
)
versions = Table(
    "versions",
    _all,
    Column("round", Integer, primary_key=True),
    Column("file", Text),
    Column("arrays", LargeBinary),
)
superseded = Table(
    "superseded",
    _all,
    Column("number", Integer, primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("record", Text),
)
memory = Table(
    "memory",
    _all,
    Column("client", Text, primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("arrays", LargeBinary),
)
members = Table(
    "members",
    _all,
    Column("name", Text, primary_key=True),
    Column("client", Text, unique=True),
    Column("rows", BigInteger),
    Column("certificate", Text),
)
opened = Table(
    "opened",
    _all,
    Column("round", Integer, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("cohort", JSON),
    Column("times", JSON),
    Column("roster", JSON),
    Column("model", Text),
    Column("since", Double),
    Column("groups", JSON),
)
seats = Table(
    "seats",
    _all,
    Column("round", Integer, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("client", Text, primary_key=True),
    Column("standing", Text),
    Column("reason", Text),
    Column("text", Text),
    Column("digest", Text),
    Column("size", BigInteger),
    Column("weight", Double),
    Column("metrics", JSON),
)
words = Table(
    "words",
    _all,
    Column("round", Integer, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("name", Text),
    Column("kind", Text),
    Column("data", LargeBinary),
    Column("blob", Text),
    Column("digest", Text),
    Column("metrics", JSON),
)
transitions = Table(
    "transitions",
    _all,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("at", Double),
    Column("round", Integer),
    Column("before", Text),
    Column("after", Text),
    Column("cause", Text),
    Column("client", Text),
)
control = Table(
    "control",
    _all,
    Column("one", Integer, primary_key=True),
    Column("epoch", BigInteger),
    Column("version", BigInteger),
    Column("wanted", Text),
)
progress = Table(
    "progress", _all, Column("client", Text, primary_key=True), Column("amount", BigInteger)
)
blobs = Table(
    "blobs",
    _all,
    Column("name", Text, primary_key=True),
    Column("size", BigInteger),
    Column("finished", Boolean),
)
chunks = Table(
    "chunks",
    _all,
    Column("name", Text, primary_key=True),
    Column("start", BigInteger, primary_key=True),
    Column("data", LargeBinary),
)


def member(row: Any) -> Member:
    """A row of `members`, whatever it holds."""
    return Member(row.name, client_of(row.client), row.rows, row.certificate)


def opening(row: Any) -> OpenWork:
    """A row of `opened`. Raises `RunError` where it is none: nobody but the server wrote it."""
    try:
        roster = tuple((client, rows) for client, rows in row.roster)
        groups = tuple(map(tuple, row.groups))
        about = (row.round, row.kind, tuple(row.cohort), tuple(row.times), roster)
    except (TypeError, ValueError) as error:
        raise RunError(
            f"what round {row.round} was opened for is damaged ({error}); restore the run from a "
            f"copy, or start a new one"
        ) from error
    return OpenWork(*about, row.model, row.since, groups)


def opened_row(one: OpenWork) -> dict[str, Any]:
    """The inverse of `opening`."""
    lists = {"cohort": [*one.cohort], "times": [*one.times], "groups": [*map(list, one.groups)]}
    return vars(one) | lists | {"roster": [[client, rows] for client, rows in one.roster]}


def seat(row: Any) -> Assignment:
    """A row of `seats`, whatever it holds."""
    fields = ("standing", "reason", "text", "digest", "size", "weight", "metrics")
    return Assignment(client_of(row.client), *(getattr(row, field) for field in fields))


def seat_row(round: int, kind: str, one: Assignment) -> dict[str, Any]:
    """The inverse of `seat`."""
    place = {"round": round, "kind": kind, "client": name_of(one.client)}
    return vars(one) | place | {"metrics": dict(one.metrics)}


def word(row: Any) -> SecAggEvent:
    """A row of `words`."""
    found = (row.name, row.kind, row.data, row.blob, row.digest, row.metrics, row.number)
    return SecAggEvent(*found)


def word_row(round: int, one: SecAggEvent) -> dict[str, Any]:
    """The inverse of `word`."""
    return vars(one) | {"round": round, "metrics": dict(one.metrics)}


def transition(row: Any) -> Transition:
    """A row of `transitions`."""
    client = None if row.client is None else client_of(row.client)
    return Transition(row.at, row.round, row.before, row.after, row.cause, client)


def transition_row(one: Transition) -> dict[str, Any]:
    """The inverse of `transition`."""
    return vars(one) | {"client": None if one.client is None else name_of(one.client)}
