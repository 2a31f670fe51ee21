# SPDX-License-Identifier: Apache-2.0
"""The record of a study at one site: which runs it joined, what it was asked and did, for ever.

    studies/NAME/study.db       this record
    studies/NAME/privacy.json   what was spent (see `federation.site.secrets`)
    studies/NAME/joined.json    the plan and policy that it joined with last (see `joined`)

It lies beside the vaults and outlives them, the ids of runs, and servers: whoever begins again
with an empty vault, or under another run, still knows what it trained, measured and masked, and
with which keys it has met its peers. An
assignment (run, round, attempt) is begun here before anything is done for it, and only once.

The record is the one place of the site that must never be put back to an older copy, and a vault
that has seen a newer one says so (`mark`).
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from muster.errors import RunError
from muster.federation.protocol.message import Evaluate, TrainAssignment, from_json, to_json
from muster.federation.site.state import locked
from muster.security.pki.notary import Peer
from muster.store.blobs import NoRoom
from muster.types import ClientId

__all__ = [
    "Begun",
    "JoinedSession",
    "Known",
    "Rekeyed",
    "STUDIES",
    "Spending",
    "StudyRecord",
    "spending",
]

STUDIES = "studies"  # in the folder of a site's identity
FILE = "study.db"
VERSION = 2
PEERS = """
CREATE TABLE peers(
  name TEXT PRIMARY KEY, first TEXT NOT NULL, key TEXT NOT NULL) STRICT;
"""
TABLES = f"""{PEERS}
CREATE TABLE facts(key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE runs(
  run TEXT PRIMARY KEY, number INTEGER NOT NULL UNIQUE, client TEXT NOT NULL,
  word INTEGER NOT NULL) STRICT;
CREATE TABLE assignments(
  run TEXT NOT NULL, round INTEGER NOT NULL, attempt INTEGER NOT NULL, kind TEXT NOT NULL,
  asked TEXT NOT NULL, secret TEXT NOT NULL, day TEXT NOT NULL, answer TEXT, accepted INTEGER,
  until REAL, steps INTEGER NOT NULL DEFAULT 0, over INTEGER NOT NULL DEFAULT 0, seen TEXT,
  PRIMARY KEY (run, round, attempt, kind)) STRICT;
CREATE TABLE tallies(
  run TEXT NOT NULL, what TEXT NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (run, what)) STRICT;
"""
UNCOUNTED = "trained without a budget: "  # a tally for each, with its round and attempt
ONE = "run = ? AND round = ? AND attempt = ? AND kind = ?"
MASKING = 4  # steps of a session that were kept, from which on one may be the masked vector
KINDS: dict[type[Any], str] = {TrainAssignment: "train", Evaluate: "measure"}
Asked = TrainAssignment | Evaluate


@dataclass(frozen=True)
class JoinedSession:
    """A secure sum that this site was in: until when its secrets live, how many steps were kept.

    `until` is a time of the wall clock in seconds; an `over` one is never gone on with. `seen` is
    what was noted of its members, "" before any were seen.
    """

    until: float
    steps: int
    over: bool
    seen: str = ""


@dataclass(frozen=True)
class Begun:
    """An assignment that was begun: what was asked (its lease aside), and what became of it.

    `secret` is the SHA-256 of the secret that it draws from, empty where it draws from none;
    `answer` what was measured; `accepted` its fate, None while that is open.
    """

    asked: Asked
    secret: str
    answer: Mapping[str, float] | None
    accepted: bool | None
    session: JoinedSession | None


@dataclass(frozen=True)
class Known:
    """The known facts of a run, and of a day, when something is asked.

    `attempt` is the highest that was seen, 0 before the first; `latest` and `measured` the highest
    rounds begun in it; `settled` the highest round of the run whose fate was heard; `trainings`
    and `measurings` all of the run; `today` the trainings and measurings of the day in any run.
    `again`: of the run's, how many were of a round that was begun before, under another attempt;
    `done`: how often the very round that is asked for was begun, in any attempt; `masked` whether
    this site's update of it may be in a masked sum of one of those.
    """

    attempt: int = 0
    latest: int = 0
    measured: int = 0
    settled: int = 0
    trainings: int = 0
    measurings: int = 0
    today: tuple[int, int] = (0, 0)
    again: tuple[int, int] = (0, 0)
    done: tuple[int, int] = (0, 0)
    masked: bool = False


@dataclass(frozen=True)
class Spending:
    """The spending of a study, as its record knows it: how many `entries` its ledger has at least.

    `uncounted`: the run, round and attempt of each training while no budget stood.
    """

    entries: int = 0
    uncounted: tuple[tuple[str, int, int], ...] = ()


def spending(folder: str | Path) -> Spending:
    """Return what the record in a study's folder knows of its ledger; none where there is none.

    May be asked while the site is at work. Raises `RunError` where it cannot be read.
    """
    file = Path(folder) / FILE
    if not file.exists():
        return Spending()
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as db:
            held = db.execute("SELECT value FROM facts WHERE key = 'entries'").fetchall()
            told = db.execute(
                "SELECT run, what FROM tallies WHERE what LIKE ? || '%'", (UNCOUNTED,)
            ).fetchall()
        places = ((run, *what.removeprefix(UNCOUNTED).split()) for run, what in told)
        uncounted = tuple((run, int(round), int(attempt)) for run, round, attempt in places)
        return Spending(int(held[0][0]) if held else 0, uncounted)
    except (sqlite3.Error, ValueError) as error:
        raise RunError(f"the study's record {file} cannot be read ({error}); {CURE}") from error


@dataclass(frozen=True)
class Rekeyed:
    """A peer with another key than it was met with last (`before`); `first` is its first one.

    Fingerprints all, as a `Peer` has them.
    """

    peer: Peer
    before: str
    first: str


class StudyRecord:
    """One study's record, open in one process; what a method has written is on the disk.

    May be used from several threads. Raises `RunError` for a folder that is in use, damaged or
    newer, and `NoRoom` when the disk is full: nothing was written then.

    >>> import tempfile
    >>> record = StudyRecord(tempfile.mkdtemp(), "default")
    >>> record.runs(), record.close()
    ((), None)
    """

    def __init__(self, folder: str | Path, name: str) -> None:
        self.folder, self.name = Path(folder), name
        self._gate = threading.Lock()
        self._lock = locked(
            self.folder, f"another process keeps the record of the study in {self.folder}"
        )
        try:
            self._db = _opened(self.folder / FILE)
            self._mark = self._facts()
        except BaseException:
            os.close(self._lock)
            raise

    def close(self) -> None:
        """Let go of the folder; idempotent."""
        with self._gate:  # another thread may be at work
            lock, self._lock = self._lock, -1
            if lock >= 0:
                self._db.close()
                os.close(lock)

    @property
    def mark(self) -> tuple[str, str, int]:
        """The study's name, which record it is, and how often that was written."""
        return (self.name, *self._mark)

    # What was spent.

    @property
    def entries(self) -> int:
        """How many entries the study's ledger of privacy has, at least."""
        rows = self._read("SELECT value FROM facts WHERE key = 'entries'")
        return int(rows[0][0]) if rows else 0

    def entered(self, count: int) -> None:
        """Record how many entries the ledger has: one that has fewer was put back, or is gone."""
        if count > self.entries:
            with self._written() as db:
                db.execute("INSERT OR REPLACE INTO facts VALUES ('entries', ?)", (str(count),))

    def uncounted(self, task: TrainAssignment) -> None:
        """Record that a training is in no ledger, as no budget stands; idempotent."""
        what = f"{UNCOUNTED}{task.round} {task.attempt}"
        found = self._read("SELECT 1 FROM tallies WHERE run = ? AND what = ?", (task.run, what))
        if not found:
            with self._written() as db:
                db.execute("INSERT OR IGNORE INTO tallies VALUES (?, ?, 1)", (task.run, what))

    # Runs.

    def runs(self) -> tuple[str, ...]:
        """Return the runs that this site has joined, in order."""
        return tuple(run for (run,) in self._read("SELECT run FROM runs ORDER BY number"))

    def unasked(self) -> int:
        """Count the runs after the first that were joined by a rule, without a word of the site."""
        ((count,),) = self._read("SELECT count(*) FROM runs WHERE number > 1 AND NOT word")
        return int(count)

    def join(self, run: str, client: ClientId, *, word: bool) -> None:
        """Join a run as a client of it, by a word of the site or without; once, for ever.

        Raises `RunError` for another client of a run that was joined: its draws would be others.
        """
        said = json.dumps(client)
        with self._written() as db:
            db.execute(
                "INSERT OR IGNORE INTO runs SELECT ?, 1 + coalesce(max(number), 0), ?, ? FROM runs",
                (run, said, int(word)),
            )
            ((held,),) = db.execute("SELECT client FROM runs WHERE run = ?", (run,)).fetchall()
            if held != said:
                raise RunError(
                    f"the server calls this site {client!r} in the run {run}, in which it has "
                    f"taken part as {json.loads(held)!r}; have the server give it that id again"
                )

    # Assignments.

    def begun(self, asked: Asked) -> Begun | None:
        """Return the record of an assignment under this run, round and attempt."""
        rows = self._read(
            "SELECT asked, secret, answer, accepted, until, steps, over, seen FROM assignments "
            f"WHERE {ONE}",
            _place(asked),
        )
        if not rows:
            return None
        said, secret, answer, accepted, until, steps, over, seen = rows[0]
        session = None if until is None else JoinedSession(until, steps, bool(over), seen or "")
        fate = None if accepted is None else bool(accepted)
        found = from_json(said.encode(), type(asked))
        return Begun(found, secret, None if answer is None else json.loads(answer), fate, session)

    def known(self, run: str, day: str, round: int = 0) -> Known:
        """Return what is known of a run, and of the day, when this round of it is asked for."""
        ((attempt, settled, trainings, measurings),) = self._read(
            "SELECT coalesce(max(attempt), 0), "
            "coalesce(max(CASE WHEN accepted IS NOT NULL THEN round END), 0), "
            "count(CASE WHEN kind = 'train' THEN 1 END), "
            "count(CASE WHEN kind = 'measure' THEN 1 END) FROM assignments WHERE run = ?",
            (run,),
        )
        highest = dict(
            self._read(
                "SELECT kind, max(round) FROM assignments WHERE run = ? AND attempt = ? GROUP BY "
                "kind",
                (run, attempt),
            )
        )
        today = dict(
            self._read("SELECT kind, count(*) FROM assignments WHERE day = ? GROUP BY kind", (day,))
        )
        begun = {
            kind: (count - rounds, here)
            for kind, count, rounds, here in self._read(
                "SELECT kind, count(*), count(DISTINCT round), count(CASE WHEN round = ? THEN 1 "
                "END) FROM assignments WHERE run = ? GROUP BY kind",
                (round, run),
            )
        }
        trained, measured = begun.get("train", (0, 0)), begun.get("measure", (0, 0))
        ((masked,),) = self._read(
            "SELECT count(*) FROM assignments WHERE run = ? AND round = ? AND steps >= ?",
            (run, round, MASKING),
        )
        return Known(
            attempt,
            highest.get("train", 0),
            highest.get("measure", 0),
            settled,
            trainings,
            measurings,
            (today.get("train", 0), today.get("measure", 0)),
            (trained[0], measured[0]),
            (trained[1], measured[1]),
            masked > 0,
        )

    def begin(self, asked: Asked, *, day: str, secret: str = "") -> None:
        """Begin an assignment. Raises `RunError` when it was begun before, whatever was asked."""
        said = to_json(replace(asked, lease=0.0)).decode()
        with self._written() as db:
            fresh = db.execute(
                "INSERT OR IGNORE INTO assignments(run, round, attempt, kind, asked, secret, day) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*_place(asked), said, secret, day),
            )
            if not fresh.rowcount:
                raise RunError(f"{_named(asked)} was begun before; it is done once")

    def answered(self, asked: Evaluate, answer: Mapping[str, float]) -> None:
        """Record what was measured: the one answer that there will ever be."""
        self._set(asked, "answer = coalesce(answer, ?)", json.dumps(dict(answer)))

    def settle(self, run: str, round: int, attempt: int, *, accepted: bool) -> None:
        """Record the fate of a training; idempotent."""
        with self._written() as db:
            db.execute(
                f"UPDATE assignments SET accepted = coalesce(accepted, ?) WHERE {ONE}",
                (int(accepted), run, round, attempt, "train"),
            )

    # The secure sum of an assignment: one session, for ever.

    def open(self, task: TrainAssignment, until: float) -> None:
        """Open its session, before a word of it is said; its secrets live until that time."""
        self._set(task, "until = coalesce(until, ?)", until)

    def count(self, task: TrainAssignment, steps: int) -> None:
        """Record that so many steps were kept: what a vault that holds fewer has lost."""
        self._set(task, "steps = max(steps, ?)", steps)

    def saw(self, task: TrainAssignment, noted: str) -> None:
        """Record whom it is with, before anything is said to them."""
        self._set(task, "seen = ?", noted)

    def end(self, task: TrainAssignment) -> None:
        """Record that its session is over, opened or not: there is no other."""
        self._set(task, "over = 1, until = coalesce(until, ?)", 0.0)

    # Whom it was summed with.

    def rekeyed(self, peers: Iterable[Peer]) -> list[Rekeyed]:
        """Return those that were met with another key: a renewal, or others of their name."""
        held = {name: row for name, *row in self._read("SELECT name, key, first FROM peers")}
        known = ((one, *held[one.name]) for one in peers if one.name in held)
        return [Rekeyed(one, key, first) for one, key, first in known if key != one.key]

    def meet(self, peers: Iterable[Peer]) -> None:
        """Keep the keys of these, for the next time."""
        with self._written() as db:
            db.executemany(
                "INSERT INTO peers VALUES (?, ?, ?) ON CONFLICT(name) DO UPDATE SET key = "
                "excluded.key",
                [(one.name, one.key, one.key) for one in peers],
            )

    # What happened again and again.

    def tally(self, run: str, what: str) -> int:
        """Count one more of the same; how many there were with it."""
        with self._written() as db:
            ((count,),) = db.execute(
                "INSERT INTO tallies VALUES (?, ?, 1) ON CONFLICT(run, what) DO UPDATE SET "
                "count = count + 1 RETURNING count",
                (run, what),
            ).fetchall()
        return int(count)

    # The database.

    def _set(self, asked: Asked, change: str, value: Any) -> None:
        with self._written() as db:
            found = db.execute(
                f"UPDATE assignments SET {change} WHERE {ONE}", (value, *_place(asked))
            )
            if not found.rowcount:
                raise RunError(f"{_named(asked)} was never begun here; begin it first")

    def _read(self, query: str, values: tuple[Any, ...] = ()) -> list[Any]:
        with self._gate, self._said("read"):
            return self._db.execute(query, values).fetchall()

    @contextmanager
    def _written(self) -> Iterator[sqlite3.Connection]:
        """Yield one transaction, on the disk when this ends; else nothing of it is."""
        with self._gate, self._said("written"):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("UPDATE facts SET value = value + 1 WHERE key = 'position'")
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            self._mark = (self._mark[0], self._mark[1] + 1)

    def _facts(self) -> tuple[str, int]:
        found = dict(self._read("SELECT key, value FROM facts"))
        return str(found["id"]), int(found["position"])

    @contextmanager
    def _said(self, deed: str) -> Iterator[None]:
        """Turn what the database refuses into a sentence."""
        try:
            yield
        except sqlite3.Error as error:
            what = f"the study's record {self.folder / FILE} could not be {deed} ({error})"
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                raise NoRoom(f"{what}; make room, then try again") from error
            raise RunError(f"{what}; {CURE}") from error


CURE = (
    "nothing is done without it: repair the disk, or restore the newest copy of it, or begin "
    "another study"
)


def _opened(file: Path) -> sqlite3.Connection:
    """Return the database, made if need be. Raises `RunError` for one that is damaged or newer."""
    db = None
    try:
        fresh = not file.exists()
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        db = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        ((version,),) = db.execute("PRAGMA user_version").fetchall()
        if version == 0:  # in one transaction: a death in between leaves an empty database
            facts = f"INSERT INTO facts VALUES ('id', '{os.urandom(16).hex()}'), ('position', '0');"
            made = f"PRAGMA user_version={VERSION};"
            db.executescript(f"BEGIN IMMEDIATE; {TABLES} {facts} {made} COMMIT;")
        elif version == 1:  # the peers were not kept then; what was spent is
            db.executescript(f"BEGIN IMMEDIATE; {PEERS} PRAGMA user_version={VERSION}; COMMIT;")
        elif version != VERSION:
            raise RunError(
                f"the study's record {file} is of version {version}, but this muster knows "
                f"{VERSION}; use the muster that wrote it"
            )
        if fresh:
            _kept(file.parent)
    except BaseException as error:
        if db is not None:
            db.close()
        if isinstance(error, sqlite3.Error | OSError):
            raise RunError(f"the study's record {file} cannot be read ({error}); {CURE}") from error
        raise
    return db


def _kept(folder: Path) -> None:
    """Keep the names of a new folder, and of new ones above it, on the disk."""
    for one in (folder, folder.parent, folder.parent.parent):
        file = os.open(one, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def _place(asked: Asked) -> tuple[str, int, int, str]:
    return asked.run, asked.round, asked.attempt, KINDS[type(asked)]


def _named(asked: Asked) -> str:
    return f"{KINDS[type(asked)]} of round {asked.round}, attempt {asked.attempt}, of {asked.run}"
