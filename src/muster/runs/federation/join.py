# SPDX-License-Identifier: Apache-2.0
"""Join a federation: one client, or several in one process, until the run has ended."""

from __future__ import annotations

import asyncio
import ssl
import sys
import threading
from asyncio import FIRST_EXCEPTION
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from muster.errors import DataError, MusterError
from muster.plan import Plan
from muster.runs.planfile import PlanFile, module_name
from muster.service.audit import Audit
from muster.service.identity import IDENTITY, client_context, holder
from muster.service.message import Ended
from muster.service.server import listen
from muster.service.site.attend import Attendance
from muster.service.site.hand import Hand
from muster.service.site.line import Event, Line, Patience, quiet
from muster.service.site.policy import Policy
from muster.service.site.training import Training
from muster.service.site.vault import Vault
from muster.service.site.work import Habits
from muster.simulation import origins
from muster.simulation.threads import one_thread

__all__ = ["Manner", "Seat", "attend_many", "join", "site_rows"]

TICK = 0.1  # seconds between two looks at whether to stop
AUTHORITY = "authority.pem"


@dataclass(frozen=True)
class Seat:
    """One client that joins: its name, its rows, test rows if any, and its folder.

    The folder holds the identity (see `muster pki`) and, in `vault`, what must not be lost. `tls`
    in place of the folder's identity is for who keeps identities elsewhere.
    """

    name: str
    rows: tuple[Any, Any]
    folder: Path
    test: tuple[Any, Any] | None = None
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True)
class Manner:
    """How to join beside the plan: the site's policy, clocks, patience; what tests set.

    `at` is called at each of `site.vault.LABELS`; `audit` keeps an audit log in each folder.
    """

    habits: Habits = Habits()
    patience: Patience = Patience()
    at: Callable[[str], None] | None = None
    audit: bool = True


MANNER = Manner()


def join(
    plan: Plan, rows: tuple[Any, Any], address: str, folder: str | Path, *,
    test: tuple[Any, Any] | None = None, tls: ssl.SSLContext | None = None,
    name: str | None = None, policy: Policy | None = None, stop: threading.Event | None = None,
    watch: Callable[[Event], None] = quiet, manner: Manner = MANNER,
) -> Ended | None:  # fmt: skip
    """Attend as one client until the run has ended; None when `stop` was set before.

    `name` is by default that of the folder's certificate, else the folder's own. Raises
    `MusterError` when this site cannot take part.
    """
    folder = Path(folder)
    if name is None:
        known = (folder / IDENTITY).exists()
        name = holder((folder / IDENTITY).read_bytes()).name if known else folder.resolve().name
    if policy is not None:
        manner = replace(manner, habits=replace(manner.habits, policy=policy))
    seat = Seat(name, rows, folder, test, tls)
    return attend_many(plan, [seat], address, stop=stop, watch=watch, manner=manner)[name]


def attend_many(
    plan: Plan, seats: Sequence[Seat], address: str, *, stop: threading.Event | None = None,
    watch: Callable[[Event], None] = quiet, manner: Manner = MANNER,
) -> dict[str, Ended | None]:  # fmt: skip
    """Attend as several clients of one process: they train one at a time, and all of them talk.

    Each has heard that the run ended, or is None when `stop` was set before: what is finished is
    kept, and a training is broken off behind its present steps. The first error of one ends all.
    """
    manner = replace(manner, habits=replace(manner.habits, watch=watch))
    with asyncio.Runner(loop_factory=listen.loop_factory()) as runner:
        return runner.run(_attended(plan, seats, address, manner, stop or threading.Event()))


async def _attended(
    plan: Plan, seats: Sequence[Seat], address: str, manner: Manner, stop: threading.Event
) -> dict[str, Ended | None]:
    async with AsyncExitStack() as stack:
        hand = await stack.enter_async_context(Hand(partial(one_thread, plan.task)))
        clients = [await _client(stack, plan, seat, address, manner, hand) for seat in seats]
        tasks = {client.name: asyncio.ensure_future(client.attend()) for client in clients}
        return await _together(tasks, stop)


async def _client(
    stack: AsyncExitStack, plan: Plan, seat: Seat, address: str, manner: Manner, hand: Hand
) -> Attendance:
    """One client with its vault, its log and its line, which the stack closes."""
    vault = Vault(seat.folder / "vault", at=manner.at)
    stack.callback(vault.close)
    habits, tls = manner.habits, seat.tls
    if manner.audit:
        log = Audit(seat.folder / "audit.jsonl", habits.wall, purpose="site", id=seat.name)
        stack.callback(log.close)
        habits = replace(habits, audit=log)
    if tls is None and address.startswith("https:"):
        tls = client_context(seat.folder, seat.folder / AUTHORITY)
    line = Line(address, seat.name, tls, patience=manner.patience, watch=habits.watch)
    await stack.enter_async_context(line)
    return Attendance(seat.name, Training(plan, seat.rows, seat.test), line, vault, hand, habits)


async def _together(
    tasks: dict[str, asyncio.Task[Ended]], stop: threading.Event
) -> dict[str, Ended | None]:
    """All of them until the end, the first error, or until told to stop; then none goes on."""
    everybody = asyncio.ensure_future(asyncio.wait(tasks.values(), return_when=FIRST_EXCEPTION))
    stopped = asyncio.ensure_future(_stopped(stop))
    try:
        await asyncio.wait({everybody, stopped}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        rest = [everybody, stopped, *tasks.values()]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
    return {name: None if task.cancelled() else task.result() for name, task in tasks.items()}


async def _stopped(stop: threading.Event) -> None:
    while not stop.is_set():  # nothing can await an event of threads, or of a signal's handler
        await asyncio.sleep(TICK)


def site_rows(planfile: PlanFile, data: str | Path, loader: str | None = None) -> tuple[Any, Any]:
    """A site's own rows `(x, y)`: what `local_data(data)` of the plan file returns.

    `loader`, written "file.py:name", names another function, which the plan's fingerprint does
    not cover. Raises `DataError` for what cannot be loaded or trained on.
    """
    where, function = _loader(planfile, loader)
    try:
        found = function(data)
    except MusterError:
        raise
    except Exception as error:
        raise DataError(
            f"{where} failed on {data}: {type(error).__name__}: {error}; repair it, or the data"
        ) from error
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise DataError(
            f"{where} returned a {type(found).__name__}; return the site's rows as a pair (x, y)"
        )
    x, y = found
    if not len(x):
        raise DataError(f"{where} found no rows in {data}; a site needs at least one")
    planfile.plan.task.check(x, y)
    return x, y


def _loader(planfile: PlanFile, loader: str | None) -> tuple[str, Callable[[Any], Any]]:
    if loader is None:
        path, name = planfile.path, "local_data"
        module: Any = sys.modules.get(module_name(path))
        cure = "write def local_data(path): in it, or name a function with --loader file.py:name"
    else:
        file, colon, name = loader.rpartition(":")
        path, cure = Path(file), "write it as a function, def NAME(path):"
        if not colon or not name.isidentifier() or path.suffix != ".py":
            raise DataError(f"the loader {loader!r} is none; write file.py:name")
        if not path.is_file():
            raise DataError(f"the loader's file {path} does not exist; give the path of one")
        module = origins.load(origins.Origin(f"loader_{module_name(path)}", str(path.resolve())))
    function = getattr(module, name, None)
    if not callable(function):
        raise DataError(f"{path} has no function {name}; {cure}")
    return f"{name}() in {path}", function
