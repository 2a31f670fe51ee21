# SPDX-License-Identifier: Apache-2.0
"""The history of a ledger's schema, one file a version; `store/sql/upgrade.py` goes along it."""

from muster.extras import require

require("alembic", extra="service")

__all__ = ()
