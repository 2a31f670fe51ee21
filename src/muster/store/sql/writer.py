# SPDX-License-Identifier: Apache-2.0
"""One thread that makes durable what many ask for: all that waits goes into one transaction."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from muster.errors import RunError
from muster.store.sql.transact import Transactions, Turn

__all__ = ["WriterThread"]

T = TypeVar("T")
MOST = 256  # jobs of one transaction


@dataclass
class _Job(Generic[T]):
    deed: str
    body: Callable[[Turn], T]
    future: Future[T] = field(default_factory=Future)


class WriterThread:
    """Jobs in the order they came; one that fails is undone by its savepoint and fails alone."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions
        self._jobs: SimpleQueue[_Job[Any] | None] = SimpleQueue()
        self._gate = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    def submit(self, deed: str, body: Callable[[Turn], T]) -> Future[T]:
        """Return what `body` returns, once it is durable. Raises `RunError` when closed."""
        job = _Job(deed, body)
        with self._gate:
            if self._closed:
                raise RunError(f"{self._transactions.name} is closed; open it again")
            self._jobs.put(job)
        return job.future

    def close(self) -> None:
        """Do what waits, then end; idempotent."""
        with self._gate:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        ended = False
        while not ended:
            jobs = [self._jobs.get()]
            while len(jobs) < MOST:
                try:
                    jobs.append(self._jobs.get_nowait())
                except Empty:
                    break
            ended = None in jobs
            live = [job for job in jobs if job and job.future.set_running_or_notify_cancel()]
            if live:
                self._together(live)

    def _together(self, jobs: list[_Job[Any]]) -> None:
        """Do all in one transaction; savepoints, dearer than the jobs, wait for a failure."""
        deed = jobs[0].deed if len(jobs) == 1 else f"write {len(jobs)} decisions"
        try:
            results = self._transactions.write(deed, lambda turn: [job.body(turn) for job in jobs])
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].future.set_exception(self._transactions.told(deed, error))
            else:
                self._apart(jobs)
            return
        for job, result in zip(jobs, results, strict=True):
            job.future.set_result(result)

    def _apart(self, jobs: list[_Job[Any]]) -> None:
        """Do each in a transaction and a savepoint of its own, so that only the guilty fails."""
        deed = f"write {len(jobs)} decisions"
        try:
            found = self._transactions.write(deed, lambda turn: [_saved(turn, job) for job in jobs])
        except Exception:  # the ground gave way below all of them: each has its own
            for job in jobs:
                self._together([job])
            return
        for job, (result, failed) in zip(jobs, found, strict=True):
            if failed is None:
                job.future.set_result(result)
            else:
                job.future.set_exception(self._transactions.told(job.deed, failed))


def _saved(turn: Turn, job: _Job[T]) -> tuple[T | None, Exception | None]:
    say, position = turn.connection.exec_driver_sql, turn.position
    try:
        say("SAVEPOINT job")
        result = job.body(turn)
        say("RELEASE SAVEPOINT job")
    except Exception as error:
        if turn.lost(error):
            raise
        say("ROLLBACK TO SAVEPOINT job")
        turn.position = position
        return None, error
    return result, None
