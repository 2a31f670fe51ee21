# SPDX-License-Identifier: Apache-2.0
"""Version 3: models that stay beside the last, and the records that a rollback went back before.

On SQLite the tables are those of a simulation's run, there already; here they are made on
PostgreSQL.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

__all__ = ["branch_labels", "depends_on", "down_revision", "revision", "upgrade"]

revision = "3"
down_revision = "2"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables; a run of before keeps its last model alone."""
    if op.get_bind().dialect.name != "postgresql":
        return
    op.create_table(
        "versions",
        sa.Column("round", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("file", sa.Text),
        sa.Column("arrays", sa.LargeBinary),
    )
    op.create_table(
        "superseded",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("round", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("record", sa.Text, nullable=False),
    )
    op.execute("UPDATE meta SET value = '2' WHERE key = 'schema'")
