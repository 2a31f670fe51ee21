# SPDX-License-Identifier: Apache-2.0
"""Version 5: one journal in the place of members, what is open, seats, messages and orders.

What stood in those tables becomes the rows that a journal would have after the same events.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from alembic import op

__all__ = ["branch_labels", "depends_on", "down_revision", "revision", "upgrade"]

revision = "5"
down_revision = "4"
branch_labels = None
depends_on = None

DECIDED = ("standing", "reason", "text", "digest", "size", "weight")
GIVEN: dict[str, Any] = {"nullable": False}


def upgrade() -> None:
    """Make the journal of what is there, and remove the tables."""
    journal = op.create_table(
        "journal",
        sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("topic", sa.Text, **GIVEN),
        sa.Column("round", sa.Integer, **GIVEN),
        sa.Column("key", sa.Text, **GIVEN),
        sa.Column("body", sa.JSON, **GIVEN),
        sa.Column("data", sa.LargeBinary),
    )
    op.create_index("journal_once", "journal", ["topic", "round", "key"], unique=True)
    position = _asked("SELECT version FROM control")[0].version
    rows = [
        dict(zip(("topic", "round", "key", "body", "data"), row, strict=True))
        for row in (*_run(), *_members(), *_rounds())
    ]
    for place, row in enumerate(rows, position + 1):
        row["position"] = place
    if rows:
        op.bulk_insert(journal, rows)
    op.execute(sa.text(f"UPDATE control SET version = {position + len(rows)}"))
    op.drop_column("control", "wanted")
    for table in ("members", "opened", "seats", "words"):
        op.drop_table(table)
    op.execute("DELETE FROM meta WHERE key = 'excluded'")


Row = tuple[str, int, str, Mapping[str, Any], bytes | None]


def _run() -> Iterator[Row]:
    wanted = _asked("SELECT wanted FROM control")[0].wanted
    if wanted != "run":
        yield "ordered", 0, "", {"word": wanted}, None
    for row in _asked("SELECT value FROM meta WHERE key = 'excluded'"):
        for client, why in json.loads(row.value):
            yield "excluded", 0, json.dumps(client), {"why": why}, None


def _members() -> Iterator[Row]:
    for row in _asked("SELECT * FROM members ORDER BY name"):
        body = {"client": _json(row.client), "rows": row.rows, "certificate": row.certificate}
        yield "enrolled", 0, row.name, body, None


def _rounds() -> Iterator[Row]:
    raised = [_json(row.value) for row in _asked("SELECT value FROM meta WHERE key = 'raised'")]
    attempt = {"attempt": 1 + len(raised[0] if raised else ())}
    lists = ("cohort", "times", "roster", "groups", "counted")
    for row in _asked("SELECT * FROM opened ORDER BY round, kind DESC"):  # train, then evaluate
        body = {name: _json(getattr(row, name)) for name in lists}
        yield (
            *("opened", row.round, row.kind),
            {"model": row.model, "since": row.since} | body | attempt,
            None,
        )
    for row in _asked("SELECT * FROM seats WHERE standing <> 'invited'"):
        body = {name: getattr(row, name) for name in DECIDED}
        body |= {"client": _json(row.client), "metrics": _json(row.metrics)} | attempt
        yield "decided", row.round, f"{row.kind} {row.client}", body, None
    for row in _asked("SELECT * FROM words ORDER BY round, number"):
        body = {name: getattr(row, name) for name in ("name", "kind", "blob", "digest")}
        body |= {"metrics": _json(row.metrics)} | attempt
        yield "said", row.round, f"{row.kind} {row.name}", body, row.data


def _asked(query: str) -> list[Any]:
    return list(op.get_bind().execute(sa.text(query)))


def _json(value: Any) -> Any:
    """Return a JSON column, which PostgreSQL has read; None for what is none: its reader checks."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None
