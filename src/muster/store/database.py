# SPDX-License-Identifier: Apache-2.0
"""The database of a run's folder: opened for one writer and many readers, checked, laid out."""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from sqlite3 import SQLITE_CANTOPEN, SQLITE_FULL, SQLITE_IOERR, SQLITE_NOMEM
from typing import IO, Any

from muster.errors import NoRoom, RunError, short
from muster.locks import flock

__all__ = ["SCHEMA", "lacking", "opened", "taken", "wanting"]

SCHEMA = 2
LEAST = 1 << 20  # bytes that the files of a database that is opened may need
PAGE = 16384  # bytes; vectors go in twice as fast as with SQLite's 4096

TABLES = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE rounds(round INTEGER PRIMARY KEY, record TEXT NOT NULL) STRICT;
CREATE TABLE state(
  one INTEGER PRIMARY KEY CHECK (one = 1), round INTEGER NOT NULL, file TEXT, arrays BLOB) STRICT;
CREATE TABLE memory(
  client TEXT NOT NULL, round INTEGER NOT NULL, arrays BLOB NOT NULL,
  PRIMARY KEY (client, round)) STRICT;
"""
KEPT = """
CREATE {temp} TABLE versions(round INTEGER PRIMARY KEY, file TEXT, arrays BLOB) STRICT;
CREATE {temp} TABLE superseded(
  number INTEGER NOT NULL, round INTEGER NOT NULL, record TEXT NOT NULL,
  PRIMARY KEY (number, round)) STRICT;
"""


def taken(folder: Path) -> IO[str]:
    """Return the lock of a folder, made if need be; held until it is closed or the process dies.

    Raises `RunError` when another process holds it, or the folder cannot be written; `NoRoom`
    where it can be once there is room.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / "lock", "a")  # noqa: SIM115 (held as long as the store)
    except OSError as error:
        if short(error):
            raise NoRoom(f"{folder} has no room for a run ({error}); make room") from error
        raise RunError(f"{folder} cannot hold a run ({error}); name another folder") from error
    try:
        flock(lock, wait=False)
    except OSError:
        lock.close()
        raise RunError(
            f"the run in {folder} is being trained by another process; wait for it, or stop it"
        ) from None
    return lock


def opened(folder: Path, *, readonly: bool) -> sqlite3.Connection:
    """Return the folder's `run.db`, made if need be unless `readonly`.

    Raises `RunError` for one that is missing, damaged, or from a newer version, and `NoRoom` where
    it could not be opened for want of room: nothing of it is damaged.
    """
    file = folder / "run.db"
    if readonly and not file.exists():
        raise RunError(f"{folder} holds no run (there is no run.db in it); see `muster ls`")
    reader = "rw" if os.access(folder, os.W_OK) else "ro&immutable=1"
    uri = f"{file.resolve().as_uri()}?mode={reader if readonly else 'rwc'}"
    db = None
    try:
        db = sqlite3.connect(uri, uri=True, isolation_level=None)
        found = _schema(db)
        if found <= SCHEMA:
            _prepare(db, found, readonly=readonly)
    except (sqlite3.Error, TypeError, ValueError) as error:
        if db is not None:
            db.close()
        if lacking(error, folder):
            raise NoRoom(f"{file} cannot be opened ({error}); make room") from error
        raise RunError(
            f"{file} cannot be read ({error}); restore it from a copy, or start a new run"
        ) from error
    if found > SCHEMA:
        db.close()
        raise RunError(
            f"the run in {folder} was written by a newer muster (schema {found}, this one "
            f"reads {SCHEMA}); upgrade muster to go on with it"
        )
    return db


def wanting(error: Any) -> bool:
    """Return whether SQLite says that it lacks room on a disk, memory, or a descriptor."""
    code = getattr(error, "sqlite_errorcode", 0)
    if code == sqlite3.SQLITE_IOERR_SHMSIZE or code & 0xFF in (SQLITE_FULL, SQLITE_NOMEM):
        return True
    return code & 0xFF == SQLITE_CANTOPEN and not _descriptors()


def lacking(error: Any, folder: Path) -> bool:
    """Return the same of a database that could not be opened; what SQLite does not say is tried.

    It calls a quota, or a directory without room for a name, an error of the disk.
    """
    if wanting(error):
        return True
    if getattr(error, "sqlite_errorcode", 0) & 0xFF not in (SQLITE_CANTOPEN, SQLITE_IOERR):
        return False
    trial = folder / "room.part"
    try:
        with open(trial, "wb", buffering=0) as file:
            written = file.write(bytes(LEAST))
            return written < LEAST
    except OSError as fault:
        return short(fault)
    finally:
        with suppress(OSError):  # whoever opens the run sweeps it away
            trial.unlink(missing_ok=True)


def _descriptors() -> bool:
    """Return whether this process may open one more file."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return not short(error)
    return True


def _schema(db: sqlite3.Connection) -> int:
    """Return the schema of a database, 0 for one that is empty."""
    if db.execute("SELECT name FROM sqlite_master LIMIT 1").fetchone() is None:
        return 0
    return int(db.execute("SELECT value FROM meta WHERE key='schema'").fetchone()[0])


def _prepare(db: sqlite3.Connection, found: int, *, readonly: bool) -> None:
    if readonly:
        if found == 0:
            raise ValueError("its run was never begun")
        if found == 1:  # a run from before models were kept reads as one that keeps none
            db.executescript(KEPT.format(temp="TEMP"))
        db.execute("PRAGMA query_only=ON")
        return
    db.execute(f"PRAGMA page_size={PAGE}")
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=NORMAL")
    if found < SCHEMA:  # in one transaction: a death in between leaves what was there
        schema = f"INSERT OR REPLACE INTO meta VALUES ('schema', '{SCHEMA}');"
        tables = ("" if found else TABLES) + KEPT.format(temp="")
        db.executescript(f"BEGIN IMMEDIATE; {tables} {schema} COMMIT;")
