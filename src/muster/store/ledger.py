# SPDX-License-Identifier: Apache-2.0
"""The durable store of a federation: a run, and the journal of all that happens in it.

SQLite in the run's folder, `run.db` as SQLiteStore reads it, or a PostgreSQL (13 or newer) that
several servers share, one schema a run. A round is durable in one transaction, on SQLite with
synchronous=FULL; what a death leaves over is swept away by whoever opens the run next, or leads it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from muster.errors import NoRoom, RunError
from muster.ports import DISK, Disk
from muster.store.blobs import Blobs, Files, model_name, update_round
from muster.store.database import taken
from muster.store.records import JournalRow, Transition
from muster.store.reserved import drop_all_halves
from muster.store.sql import journal, states, steps
from muster.store.sql.connect import connected, lock_key, run_name
from muster.store.sql.journal import JournalTurn
from muster.store.sql.lead import Lead
from muster.store.sql.rounds import RoundTables
from muster.store.sql.rows import DatabaseBlobs
from muster.store.sql.states import States
from muster.store.sql.transact import Transactions, Turn
from muster.store.sql.writer import WriterThread
from muster.types import ClientId

__all__ = ["FederationStore"]

DISK = DISK
T = TypeVar("T")


class FederationStore(RoundTables):
    """A federation's store; `at(label)` is called at each of `sqlite.LABELS` in a commit.

    `url` None is SQLite in `folder`; else `postgresql://…?run=NAME`, the run being the folder's
    name unless given. With `keep_updates` the blobs of updates outlive their commit. `clock` is
    the wall clock in seconds. Raises `RunError` for what is damaged, in use, or newer.

    >>> import tempfile
    >>> ledger = FederationStore(tempfile.mkdtemp())
    >>> row = JournalRow("ordered", 0, "", {"word": "pause"})
    >>> ledger.write(lambda turn: turn.append([row], leads=False)).result()
    >>> ledger.position(), ledger.rows()[0].body, ledger.close()
    (1, {'word': 'pause'}, None)
    """

    def __init__(
        self,
        folder: str | Path,
        url: str | None = None,
        *,
        at: Callable[[str], None] | None = None,
        keep_updates: bool = False,
        clock: Callable[[], float] = time.time,
        disk: Disk = DISK,
    ) -> None:
        self.path, self.shared = Path(folder), url is not None
        self._at, self._clock, self._keep_updates = at or _nothing, clock, keep_updates
        self._staged: dict[tuple[int, ClientId], bytes] = {}
        self._progress: dict[ClientId, int] = {}
        self._epoch: int | None = None
        self._failed: BaseException | None = None
        with ExitStack() as undo:
            self._open(url, disk, undo)
            self._undo = undo.pop_all()

    def _open(self, url: str | None, disk: Disk, undo: ExitStack) -> None:
        name = f"the run in {self.path}"
        if url is None:
            undo.enter_context(taken(self.path))
        else:
            name = f"the run {run_name(self.path, url)!r} of {self.path}"
        engine = connected(self.path, url, name)
        self._transactions = Transactions(engine, name)
        undo.callback(self._transactions.close)
        self.blobs: Blobs
        self.models: Blobs  # the same, for what can be made again: it waits for no disk
        if url is None:
            self.blobs, large = Files(self.path / "blobs", disk), Files(self.path, disk)
            self.models = Files(self.path / "blobs", replace(disk, sync=int))
            self._states = States(large, name)
            self._lead = None
        else:
            self.path.mkdir(parents=True, exist_ok=True)
            self.models = self.blobs = DatabaseBlobs(self._transactions)
            self._states = States(self.blobs, name)
            self._lead = Lead(self._transactions, lock_key(run_name(self.path, url)))
            undo.callback(self._lead.release)
        self._round = self._transactions.read(states.last_round)
        self._transactions.write("write its journal", self._reconcile)
        if url is None:  # of several servers only the leader may sweep
            self._sweep()
        self._writer = WriterThread(self._transactions)
        undo.callback(self._writer.close)

    def close(self) -> None:
        """Make durable what waits, then let go of the run and the lead; idempotent."""
        self._undo.close()

    def write(self, body: Callable[[JournalTurn], T]) -> Future[T]:
        """Return what `body` returns, once what it appends to the journal is durable.

        It may be called more than once; only what it did last is written. All that waits is one
        transaction, at the cost of one wait for the disk.
        """
        return self._writer.submit(
            "write its journal", lambda turn: body(JournalTurn(turn, self._epoch))
        )

    def rows(self, after: int = 0) -> list[JournalRow]:
        """Return the journal's next rows behind a position, in order; none when all were read."""
        return self._transactions.read(lambda c: journal.after(c, after))

    def position(self) -> int:
        """Return the position of the newest row of the journal."""
        return self._transactions.read(journal.position)

    def said(self, round: int, after: int = 0) -> list[JournalRow]:
        """Return some messages of a round's secure sum behind the first `after`, in order."""
        return self._transactions.read(lambda c: journal.of_topic(c, "said", round, after))

    def record(self, *transitions: Transition) -> None:
        """Add steps of lifecycles to the log, durable soon; what could not be is raised later."""
        failed, self._failed = self._failed, None
        if failed is not None:
            kind = NoRoom if isinstance(failed, NoRoom) else RunError
            raise kind(f"an earlier step was not recorded: {failed}") from failed
        if transitions:
            job = self._writer.submit(
                "record a step", lambda turn: steps.recorded(turn, transitions)
            )
            job.add_done_callback(self._recorded)

    def transitions(self, last: int = 200) -> list[Transition]:
        """Return the last steps, in order."""
        return self._transactions.read(lambda c: steps.written(c, last))

    def lead(self, stop: threading.Event) -> bool:
        """Wait until this process leads; False when `stop` was set first.

        On SQLite the folder's lock is the lead. On PostgreSQL only a leader may open and commit.
        """
        if stop.is_set() or self._lead is None:
            return not stop.is_set()
        self._epoch = None
        self._epoch = self._lead.take(stop)
        if self._epoch is None:
            return False
        self._round = self._transactions.read(states.last_round)
        self._sweep()
        return True

    def beat(self, progress: Mapping[ClientId, int]) -> None:
        """Tell the other servers how far clients are; not durable."""
        if not self.shared:
            self._progress.update(progress)
        elif progress:
            steps.beat(self._transactions, progress)

    def progress(self) -> dict[ClientId, int]:
        """Return the progress of clients, as any server last said."""
        return self._transactions.read(steps.progressed) if self.shared else {**self._progress}

    def _reconcile(self, turn: Turn) -> None:
        """Write down what was committed by who keeps no journal."""
        connection = turn.connection
        last, raised = states.last_round(connection), states.facts(connection).get("raised")

        def accepted(round: int) -> Sequence[ClientId]:
            return (states.recorded(connection, round) or {}).get("accepted") or ()

        journal.reconcile(turn, last, accepted, raised or ())

    def _recorded(self, job: Future[None]) -> None:
        if not job.cancelled():
            self._failed = job.exception() or self._failed

    def _tidy(self, gone: Collection[str], *, everything: bool = False) -> None:
        """Remove what a commit has made needless; `everything` also what was open, as nobody's."""
        with suppress(RunError):  # it would be swept away later
            for state in gone:
                self._states.blobs.drop(state)
            for name in self.blobs.names("update-"):
                round = update_round(name)
                if round is None or (round > self._round and not everything):
                    continue
                old = self._keep_updates and round <= self._round
                if not (old and self.blobs.size(name) is not None):
                    self.blobs.drop(name)
            for name in self.blobs.names("masked-"):  # these no audit needs
                if everything or (update_round(name) or 0) <= self._round:
                    self.blobs.drop(name)

    def _sweep(self) -> None:
        """Remove what a death left over; updates of what is open stay, also half of them."""
        kept, found = self._transactions.read(
            lambda c: (states.files(c), journal.of_topic(c, "opened"))
        )
        for torn in () if self.shared else self.path.glob("*.part"):
            with suppress(OSError):  # it does no harm
                torn.unlink(missing_ok=True)
        self._states.sweep(kept)
        opened = [one.body for one in found if isinstance(one.body, dict)]
        named = {*kept, *(model_name(str(body.get("model"))) for body in opened)}
        named |= {*self.blobs.names(model_name("", "frozen"))}  # the engine removes the older ones
        rounds = {one.round for one in found}
        for name in self.blobs.names(""):
            round, whole = update_round(name), self.blobs.size(name) is not None
            old = whole and self._keep_updates and round is not None and round <= self._round
            if not (old or round in rounds or (whole and name in named)):
                with suppress(RunError):  # it does no harm
                    self.blobs.drop(name)
        if not self.shared:  # at another server one of them may be on its way now
            with suppress(RunError):  # they do no harm
                drop_all_halves(self.blobs)


def _nothing(label: str) -> None:
    """Do nothing at a labelled point: nobody listens."""
