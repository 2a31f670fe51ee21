# SPDX-License-Identifier: Apache-2.0
"""The rooms behind `muster.store.ledger`: one text for SQLite and PostgreSQL, by SQLAlchemy."""

from muster.extras import require

require("sqlalchemy", extra="service")
require("alembic", extra="service")

__all__ = ()
