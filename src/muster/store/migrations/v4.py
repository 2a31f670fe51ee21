# SPDX-License-Identifier: Apache-2.0
"""Version 4: an evaluation says whose replies are in the model that is measured."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

__all__ = ["branch_labels", "depends_on", "down_revision", "revision", "upgrade"]

revision = "4"
down_revision = "3"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; of an evaluation that was open before, nobody is counted."""
    op.add_column(
        "opened", sa.Column("counted", sa.JSON, nullable=False, server_default=sa.text("'[]'"))
    )
