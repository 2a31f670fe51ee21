# SPDX-License-Identifier: Apache-2.0
"""A worker process: `python -m muster.simulation FD LIFELINE`, started by the pool.

It imports muster and the plan's own module, never the user's `__main__`. It runs one thread,
answers one message after the other, and dies with its parent: the lifeline is a pipe that only
the parent holds open.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from muster.data import Population
from muster.errors import ClientError, MusterError
from muster.plan import Plan
from muster.simulation.channel import SharedParameters, receive, send
from muster.simulation.origins import Origin, load
from muster.simulation.threads import one_thread
from muster.simulation.work_unit import Ask, WorkUnit, measure, perform

__all__ = ["LOST", "Setup", "WorkerFailure", "main"]

LOST = 75  # the exit status of a worker whose channel broke: BSD's "temporary failure"


class Setup(NamedTuple):
    """The first message: where the plan's functions live, and what every piece needs."""

    origins: tuple[Origin, ...]
    path: tuple[str, ...]
    plan: bytes
    engine: str
    population: bytes
    template: Any
    board: int
    lenient: bool


class WorkerFailure(NamedTuple):
    """A piece that failed, as text and, where it is one of ours, the error itself."""

    error: MusterError | None
    text: str


def main(fd: int, lifeline: int) -> None:
    """Serve until the parent closes the channel or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_die_with_parent, args=(lifeline,), daemon=True).start()
    for inherited in (fd, lifeline):
        os.set_inheritable(inherited, False)  # programs that user code starts must not hold them
    connection = Connection(fd)
    try:
        setup: Setup = receive(connection)
        try:
            plan, population = _unpacked(setup)
        except (Exception, SystemExit):  # a module that leaves is one that fails
            failure = WorkerFailure(
                None, f"a worker cannot load the plan:\n{traceback.format_exc()}"
            )
            while receive(connection):
                send(connection, failure)
            return
        board = SharedParameters(setup.template, setup.board)
        with one_thread(plan.task):
            while True:
                message = receive(connection)
                send(connection, _answer(setup, plan, population, board, message))
    except (EOFError, OSError):
        sys.exit(LOST)


def _unpacked(setup: Setup) -> tuple[Plan, Population]:
    """Return the plan and the population, with the parent's import path."""
    sys.path.extend(folder for folder in setup.path if folder not in sys.path)
    for origin in setup.origins:
        load(origin)
    return pickle.loads(setup.plan), Population.attach(pickle.loads(setup.population))


def _answer(
    setup: Setup,
    plan: Plan,
    population: Population,
    board: SharedParameters,
    message: WorkUnit | Ask,
) -> Any:
    sent = board.read()
    try:
        if isinstance(message, Ask):
            try:
                return measure(plan, population, sent, message)
            except ClientError:
                if setup.lenient:
                    return None
                raise
        return perform(plan, setup.engine, population, sent, message, lenient=setup.lenient)
    except MusterError as error:
        return WorkerFailure(error, str(error))
    except SystemExit as left:  # of the plan's code: to leave in order takes a framework seconds
        sys.stdout.flush()
        os._exit(left.code if isinstance(left.code, int) else 1)
    except Exception:
        return WorkerFailure(None, traceback.format_exc())


def _die_with_parent(lifeline: int) -> None:
    os.read(lifeline, 1)  # returns only when the other end is gone
    os._exit(1)
