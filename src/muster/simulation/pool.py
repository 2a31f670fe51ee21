# SPDX-License-Identifier: Apache-2.0
"""A pool of worker processes: pieces of a round on all cores, results in order.

Parameters lie on a shared board and rows in shared memory; a piece travels to whichever worker
is free and its block sums come back. A worker that dies is replaced and its piece is trained
again: a piece is a pure function of what is on the board, so the run goes on with the same bits.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from socket import socketpair
from typing import Any

from muster.data import Population
from muster.errors import WorkerError
from muster.local import Memory
from muster.plan import Plan
from muster.simulation.channel import Board, receive, send
from muster.simulation.origins import origins
from muster.simulation.piece import Done, Piece
from muster.simulation.threads import ONE_THREAD
from muster.simulation.worker import Ask, Failure, Setup
from muster.types import ClientId, Sent

__all__ = ["Pool"]

DEATHS = 3  # how often one piece may kill its worker


class Worker:
    """One process and the channel to it."""

    def __init__(self, setup: Setup, fds: tuple[int, ...]) -> None:
        ours, theirs = socketpair()
        read, self._lifeline = os.pipe()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "muster.simulation", str(theirs.fileno()), str(read)],
                pass_fds=(theirs.fileno(), read, *fds),
                env=os.environ | ONE_THREAD,
                stdin=subprocess.DEVNULL,
            )
        os.close(read)
        self.connection = Connection(ours.detach())
        self.job: tuple[int, Any] | None = None
        send(self.connection, setup)

    def give(self, place: int, message: Any) -> None:
        """Hand over one piece of work."""
        self.job = place, message
        send(self.connection, message)

    def end(self) -> None:
        """Close the channel; the process sees that and leaves."""
        self.connection.close()
        os.close(self._lifeline)
        self.process.wait()


class Pool:
    """So many workers; `Hands` for a simulation on all cores.

    Raises `WorkerError` when a worker cannot be started, or when one piece kills three.
    """

    def __init__(
        self, plan: bytes, engine: str, population: Population, sent: Sent, workers: int, *,
        lenient: bool = False,
    ) -> None:  # fmt: skip
        self._board = Board.holding(sent)
        handle = population.handle()
        data = pickle.dumps(handle)
        found = tuple({o.name: o for o in (*origins(plan), *origins(data))}.values())
        self._setup = Setup(found, plan, engine, data, self._board.template, self._board.fd, lenient)
        self._fds = (self._board.fd, *handle.fds)
        self._population = population  # keeps the shared rows alive
        self._deaths: Counter[int] = Counter()
        self._workers = [Worker(self._setup, self._fds) for _ in range(workers)]

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers now alive."""
        return [worker.process.pid for worker in self._workers]

    def perform(self, sent: Sent, pieces: Iterable[Piece]) -> Iterator[Done]:
        """Train all pieces, results in the order of the pieces."""
        self._board.write(sent)
        yield from self._in_order(pieces)

    def measure(
        self, sent: Sent, clients: Iterable[tuple[ClientId, Memory | None]]
    ) -> Iterator[tuple[ClientId, dict[str, float]]]:
        """Evaluate the model client by client, in order."""
        self._board.write(sent)
        clients = list(clients)
        asks = (Ask(client, memory) for client, memory in clients)
        for (client, _), sums in zip(clients, self._in_order(asks), strict=True):
            yield client, sums

    def _in_order(self, messages: Iterable[Any]) -> Iterator[Any]:
        """Keep every worker busy, at most a few results ahead of the one to be yielded."""
        todo, ready = enumerate(messages), {}
        self._deaths.clear()
        turn = sent = 0
        exhausted = False
        while not exhausted or turn < sent:
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
            if isinstance(answer, Failure):
                raise answer.error or WorkerError(answer.text)
            assert worker.job is not None
            found[worker.job[0]] = answer
            worker.job = None
        return found

    def _replace(self, dead: Worker) -> None:
        job, place = dead.job, self._workers.index(dead)
        assert job is not None
        dead.end()
        self._deaths[job[0]] += 1
        if self._deaths[job[0]] >= DEATHS:
            raise WorkerError(
                f"a worker died {DEATHS} times on the same work (exit code "
                f"{dead.process.returncode}): the machine may be out of memory, or the task "
                f"crashes; try --workers 1 to see its output"
            )
        fresh = Worker(self._setup, self._fds)
        self._workers[place] = fresh
        self._give(fresh, *job)

    def close(self) -> None:
        """End the workers and give the memory back."""
        for worker in self._workers:
            worker.end()
        self._workers = []
        self._board.close()
