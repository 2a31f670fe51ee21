# SPDX-License-Identifier: Apache-2.0
"""Reads and writes on either database: one writer at a time, retried where that is safe, said.

A write has its turn when it holds SQLite's only write lock, or on PostgreSQL the one row of
`control`; that row also says who leads, so a server that has lost the lead changes nothing. When a
connection breaks during COMMIT, PostgreSQL is asked whether the transaction lives before it is
tried again, so that nothing is done twice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, select, text
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError

from muster.errors import NoRoom, RunError
from muster.store.database import wanting
from muster.store.sql.tables import control

__all__ = ["Transactions", "Turn", "full"]

T = TypeVar("T")
SEEN = select(control.c.version)
HELD = select(
    control.c.epoch, control.c.version, text("pg_current_xact_id()::text")
).with_for_update()
FATE = text("SELECT pg_xact_status(CAST(:id AS xid8))")


@dataclass
class Turn:
    """A turn to write: the connection, and the epoch of whoever leads (None: the folder's lock).

    `position` is that of the newest row of the journal.
    """

    connection: Connection
    name: str
    epoch: int | None = None
    id: str = ""
    position: int = 0

    def fence(self, epoch: int | None) -> None:
        """Raise `RunError` unless the lead of this epoch still stands."""
        if self.epoch is None or epoch == self.epoch:
            return
        raise RunError(
            f"this server does not lead {self.name}"
            + (", which it never did" if epoch is None else "; another has taken the lead since")
            + ": nothing was changed; wait for the lead again"
        )

    def lost(self, error: Exception) -> bool:
        """Return whether the whole transaction is gone, and not only the savepoint of one job."""
        if self.epoch is None:
            driver: Any = self.connection.connection.dbapi_connection
            return not driver.in_transaction
        return isinstance(error, DBAPIError) and error.connection_invalidated


class Transactions:
    """The demands of a ledger on its database; `name` is what errors call it."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine, self.name = engine, name
        self.shared = engine.dialect.name == "postgresql"
        self._gate = threading.Lock()
        self.closed = False
        self._reading = {"isolation_level": "REPEATABLE READ"} if self.shared else {}

    def close(self) -> None:
        """End all connections; idempotent."""
        self.closed = True
        self.engine.dispose()

    def connected(self, **options: Any) -> Connection:
        """Return a connection with these options. Raises `RunError` when closed."""
        if self.closed:
            raise RunError(f"{self.name} is closed; open it again")
        return self.engine.connect().execution_options(**options)

    def read(self, body: Callable[[Connection], T]) -> T:
        """Return what `body` reads of one instant."""
        for last in (False, True):
            try:
                with self.connected(**self._reading) as connection, connection.begin():
                    return body(connection)
            except SQLAlchemyError as error:
                if last or not _dropped(error):
                    raise self.said("be read", error) from error
        raise AssertionError

    def write(self, deed: str, body: Callable[[Turn], T]) -> T:
        """Return what `body` returns, once it is durable; `deed` says what failed if it is not."""
        fate: tuple[str, T] | None = None
        with self._gate:
            for last in (False, True):
                try:
                    with self.connected(writes=True) as connection, connection.begin() as whole:
                        turn = self._turn(connection)
                        if fate is not None and _lives(connection, fate[0]):
                            return fate[1]
                        result = body(turn)
                        fate = turn.id, result
                        whole.commit()
                        return result
                except SQLAlchemyError as error:
                    if last or not _dropped(error):
                        raise self.said(deed, error) from error
        raise AssertionError

    def change(self, deed: str, body: Callable[[Connection, bool], T]) -> T:
        """Write to what no other writer touches; `body` hears whether it may be done already."""
        for again in (False, True):
            try:
                with self.connected(writes=True) as connection, connection.begin():
                    return body(connection, again)
            except SQLAlchemyError as error:
                if again or not _dropped(error):
                    raise self.said(deed, error) from error
        raise AssertionError

    def told(self, deed: str, error: Exception) -> Exception:
        """Return an error of one job as its caller should see it."""
        if isinstance(error, SQLAlchemyError):
            return self.said(deed, error)
        if isinstance(error, ValueError | OverflowError):  # text or a number that no row can hold
            return RunError(f"{self.name} could not {deed} ({error}); give it another value")
        return error

    def said(self, deed: str, error: SQLAlchemyError) -> RunError:
        """Return an error that says in a sentence what the database says."""
        cause = getattr(error, "orig", None) or error
        why = " ".join(str(cause).split())
        text = f"{self.name} could not {deed} ({why}); "
        if full(cause):
            return NoRoom(f"{text}what was committed before is safe: make room, then try again")
        if isinstance(error, DataError | IntegrityError):
            return RunError(f"{text}nothing was changed: give it another value")
        if deed == "be read":
            return RunError(f"{text}restore it from a copy, or start a new run")
        return RunError(
            f"{text}what was committed before is safe: repair the disk or the database, then resume"
        )

    def _turn(self, connection: Connection) -> Turn:
        if not self.shared:
            return Turn(connection, self.name, position=connection.execute(SEEN).scalar_one())
        epoch, position, id = connection.execute(HELD).one()
        return Turn(connection, self.name, epoch, id, position)


def _lives(connection: Connection, id: str) -> bool:
    return bool(connection.execute(FATE, {"id": id}).scalar() == "committed")


def _dropped(error: SQLAlchemyError) -> bool:
    return isinstance(error, DBAPIError) and error.connection_invalidated


def full(cause: Any) -> bool:
    """Return whether SQLite or PostgreSQL lacks room, or what it takes to open a file.

    53 are the shortages of PostgreSQL: of disk, memory, connections.
    """
    return wanting(cause) or str(getattr(cause, "sqlstate", "")).startswith("53")
