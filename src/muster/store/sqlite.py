# SPDX-License-Identifier: Apache-2.0
"""SQLiteStore: one run in one file, `run.db`; a round is durable in one transaction.

Here an update becomes durable: `commit` writes state, record, memories and accepted list
together or not at all. WAL with synchronous=NORMAL survives the death of the process; a state
too large for a row lies beside the database as a safetensors file, its checksum in its name. It
is complete under that name before the row that points to it is committed, and is removed after
its successor is, unless it is to stay (`commit(stays=…)`); what a death in between leaves over is
swept away when the folder is opened.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from safetensors import SafetensorError
from safetensors.numpy import load, save

from muster.errors import RunError
from muster.store.blob import checksum, erased, plain, read_file, write_file
from muster.store.database import opened, taken
from muster.types import ClientId

__all__ = ["BACK", "LABELS", "SQLiteStore", "Snapshot", "not_kept"]

LARGE = 1 << 16  # bytes from which a state lies beside the database, where it is faster
LABELS = (
    "commit: begin",
    "commit: between blob and row",
    "commit: before the transaction ends",
    "commit: after the transaction",
    "commit: end",
)
BACK = ("going back: before the transaction ends", "going back: after the transaction")
# The files of all states.
FILES = "SELECT file FROM versions UNION SELECT file FROM state"
# Memories that no version needs, given who: neither the newest of its client, nor the one that was
# the newest when a version that is kept was committed.
NEEDLESS = """
DELETE FROM memory WHERE {whose} EXISTS (
  SELECT 1 FROM memory n WHERE n.client = memory.client AND n.round > memory.round
) AND NOT EXISTS (
  SELECT 1 FROM versions v WHERE v.round >= memory.round AND v.round < (
    SELECT min(n.round) FROM memory n WHERE n.client = memory.client AND n.round > memory.round))
"""
BROKEN = (sqlite3.Error, SafetensorError)


class Snapshot(NamedTuple):
    """A run at one instant: its facts, its records in order, and its last round and arrays."""

    facts: dict[str, Any]
    history: list[dict[str, Any]]
    latest: tuple[int, dict[str, Any]] | None


class SQLiteStore:
    """A run's folder as a Store; `at(label)` is called at each of `LABELS` in a commit.

    `readonly` reads a run, also one that is being trained. Raises `RunError` for a folder that
    is damaged, in use, or from a newer version.

    >>> import tempfile
    >>> store = SQLiteStore(tempfile.mkdtemp())
    >>> store.history(), store.close()
    ([], None)
    """

    def __init__(
        self, path: str | Path, *, readonly: bool = False, at: Callable[[str], None] | None = None
    ) -> None:
        self.path = Path(path)
        self._at = at or _nothing
        self._lock: IO[str] | None = None
        self._staged: set[tuple[int, str]] = set()
        self._line = ""
        self._record: dict[str, Any] = {}
        if not readonly:
            self._lock = taken(self.path)
        try:
            self._db = opened(self.path, readonly=readonly)
        except BaseException:
            if self._lock is not None:
                self._lock.close()
            raise
        self._round = 1 << 62  # the last committed round, -1 before any; a reader looks each time
        if not readonly:
            row = self._row()
            self._round = row[0] if row else -1
            self._sweep()

    def close(self) -> None:
        """Let go of the folder; what was staged and not committed is forgotten."""
        self._db.close()
        if self._lock is not None:
            self._lock.close()

    @contextmanager
    def _guarded(self, deed: str) -> Iterator[None]:
        """Undo what goes wrong inside, and say it in one sentence."""
        try:
            yield
        except BaseException as error:
            self.rollback()
            if not isinstance(error, BROKEN):
                raise
            cure = (
                "restore it from a copy, or start a new run"
                if deed == "be read"
                else "what was committed before is safe: make room or repair the disk, then resume"
            )
            raise RunError(f"the run in {self.path} could not {deed} ({error}); {cure}") from error

    def meta(self, key: str) -> Any:
        """Return a fact about the run (plan, engine, versions), or None."""
        with self._guarded("be read"):
            row = self._db.execute("SELECT value FROM meta WHERE key=?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def facts(self) -> dict[str, Any]:
        """Return all facts about the run."""
        with self._guarded("be read"):
            rows = self._db.execute("SELECT key, value FROM meta").fetchall()
        return {key: json.loads(value) for key, value in rows}

    def note(self, **facts: Any) -> None:
        """Write facts about the run, all of them or none, replacing those of the same name."""
        rows = [(key, json.dumps(value)) for key, value in facts.items()]
        with self._guarded("write its facts"):
            self._begin()
            self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)
            self._db.execute("COMMIT")

    def snapshot(self) -> Snapshot:
        """Return facts, records and state of one instant, also while another process trains."""
        while True:
            with self._guarded("be read"):
                self._db.execute("BEGIN")
                facts, history, row = self.facts(), self.history(), self._row()
                self._db.execute("COMMIT")
            try:
                return Snapshot(facts, history, self._loaded(row))
            except RunError:
                now = self._row()
                if row is None or now is None or now[:2] == row[:2]:
                    raise  # else: a later round was committed, and this one's file is gone

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """Return the last committed round and its state's arrays."""
        return self._loaded(self._row())

    def _row(self) -> Any:
        with self._guarded("be read"):
            return self._db.execute("SELECT round, file, arrays FROM state").fetchone()

    def _loaded(self, row: Any) -> tuple[int, dict[str, Any]] | None:
        if row is None:
            return None
        round, file, blob = row
        try:
            arrays = read_file(self.path / file) if file else load(blob)
            if file and checksum(arrays) not in file:
                raise SafetensorError(f"the checksum of {file} is wrong")
        except (OSError, SafetensorError, ValueError) as error:
            raise RunError(
                f"the state of round {round} in {self.path} is damaged ({error}); "
                f"restore the folder from a copy, or start a new run"
            ) from error
        return round, arrays

    def versions(self) -> list[int]:
        """Return the committed versions whose states are kept, in order; the last is always one."""
        with self._guarded("be read"):
            rows = self._db.execute(
                "SELECT round FROM versions UNION SELECT round FROM state ORDER BY round"
            )
            return [row[0] for row in rows]

    def state(self, round: int) -> dict[str, Any] | None:
        """Return the arrays of a version that is kept, or None."""
        with self._guarded("be read"):
            row = self._db.execute(
                "SELECT round, file, arrays FROM versions WHERE round=?1 UNION ALL "
                "SELECT round, file, arrays FROM state WHERE round=?1",
                (round,),
            ).fetchone()
        found = self._loaded(row)
        return None if found is None else found[1]

    def memory(
        self, clients: Iterable[ClientId], version: int | None = None
    ) -> dict[ClientId, dict[str, Any]]:
        """Return the committed memory of these clients; those without one are left out.

        With a `version` that is kept, as it was when that was committed.
        """
        query = "SELECT arrays FROM memory WHERE client=? AND round<=? ORDER BY round DESC LIMIT 1"
        return self._memories(query, clients, self._round if version is None else version)

    def staged(self, round: int, clients: Iterable[ClientId]) -> dict[ClientId, dict[str, Any]]:
        """Return the memory of these clients that waits for this round's commit."""
        return self._memories(
            "SELECT arrays FROM memory WHERE client=? AND round=?", clients, round
        )

    def _memories(
        self, query: str, clients: Iterable[ClientId], round: int
    ) -> dict[ClientId, dict[str, Any]]:
        with self._guarded("be read"):
            rows = (
                (c, self._db.execute(query, (json.dumps(c), round)).fetchone()) for c in clients
            )
            return {client: load(row[0]) for client, row in rows if row is not None}

    def remember(self, round: int, client: ClientId, arrays: Mapping[str, Any]) -> None:
        """Stage a client's new memory, inside the transaction of the round's commit.

        For a round that is committed it comes too late to count, and is dropped.
        """
        if round <= self._round:
            return
        name = json.dumps(client)
        with self._guarded(f"keep the memory of client {client!r}"):
            self._begin()
            row = (name, round, save(plain(arrays)))
            self._db.execute("INSERT OR REPLACE INTO memory VALUES (?, ?, ?)", row)
            self._staged.add((round, name))

    def commit(
        self,
        round: int,
        arrays: Mapping[str, Any],
        record: Mapping[str, Any],
        accepted: Sequence[ClientId],
        stays: Collection[int] = (),
    ) -> None:
        """Make a round durable: all of it, in one transaction, or nothing.

        Of the versions that are kept, those in `stays` stay beside it; the others go.
        """
        if round <= self._round:
            raise RunError(
                f"round {round} was given to the run in {self.path}, which has committed round "
                f"{self._round}; go on with round {self._round + 1}"
            )
        with self._guarded(f"commit round {round}"):
            self._at("commit: begin")
            self._begin()
            state = (round, *self._blob(round, plain(arrays)))
            self._at("commit: between blob and row")
            before = {row[0] for row in self._db.execute(FILES)}
            fewer = self._put(state, stays)
            line = json.dumps(record)
            self._db.execute("INSERT INTO rounds VALUES (?, ?)", (round, line))
            self._advance(round, accepted)
            if fewer:  # some of the memories were theirs alone
                self._db.execute(NEEDLESS.format(whose=""))
            gone = before - {row[0] for row in self._db.execute(FILES)}
            self._at("commit: before the transaction ends")
            self._db.execute("COMMIT")
            self._round, self._line, self._record = round, line, dict(record)
            self._staged.clear()
            self._at("commit: after the transaction")
            self._unlink(gone)
            self._at("commit: end")

    def _put(self, state: tuple[int, str | None, bytes | None], stays: Collection[int]) -> bool:
        """Put a state's rows in the place of the last; return whether older versions go with it."""
        last = [round for (round,) in self._db.execute("SELECT round FROM state")]
        known = [round for (round,) in self._db.execute("SELECT round FROM versions")]
        if not set(last).isdisjoint(stays):
            self._db.execute("INSERT INTO versions SELECT round, file, arrays FROM state")
        self._db.execute("INSERT OR REPLACE INTO state VALUES (1, ?, ?, ?)", state)
        gone = [(round,) for round in known if round not in stays]
        self._db.executemany("DELETE FROM versions WHERE round=?", gone)
        return bool(gone)

    def _unlink(self, files: Iterable[str | None]) -> None:
        for name in files:
            if name is not None:
                with suppress(OSError):  # it would be swept away later
                    (self.path / name).unlink(missing_ok=True)

    def superseded(self) -> list[tuple[int, dict[str, Any]]]:
        """Return the records that a rollback went back before, each with the rollback's number.

        In the order in which they were committed; the first rollback is number 1.
        """
        with self._guarded("be read"):
            query = "SELECT number, record FROM superseded ORDER BY number, round"
            rows = self._db.execute(query).fetchall()
        return [(number, json.loads(record)) for number, record in rows]

    def go_back(self, round: int, number: int, **facts: Any) -> None:
        """Make a version that is kept the last, with these facts: all of it, or nothing.

        What was committed after it goes: versions, memories, what was staged. The records stay, as
        `superseded` by the rollback of this `number`. Raises `RunError` for one that is not kept.
        """
        if self.state(round) is None:
            raise RunError(not_kept(f"the run in {self.path}", round, self.versions()))
        rows = [(key, json.dumps(value)) for key, value in facts.items()]
        self.rollback()
        with self._guarded(f"go back to round {round}"):
            self._begin()
            files = {row[0] for row in self._db.execute(FILES)}
            self._db.execute(
                "INSERT OR REPLACE INTO state SELECT 1, round, file, arrays FROM versions "
                "WHERE round=?",
                (round,),
            )
            self._db.execute("DELETE FROM versions WHERE round>=?", (round,))
            self._db.execute("DELETE FROM memory WHERE round>?", (round,))
            self._db.execute(
                "INSERT INTO superseded SELECT ?, round, record FROM rounds WHERE round>?",
                (number, round),
            )
            self._db.execute("DELETE FROM rounds WHERE round>?", (round,))
            self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)
            self._at("going back: before the transaction ends")
            self._db.execute("COMMIT")
            self._round, self._line, self._record = round, "", {}
            self._at("going back: after the transaction")
            self._unlink(files - {row[0] for row in self._db.execute(FILES)})

    def amend(self, arrays: Mapping[str, Any], **facts: Any) -> None:
        """Put another state in the place of the last round's, with these facts: both, or nothing.

        What was there is written over, as far as that is in a program's power.
        """
        rows = [(key, json.dumps(value)) for key, value in facts.items()]
        with self._guarded("amend its state"):
            self._db.execute("PRAGMA secure_delete=ON")
            self._begin()
            old = self._row()[1]
            state = (self._round, *self._blob(self._round, plain(arrays)))
            self._db.execute("INSERT OR REPLACE INTO state VALUES (1, ?, ?, ?)", state)
            self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)
            self._db.execute("COMMIT")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            if old and old != state[1]:
                try:
                    erased(self.path / old)
                except OSError as error:
                    raise SafetensorError(str(error)) from error

    def _begin(self) -> None:
        if not self._db.in_transaction:
            self._db.execute("BEGIN IMMEDIATE")

    def _blob(self, round: int, arrays: dict[str, Any]) -> tuple[str | None, bytes | None]:
        """Return a state as the name of a file that holds it, or as bytes."""
        if sum(array.nbytes for array in arrays.values()) < LARGE:
            return None, save(arrays)
        name = f"state-{round:06d}-{checksum(arrays)}.safetensors"
        try:
            write_file(arrays, self.path / f"{name}.part")
            os.replace(self.path / f"{name}.part", self.path / name)
        except OSError as error:
            raise SafetensorError(str(error)) from error
        return name, None

    def _advance(self, round: int, accepted: Sequence[ClientId]) -> None:
        """Replace the memory of accepted clients by the new one; drop the new one of all others."""
        counted = {(round, json.dumps(client)) for client in accepted} if self._staged else set()
        alone = self._db.execute("SELECT 1 FROM versions LIMIT 1").fetchone() is None
        for given, client in self._staged:
            if (given, client) in counted and not alone:
                self._db.execute(NEEDLESS.format(whose="client=? AND"), (client,))
                continue
            query = "<" if (given, client) in counted else "="
            self._db.execute(
                f"DELETE FROM memory WHERE client=? AND round{query}?", (client, given)
            )

    def _sweep(self) -> None:
        """Remove what a death in the middle of a commit or an export left over."""
        try:
            named = {row[0] for row in self._db.execute(FILES)}
        except sqlite3.Error:  # nobody knows then what is left over
            return
        for pattern in ("*.part", "state-*.safetensors"):
            for path in self.path.glob(pattern):
                if path.name not in named:
                    with suppress(OSError):  # it does no harm
                        erased(path)  # as an amended one would have been

    def last_line(self) -> str:
        """Return the record of the last committed round as JSON, without the line's end."""
        query = "SELECT record FROM rounds ORDER BY round DESC LIMIT 1"
        with self._guarded("be read"):
            return self._line or str(self._db.execute(query).fetchone()[0])

    def last_record(self) -> dict[str, Any]:
        """Return the record of the last committed round."""
        return self._record or dict(json.loads(self.last_line()))

    def rollback(self) -> None:
        """Forget what was staged since the last commit."""
        self._staged.clear()
        if self._db.in_transaction:
            with suppress(sqlite3.Error):  # the database has rolled back by itself
                self._db.execute("ROLLBACK")
        if self._lock is not None:
            self._sweep()

    def history(self) -> list[dict[str, Any]]:
        """Return the records of all committed rounds in order."""
        with self._guarded("be read"):
            rows = self._db.execute("SELECT record FROM rounds ORDER BY round").fetchall()
        return [json.loads(row[0]) for row in rows]


def not_kept(where: str, round: int, versions: Sequence[int]) -> str:
    """Say why there is no such version, and which there are."""
    kept = ", ".join(map(str, versions)) or "none"
    return (
        f"{where} keeps no model of round {round}; it keeps those of: {kept}; a plan says with "
        f"keep=muster.Keep(best=..., every=...) which stay"
    )


def _nothing(label: str) -> None:
    """Do nothing at a labelled point: nobody listens."""
