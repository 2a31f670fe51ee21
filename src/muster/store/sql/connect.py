# SPDX-License-Identifier: Apache-2.0
"""Connections to the database of a federation, and its schema at the newest version."""

from __future__ import annotations

import json
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from muster.errors import NoRoom, RunError
from muster.extras import require
from muster.store import database
from muster.store.sql.transact import full
from muster.store.sql.upgrade import upgrade

__all__ = ["connected", "lock_key", "run_name"]

RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,54}")
PREFIX = "muster_"  # of a run's schema in PostgreSQL, whose names have at most 63 bytes
ALIVE = {  # of our side: seconds, and milliseconds for what was sent
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
SETTINGS = (
    "SET search_path TO {schema}",
    # A server that vanished gives its lock back within half a minute.
    "SET tcp_keepalives_idle TO 15",
    "SET tcp_keepalives_interval TO 5",
    "SET tcp_keepalives_count TO 3",
    # One that was frozen in the middle of a write does not hold up the others for ever.
    "SET idle_in_transaction_session_timeout TO '60s'",
)


def connected(folder: Path, url: str | None, name: str) -> Engine:
    """Return an engine for the database, its schema made or upgraded. Raises `RunError`.

    None is SQLite in the folder, which the caller has locked; `name` is what errors call the run.
    """
    engine = _sqlite(folder) if url is None else _postgres(folder, url)
    try:
        with engine.connect() as connection:
            if url is None:
                connection = connection.execution_options(writes=True)
            with connection.begin():
                if url is not None:
                    _schema(connection, PREFIX + run_name(folder, url))
                upgrade(connection, name)
    except SQLAlchemyError as error:
        engine.dispose()
        cause = getattr(error, "orig", None) or error
        why = " ".join(str(cause).split())
        if full(cause) or (url is None and database.lacking(cause, folder)):
            raise NoRoom(f"the database of {name} cannot be opened ({why}); make room") from error
        raise RunError(
            f"the database of {name} cannot be used ({why}); check that it runs, its address and "
            f"its rights, then start again"
        ) from error
    except BaseException:
        engine.dispose()
        raise
    return engine


def run_name(folder: Path, url: str) -> str:
    """Return the run that a PostgreSQL address means: `?run=NAME`, or the folder's name.

    >>> run_name(Path("runs/x"), "postgresql://host/db?run=hospitals")
    'hospitals'
    """
    found = _address(url).query.get("run", folder.resolve().name)
    if not isinstance(found, str) or not RUN.fullmatch(found):
        raise RunError(
            f"{found!r:.80} cannot name a run in PostgreSQL; add ?run=NAME to the address, with "
            f"up to 55 letters, digits, '.', '_' and '-'"
        )
    return found


def lock_key(text: str) -> int:
    """Return the number of an advisory lock.

    >>> lock_key("a") == lock_key("a") != lock_key("b")
    True
    """
    return int.from_bytes(sha256(text.encode()).digest()[:8], "little", signed=True)


def _sqlite(folder: Path) -> Engine:
    database.opened(folder, readonly=False).close()
    file = URL.create("sqlite", database=str(folder / "run.db"))
    engine = create_engine(
        file, connect_args={"check_same_thread": False}, max_overflow=-1, json_deserializer=_parsed
    )

    @event.listens_for(engine, "connect")
    def begun(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # muster begins its transactions itself
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA busy_timeout=5000")
        connection.execute("PRAGMA secure_delete=ON")  # what goes is written over: secrets

    @event.listens_for(engine, "begin")
    def begins(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _parsed(text: Any) -> Any:
    """Return a JSON column; None for one that was altered to what is no JSON: its reader checks."""
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return None


def _postgres(folder: Path, url: str) -> Engine:
    require("psycopg", extra="postgres")
    address = _address(url).set(drivername="postgresql+psycopg").difference_update_query(["run"])
    alive: dict[str, Any] = {"connect_timeout": 10, "application_name": "muster", **ALIVE}
    for key in alive.keys() & address.query.keys():
        del alive[key]
    engine = create_engine(address, connect_args=alive, max_overflow=15, json_deserializer=_parsed)
    schema = _quoted(PREFIX + run_name(folder, url))

    @event.listens_for(engine, "connect")
    def begun(connection: Any, _: Any) -> None:
        connection.autocommit = True
        for setting in SETTINGS:
            connection.execute(setting.format(schema=schema))
        connection.autocommit = False

    return engine


def _schema(connection: Connection, schema: str) -> None:
    """Make the schema of a run; servers that start at one moment take turns."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": lock_key("migrate")})
    connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {_quoted(schema)}"))


def _quoted(name: str) -> str:
    return f'"{name}"'  # RUN lets no quote in


def _address(url: str) -> URL:
    try:
        found = make_url(url)
    except ArgumentError as error:
        raise RunError("the address of the database cannot be read; " + CURE) from error
    if found.drivername.split("+")[0] not in ("postgresql", "postgres"):
        raise RunError(f"a database of kind {found.drivername!r:.40} was given; {CURE}")
    return found


CURE = "give postgresql://USER@HOST/DATABASE?run=NAME, or nothing for SQLite in the folder"
