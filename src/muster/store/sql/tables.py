# SPDX-License-Identifier: Apache-2.0
"""The tables of a federation, and its records as their rows.

`meta`, `rounds`, `state` and `memory` are those that SQLiteStore reads. What a table is made of
stands in the migrations; here is what is asked of it. `control.version` is the position of the
newest row of the journal.
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

from muster.store.records import Transition, client_of, name_of

__all__ = [
    "blobs",
    "chunks",
    "control",
    "journal",
    "memory",
    "meta",
    "progress",
    "rounds",
    "state",
    "superseded",
    "transition",
    "transition_row",
    "transitions",
    "versions",
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
journal = Table(
    "journal",
    _all,
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("topic", Text),
    Column("round", Integer),
    Column("key", Text),
    Column("body", JSON),
    Column("data", LargeBinary),
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


def transition(row: Any) -> Transition:
    """Return a row of `transitions`."""
    client = None if row.client is None else client_of(row.client)
    return Transition(row.at, row.round, row.before, row.after, row.cause, client)


def transition_row(one: Transition) -> dict[str, Any]:
    """Return the inverse of `transition`."""
    return vars(one) | {"client": None if one.client is None else name_of(one.client)}
