# SPDX-License-Identifier: Apache-2.0
"""SQLiteStore: one run in one file, `run.db`; a round is durable in one transaction.

Here an update becomes durable: `commit` writes state, record, memories and accepted list
together or not at all. WAL with synchronous=NORMAL survives the death of the process; a state
too large for a row lies beside the database as a safetensors file that is complete under its
name before the row that points to it is committed, and is removed after its successor is.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, load_file, save, save_file

from muster.errors import RunError
from muster.types import ClientId

__all__ = ["SCHEMA", "SQLiteStore"]

SCHEMA = 1
LARGE = 1 << 20  # bytes from which a state lies beside the database

TABLES = """
CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS rounds(round INTEGER PRIMARY KEY, record TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS state(
  one INTEGER PRIMARY KEY CHECK (one = 1), round INTEGER NOT NULL, file TEXT, arrays BLOB) STRICT;
CREATE TABLE IF NOT EXISTS memory(
  client TEXT NOT NULL, round INTEGER NOT NULL, arrays BLOB NOT NULL,
  PRIMARY KEY (client, round)) STRICT;
"""


class SQLiteStore:
    """A run's folder as a Store; `at(label)` is called at each labelled point of a commit.

    Raises `RunError` for a folder that is damaged, in use, or from a newer version.

    >>> import tempfile
    >>> SQLiteStore(tempfile.mkdtemp()).history()
    []
    """

    def __init__(
        self, path: str | Path, *, readonly: bool = False, at: Callable[[str], None] | None = None
    ) -> None:
        self.path = Path(path)
        self._at = at or (lambda label: None)
        self._lock: IO[str] | None = None
        if not readonly:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = self._take()
        elif not (self.path / "run.db").exists():
            raise RunError(f"{self.path} holds no run (there is no run.db in it); see `muster ls`")
        self._db = self._open(readonly)

    def _take(self) -> IO[str]:
        lock = open(self.path / "lock", "a")  # noqa: SIM115 (held as long as the store)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise RunError(
                f"the run in {self.path} is being trained by another process; wait for it, or stop it"
            ) from None
        return lock

    def _open(self, readonly: bool) -> sqlite3.Connection:
        try:
            db = sqlite3.connect(self.path / "run.db", isolation_level=None)
            if not readonly:
                db.execute("PRAGMA journal_mode=WAL")
                db.execute("PRAGMA synchronous=NORMAL")
                db.executescript(TABLES)
                db.execute("INSERT OR IGNORE INTO meta VALUES ('schema', ?)", (str(SCHEMA),))
            found = int(db.execute("SELECT value FROM meta WHERE key='schema'").fetchone()[0])
        except (sqlite3.DatabaseError, TypeError) as error:
            raise RunError(
                f"{self.path / 'run.db'} cannot be read ({error}); restore it from a copy, "
                f"or start a new run"
            ) from error
        if found > SCHEMA:
            raise RunError(
                f"the run in {self.path} was written by a newer muster (schema {found}, this one "
                f"reads {SCHEMA}); upgrade muster to go on with it"
            )
        return db

    def close(self) -> None:
        """Let go of the folder."""
        self._db.close()
        if self._lock is not None:
            self._lock.close()

    def meta(self, key: str) -> Any:
        """A fact about the run (plan, engine, versions), or None."""
        row = self._db.execute("SELECT value FROM meta WHERE key=?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def facts(self) -> dict[str, Any]:
        """All facts about the run."""
        rows = self._db.execute("SELECT key, value FROM meta").fetchall()
        return {key: json.loads(value) for key, value in rows}

    def note(self, **facts: Any) -> None:
        """Write facts about the run, replacing those of the same name."""
        rows = [(key, json.dumps(value)) for key, value in facts.items()]
        self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """The last committed round and its state's arrays."""
        row = self._db.execute("SELECT round, file, arrays FROM state").fetchone()
        if row is None:
            return None
        try:
            arrays = load_file(self.path / row[1]) if row[1] else load(row[2])
        except (OSError, SafetensorError) as error:
            raise RunError(
                f"the state of round {row[0]} in {self.path} is damaged ({error}); "
                f"restore the folder from a copy, or start a new run"
            ) from error
        return row[0], arrays

    def memory(self, clients: Iterable[ClientId]) -> dict[ClientId, dict[str, Any]]:
        """The committed memory of these clients; those without one are left out."""
        query = "SELECT arrays FROM memory WHERE client=? ORDER BY round DESC LIMIT 1"
        rows = ((c, self._db.execute(query, (json.dumps(c),)).fetchone()) for c in clients)
        return {client: load(row[0]) for client, row in rows if row is not None}

    def remember(self, round: int, client: ClientId, arrays: Mapping[str, Any]) -> None:
        """Stage a client's new memory, inside the transaction of the round's commit."""
        self._begin()
        self._db.execute(
            "INSERT OR REPLACE INTO memory VALUES (?, ?, ?)",
            (json.dumps(client), round, save(_plain(arrays))),
        )

    def commit(
        self,
        round: int,
        arrays: Mapping[str, Any],
        record: Mapping[str, Any],
        accepted: Sequence[ClientId],
    ) -> None:
        """Make a round durable: all of it, in one transaction, or nothing."""
        self._at("commit: begin")
        self._begin()
        old = self._db.execute("SELECT file FROM state").fetchone()
        plain = _plain(arrays)
        large = sum(a.nbytes for a in plain.values()) >= LARGE
        file = self._beside(round, plain) if large else None
        self._at("commit: between blob and row")
        blob = None if large else save(plain)
        self._db.execute("INSERT OR REPLACE INTO state VALUES (1, ?, ?, ?)", (round, file, blob))
        self._db.execute("INSERT INTO rounds VALUES (?, ?)", (round, json.dumps(record)))
        self._advance(round, accepted)
        self._at("commit: before the transaction ends")
        self._db.execute("COMMIT")
        self._at("commit: after the transaction")
        if old and old[0] and old[0] != file:
            (self.path / old[0]).unlink(missing_ok=True)
        self._at("commit: end")

    def _begin(self) -> None:
        if not self._db.in_transaction:
            self._db.execute("BEGIN IMMEDIATE")

    def _beside(self, round: int, arrays: dict[str, Any]) -> str:
        name = f"state-{round:06d}.safetensors"
        save_file(arrays, self.path / f"{name}.part")
        os.replace(self.path / f"{name}.part", self.path / name)
        return name

    def _advance(self, round: int, accepted: Sequence[ClientId]) -> None:
        """The new memory of accepted clients replaces the old; that of all others goes."""
        staged = self._db.execute("SELECT client FROM memory WHERE round=?", (round,)).fetchall()
        counted = {json.dumps(client) for client in accepted}
        for (client,) in staged:
            query = "<" if client in counted else "="
            self._db.execute(
                f"DELETE FROM memory WHERE client=? AND round{query}?", (client, round)
            )

    def last_record(self) -> dict[str, Any]:
        """The record of the last committed round."""
        query = "SELECT record FROM rounds ORDER BY round DESC LIMIT 1"
        record: dict[str, Any] = json.loads(self._db.execute(query).fetchone()[0])
        return record

    def rollback(self) -> None:
        """Forget what was staged since the last commit."""
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def history(self) -> list[dict[str, Any]]:
        """The records of all committed rounds in order."""
        rows = self._db.execute("SELECT record FROM rounds ORDER BY round")
        return [json.loads(row[0]) for row in rows]


def _plain(arrays: Mapping[str, Any]) -> dict[str, Any]:
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}
