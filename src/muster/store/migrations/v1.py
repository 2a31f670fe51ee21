# SPDX-License-Identifier: Apache-2.0
"""Version 1: members, what is open, seats, secure sums, who leads; blobs where no disk is shared.

The tables of a simulation's run are there already on SQLite, and made here on PostgreSQL.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

__all__ = ["branch_labels", "depends_on", "down_revision", "revision", "upgrade"]

revision = "1"
down_revision = None
branch_labels = None
depends_on = None

LARGE = sa.BigInteger().with_variant(sa.Integer, "sqlite")
PRIMARY: dict[str, Any] = {"primary_key": True}
GIVEN: dict[str, Any] = {"nullable": False}
EMPTY: dict[str, Any] = {"nullable": False, "server_default": ""}
ZERO: dict[str, Any] = {"nullable": False, "server_default": "0"}


def upgrade() -> None:
    """Make the tables."""
    if op.get_bind().dialect.name == "postgresql":
        _run()
        _shared()
    _federation()
    _secure()
    _control()


def _run() -> None:
    op.create_table("meta", _text("key", **PRIMARY), _text("value", **GIVEN))
    op.create_table("rounds", _round(**PRIMARY), _text("record", **GIVEN))
    op.create_table(
        "state",
        sa.Column("one", sa.Integer, sa.CheckConstraint("one = 1"), **PRIMARY),
        _round(**GIVEN),
        _text("file"),
        sa.Column("arrays", sa.LargeBinary),
    )
    arrays = sa.Column("arrays", sa.LargeBinary, nullable=False)
    op.create_table("memory", _text("client", **PRIMARY), _round(**PRIMARY), arrays)
    op.execute("INSERT INTO meta VALUES ('schema', '1')")


def _shared() -> None:
    op.create_table(
        "blobs",
        _text("name", **PRIMARY),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("finished", sa.Boolean, nullable=False, server_default=sa.false()),
    )
    op.create_table(
        "chunks",
        sa.Column("name", sa.Text, sa.ForeignKey("blobs.name", ondelete="CASCADE"), **PRIMARY),
        sa.Column("start", sa.BigInteger, primary_key=True),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )
    op.execute("ALTER TABLE chunks ALTER COLUMN data SET STORAGE EXTERNAL")  # noise: no compression
    amount = sa.Column("amount", sa.BigInteger, nullable=False)
    op.create_table("progress", _text("client", **PRIMARY), amount, prefixes=["UNLOGGED"])


def _federation() -> None:
    op.create_table(
        "members",
        _text("name", **PRIMARY),
        _text("client", unique=True, **GIVEN),
        sa.Column("rows", sa.BigInteger, nullable=False),
        _text("certificate", **EMPTY),
    )
    op.create_table(
        "opened",
        _round(**PRIMARY),
        _text("kind", **PRIMARY),
        *(sa.Column(name, sa.JSON, nullable=False) for name in ("cohort", "times", "roster")),
        _text("model", **GIVEN),
        sa.Column("since", sa.Double, nullable=False),
    )
    op.create_table(
        "seats",
        _round(**PRIMARY),
        _text("kind", **PRIMARY),
        _text("client", **PRIMARY),
        _text("standing", nullable=False, server_default="invited"),
        *(_text(name, **EMPTY) for name in ("reason", "text", "digest")),
        sa.Column("size", sa.BigInteger, **ZERO),
        sa.Column("weight", sa.Double, **ZERO),
        sa.Column("metrics", sa.JSON, nullable=False, server_default="{}"),
    )
    op.create_table(
        "transitions",
        sa.Column("id", LARGE, **PRIMARY),
        sa.Column("at", sa.Double, nullable=False),
        _round(**GIVEN),
        *(_text(name, **GIVEN) for name in ("before", "after", "cause")),
        _text("client"),
    )


def _secure() -> None:
    op.create_table(
        "words",
        _round(**PRIMARY),
        sa.Column("number", sa.Integer, autoincrement=False, **PRIMARY),
        *(_text(name, **GIVEN) for name in ("name", "kind", "blob", "digest")),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.Column("metrics", sa.JSON, nullable=False),
    )


def _control() -> None:
    op.create_table(
        "control",
        sa.Column("one", sa.Integer, sa.CheckConstraint("one = 1"), **PRIMARY),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        _text("wanted", **GIVEN),
    )
    op.execute("INSERT INTO control VALUES (1, 0, 0, 'run')")


def _text(name: str, **more: Any) -> sa.Column[str]:
    return sa.Column(name, sa.Text, **more)


def _round(**more: Any) -> sa.Column[int]:
    return sa.Column("round", sa.Integer, autoincrement=False, **more)
