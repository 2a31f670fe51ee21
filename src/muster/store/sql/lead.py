# SPDX-License-Identifier: Apache-2.0
"""The lead among servers that share a PostgreSQL: a lock of one session, and its epoch.

The lock falls when the session ends, however it ends; the epoch grows with each lead, and every
write of a leader is compared with it, so that one who lost the lead without knowing changes
nothing.
"""

from __future__ import annotations

import threading
from contextlib import suppress

from sqlalchemy import Connection, text, update
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from muster.store.sql.tables import control
from muster.store.sql.transact import Transactions

__all__ = ["Lead"]

PATIENCE = "500ms"  # of one attempt; between two, `stop` is looked at
TIMED_OUT = "55P03"  # lock_not_available
LOCK = text("SELECT pg_advisory_lock(:key)")
WAIT = text(f"SET lock_timeout TO '{PATIENCE}'")
FOREVER = text("SET lock_timeout TO 0")
EPOCH = update(control).values(epoch=control.c.epoch + 1).returning(control.c.epoch)


class Lead:
    """The lead over one run; `key` is the number of its lock."""

    def __init__(self, transactions: Transactions, key: int) -> None:
        self._transactions, self._key = transactions, key
        self._held: Connection | None = None

    def take(self, stop: threading.Event) -> int | None:
        """Wait for the lead; its epoch, or None when `stop` was set, or the ledger closed, first.

        A connection that breaks meanwhile is made again once. Raises `RunError`.
        """
        self.release()
        for last in (False, True):
            try:
                return self._taken(stop)
            except DBAPIError as error:
                if last or not error.connection_invalidated:
                    raise self._transactions.said("be led", error) from error
        raise AssertionError

    def release(self) -> None:
        """Let another lead; idempotent."""
        held, self._held = self._held, None
        if held is not None:
            _ended(held)

    def _taken(self, stop: threading.Event) -> int | None:
        connection = self._transactions.connected(isolation_level="AUTOCOMMIT")
        try:
            connection.execute(WAIT)
            while not (stop.is_set() or self._transactions.closed):
                if self._locked(connection):
                    connection.execute(FOREVER)
                    epoch: int = connection.execute(EPOCH).scalar_one()
                    self._held = connection
                    return epoch
            return None
        finally:
            if self._held is not connection:
                _ended(connection)

    def _locked(self, connection: Connection) -> bool:
        try:
            connection.execute(LOCK, {"key": self._key})
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", "") != TIMED_OUT:
                raise
            return False
        return True


def _ended(connection: Connection) -> None:
    """End the session itself: back in the pool, it would keep its lock."""
    with suppress(SQLAlchemyError):
        connection.invalidate()
    connection.close()
