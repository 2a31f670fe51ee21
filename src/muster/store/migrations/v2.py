# SPDX-License-Identifier: Apache-2.0
"""Version 2: what is opened says how its cohort is divided, where sums are masked by group."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

__all__ = ["branch_labels", "depends_on", "down_revision", "revision", "upgrade"]

revision = "2"
down_revision = "1"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; a round that was open before has one group or none."""
    op.add_column(
        "opened", sa.Column("groups", sa.JSON, nullable=False, server_default=sa.text("'[]'"))
    )
