# SPDX-License-Identifier: Apache-2.0
"""A pool of worker processes: pieces of a round on all cores, results in order.

Parameters lie on a shared board and rows in shared memory; a piece travels to whichever worker
is free and its block sums come back. A worker that is killed is replaced, which is told at once,
and its piece is trained again: a piece is a pure function of what is on the board, so the run goes
on with the same bits. One that ends by itself was ended by the code that it ran: it would be again.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from socket import socketpair
from typing import Any

from muster.data import Population
from muster.errors import WorkerError
from muster.local import Memory
from muster.simulation.channel import SharedParameters, receive, send
from muster.simulation.origins import origins
from muster.simulation.threads import ONE_THREAD
from muster.simulation.work_unit import Ask, WorkResult, WorkUnit
from muster.simulation.worker import LOST, Setup, WorkerFailure
from muster.types import ClientId, Sent

__all__ = ["Pool"]

DEATHS = 3  # how often one piece may kill its worker
SHOWN = 5  # clients named of a piece that kills
PATIENCE = 5.0  # seconds for an idle worker to leave by itself
LEAVING = 0.5  # seconds for one whose channel is closed to show why


class Worker:
    """One process and the channel to it."""

    def __init__(self, setup: Setup, fds: tuple[int, ...]) -> None:
        ours, theirs = socketpair()
        read, self._lifeline = os.pipe()
        self.connection = Connection(ours.detach())
        self.job: tuple[int, Any] | None = None
        try:
            self.process = _started(theirs.fileno(), read, fds)
        except OSError as error:
            self.connection.close()
            os.close(self._lifeline)
            raise WorkerError(
                f"a worker process cannot be started ({error}); free memory or processes, or use "
                f"--workers 1"
            ) from error
        finally:
            theirs.close()
            os.close(read)
        with suppress(OSError):  # it died at once, which the first piece will show
            send(self.connection, setup)

    def give(self, place: int, message: Any) -> None:
        """Hand over one piece of work."""
        self.job = place, message
        send(self.connection, message)

    def died(self) -> int:
        """Return the exit status of one that has closed its channel; minus a signal's number."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(LEAVING)
        self.end()
        return self.process.returncode

    def end(self) -> None:
        """Close the channel; the process sees that and leaves, at once if it was at work."""
        if self.connection.closed:
            return
        if self.job is not None:
            self.process.kill()
        self.connection.close()
        os.close(self._lifeline)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _started(channel: int, lifeline: int, fds: tuple[int, ...]) -> subprocess.Popen[bytes]:
    """Start a worker in its own process group: Ctrl-C reaches the parent alone, which ends it."""
    return subprocess.Popen(
        [sys.executable, "-m", "muster.simulation", str(channel), str(lifeline)],
        pass_fds=(channel, lifeline, *fds),
        env=os.environ | ONE_THREAD,
        stdin=subprocess.DEVNULL,
        process_group=0,
    )


def _cause(code: int) -> str:
    """Return how a worker ended that did not end by itself.

    >>> _cause(-9)
    'killed by SIGKILL'
    """
    if code >= 0:
        return "it lost its channel"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def _told(message: Any) -> str:
    """Say whose training or evaluation a piece of work is."""
    if not isinstance(message, WorkUnit):
        return f"evaluating client {message.client!r} in round {message.round}"
    names = ", ".join(map(repr, message.clients[:SHOWN]))
    more = len(message.clients) - SHOWN
    plural = "s" if len(message.clients) > 1 else ""
    whom = f"client{plural} {names}" + (f" and {more} more" if more > 0 else "")
    return f"training {whom} in round {message.round}"


def _quiet(event: dict[str, Any]) -> None:
    """Nobody hears of workers that were killed."""


class Pool:
    """A pool of so many workers; `Hands` for a simulation on all cores.

    One stream of results is read at a time: a new `perform` or `measure` drops what an older
    one, left unfinished, still had under way. `tell` hears at once of each worker that was killed.
    Raises `WorkerError` when a worker cannot be started, when one ends by itself, or when one piece
    kills three.
    """

    def __init__(
        self,
        plan: bytes,
        engine: str,
        population: Population,
        sent: Sent,
        workers: int,
        *,
        lenient: bool = False,
        tell: Callable[[dict[str, Any]], None] = _quiet,
    ) -> None:
        self._tell = tell
        self._board = SharedParameters.holding(sent)
        handle = population.handle()
        found = tuple({o.name: o for o in (*origins(plan), *origins(handle.lazy or b"."))}.values())
        self._setup = Setup(
            found,
            tuple(sys.path),
            plan,
            engine,
            pickle.dumps(handle),
            self._board.template,
            self._board.fd,
            lenient,
        )
        self._fds = (self._board.fd, *handle.fds)
        self._population = population  # keeps the shared rows alive
        self._deaths: Counter[int] = Counter()
        self._streams = 0
        self._workers: list[Worker] = []
        try:
            for _ in range(workers):
                self._workers.append(Worker(self._setup, self._fds))
        except BaseException:
            self.close()
            raise

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers now alive."""
        return [worker.process.pid for worker in self._workers]

    def perform(self, sent: Sent, pieces: Iterable[WorkUnit]) -> Iterator[WorkResult]:
        """Train all pieces, results in the order of the pieces."""
        yield from self._in_order(sent, pieces)

    def measure(
        self,
        sent: Sent,
        clients: Iterable[tuple[ClientId, Memory | None]],
        round: int = 0,
        *,
        trained: bool = False,
    ) -> Iterator[tuple[ClientId, dict[str, float]]]:
        """Evaluate the model client by client, in order; `round` is for what goes wrong."""
        asked = list(clients)
        asks = (Ask(round, client, memory, trained) for client, memory in asked)
        for (client, _), sums in zip(asked, self._in_order(sent, asks), strict=True):
            if sums is not None:
                yield client, sums

    def _begin(self, sent: Sent) -> int:
        """Begin a stream: whoever still works for an older one is replaced, its answer unread."""
        if not self._workers:
            raise WorkerError("the pool of workers is closed; start the run again")
        for place, worker in enumerate(self._workers):
            if worker.job is not None:
                worker.end()
                self._workers[place] = Worker(self._setup, self._fds)
        self._deaths.clear()
        self._board.write(sent)
        self._streams += 1
        return self._streams

    def _in_order(self, sent_model: Sent, messages: Iterable[Any]) -> Iterator[Any]:
        """Keep every worker busy, at most a few results ahead of the one to be yielded."""
        stream = self._begin(sent_model)
        todo = enumerate(messages)
        ready: dict[int, Any] = {}
        turn = sent = 0
        exhausted = False
        while not exhausted or turn < sent:
            if stream != self._streams:
                raise WorkerError("these results were dropped when newer work was begun")
            for worker in self._workers:
                if worker.job is None and not exhausted and sent - turn < 2 * len(self._workers):
                    place, message = next(todo, (-1, None))
                    exhausted = place < 0
                    if not exhausted:
                        sent += 1
                        self._give(worker, place, message)
            if turn in ready:
                yield ready.pop(turn)
                turn += 1
            elif turn < sent:
                ready.update(self._collect())

    def _give(self, worker: Worker, place: int, message: Any) -> None:
        try:
            worker.give(place, message)
        except OSError:
            worker.job = place, message
            self._replace(worker)

    def _collect(self) -> dict[int, Any]:
        """Wait for at least one answer; a dead worker is replaced and its work given again."""
        busy = {w.connection: w for w in self._workers if w.job is not None}
        found = {}
        for connection in wait(list(busy)):
            worker = busy[connection]  # type: ignore[index]
            try:
                answer = receive(worker.connection)
            except (EOFError, OSError):
                self._replace(worker)
                continue
            assert worker.job is not None
            (place, _), worker.job = worker.job, None
            if isinstance(answer, WorkerFailure):
                raise answer.error or WorkerError(answer.text)
            found[place] = answer
        return found

    def _replace(self, dead: Worker) -> None:
        job, place = dead.job, self._workers.index(dead)
        assert job is not None
        code, pid, what = dead.died(), dead.process.pid, _told(job[1])
        if code >= 0 and code != LOST:
            raise WorkerError(
                f"{what} ended its worker process {pid} (exit status {code}): the plan's code, or "
                f"a library that it uses, leaves the whole process; have it raise an exception, or "
                f"try --workers 1 to see its output"
            )
        self._deaths[job[0]] += 1
        if self._deaths[job[0]] >= DEATHS:
            raise WorkerError(
                f"{what} killed a worker {DEATHS} times (the last was process {pid}, "
                f"{_cause(code)}): the machine may be out of memory, or the task crashes; try "
                f"--workers 1 to see its output"
            )
        again = f"worker process {pid} died ({_cause(code)}) in {what}, which is done again"
        self._tell({"event": "died", "text": again})
        self._workers[place] = fresh = Worker(self._setup, self._fds)
        idle = (w for w in self._workers if w.job is None and w.process.poll() is None)
        up = next((worker for worker in idle if worker is not fresh), fresh)
        self._give(up, *job)  # one that is up already needs no start

    def close(self) -> None:
        """End the workers and give the memory back; nothing is left to do the second time."""
        while self._workers:
            self._workers.pop().end()
        self._board.close()
