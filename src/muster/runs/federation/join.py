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
from typing import Any, Protocol

from muster.data.arrays import as_pair
from muster.errors import DataError, MusterError, RunError
from muster.federation.protocol.message import RunEnded
from muster.federation.site.agent import SiteAgent
from muster.federation.site.policy import Policy
from muster.federation.site.server_client import Backoff, Event, ServerClient, quiet
from muster.federation.site.store import SiteStore
from muster.federation.site.study import STUDIES, StudyRecord
from muster.federation.site.trainer import Habits
from muster.federation.site.training import Training
from muster.federation.site.training_thread import TrainingThread
from muster.locks import require_locks
from muster.plan import Plan
from muster.runs.planfile import PlanFile, module_name
from muster.security.audit import AuditLog
from muster.security.pki import Notary, client_context
from muster.simulation import origins
from muster.simulation.threads import one_thread
from muster.transport.event_loop import loop_factory
from muster.transport.http.client import HTTPTransport

__all__ = ["Joining", "LocalClient", "Stop", "attend_many", "join", "site_rows"]

TICK = 0.1  # seconds between two looks at whether to stop


class Stop(Protocol):
    """An `asyncio.Event` or a `threading.Event`."""

    def is_set(self) -> bool:
        """Return whether to stop."""


@dataclass(frozen=True)
class LocalClient:
    """One client of a process: its name, its rows, test rows if any, and its folder.

    The folder holds the identity (see `muster pki`), the audit log, in `vault` what must not be
    lost of a run, and in `studies` what must not be lost of any.
    """

    name: str
    rows: tuple[Any, Any]
    folder: Path
    test: tuple[Any, Any] | None = None


@dataclass(frozen=True)
class Joining:
    """The way to join: the site's policy, when to stop, who watches; the rest is for tests.

    `at` is called at each of `site.vault.LABELS`; `audit` keeps an audit log beside the vault.
    """

    policy: Policy = Policy()
    stop: Stop | None = None
    watch: Callable[[Event], None] = quiet
    patience: Backoff = Backoff()
    habits: Habits = Habits()
    at: Callable[[str], None] | None = None
    audit: bool = True


@dataclass(frozen=True)
class _ClientFolder:
    """A client's folder of what it must not lose, and its name on the line."""

    site_store: Path
    studies: Path
    log: Path
    tls: ssl.SSLContext | None
    identity: Path | None = None


HOW = Joining()


async def join(
    plan: Plan,
    rows: tuple[Any, Any],
    address: str,
    folder: str | Path,
    *,
    test: tuple[Any, Any] | None = None,
    tls: ssl.SSLContext | None = None,
    name: str | None = None,
    how: Joining = HOW,
    identity: Path | None = None,
) -> RunEnded | None:
    """Attend as one client until the run has ended; None when it was told to stop before.

    `folder` keeps what must not be lost of the run; `name`, by default that of the folder, is the
    client's where there is no TLS; `identity` is the folder to sign with, where sums are masked.
    What must not be lost of the study lies in `studies` of the identity, else beside `folder`.
    Raises `MusterError` when this site cannot take part.
    """
    require_locks()
    folder = Path(folder)
    seat = LocalClient(name or folder.resolve().name, rows, folder, test)
    beside = folder.resolve().parent / STUDIES / seat.name
    studies = beside if identity is None else identity / STUDIES
    place = _ClientFolder(folder, studies, folder / "audit.jsonl", tls, identity)
    return (await _attended(plan, [(seat, place)], address, how))[seat.name]


def attend_many(
    plan: Plan,
    seats: Sequence[LocalClient],
    address: str,
    *,
    stop: Stop | None = None,
    watch: Callable[[Event], None] = quiet,
    how: Joining = HOW,
) -> dict[str, RunEnded | None]:
    """Attend as several clients of one process: they train one at a time, and all of them talk.

    Each has heard that the run ended, or is None when `stop` was set before: what is finished is
    kept, and a training is broken off behind its present steps. The first error of one ends all.
    """
    how = replace(how, stop=stop or how.stop, watch=watch)
    placed = [(seat, _placed(seat, address)) for seat in seats]
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_attended(plan, placed, address, how))


def _placed(seat: LocalClient, address: str) -> _ClientFolder:
    folder = seat.folder
    secure = address.startswith("https:")
    tls = client_context(folder) if secure else None
    identity = folder if secure else None
    return _ClientFolder(folder / "vault", folder / STUDIES, folder / "audit.jsonl", tls, identity)


async def _attended(
    plan: Plan, seats: Sequence[tuple[LocalClient, _ClientFolder]], address: str, how: Joining
) -> dict[str, RunEnded | None]:
    async with AsyncExitStack() as stack:
        hand = await stack.enter_async_context(TrainingThread(partial(one_thread, plan.task)))
        clients = []
        for seat, place in seats:
            site_store = SiteStore(place.site_store, at=how.at)
            stack.callback(site_store.close)
            study = StudyRecord(place.studies / how.policy.study, how.policy.study)
            stack.callback(study.close)
            habits = replace(how.habits, policy=how.policy, watch=how.watch)
            if how.audit:
                log = AuditLog(place.log, habits.wall, purpose="site", id=seat.name)
                stack.callback(log.close)
                habits = replace(habits, audit=log)
            port = HTTPTransport(address, seat.name, place.tls)
            line = ServerClient(port, patience=how.patience, watch=how.watch)
            await stack.enter_async_context(line)
            training, notary = Training(plan, seat.rows, seat.test), _notary(plan, place)
            client = SiteAgent(
                seat.name, training, line, site_store, hand, habits, study=study, notary=notary
            )
            clients.append(client)
        tasks = {client.name: asyncio.ensure_future(client.attend()) for client in clients}
        return await _together(tasks, how.stop or threading.Event())


def _notary(plan: Plan, place: _ClientFolder) -> Notary | None:
    """Return the notary of a client of a plan whose sums are masked.

    Raises `RunError` without one.
    """
    if plan.secure is None:
        return None
    if place.identity is None:
        raise RunError(
            "this plan masks its sums, for which every site signs with its identity; join over "
            "https with --identity FOLDER (made by muster pki), or leave SecureSum out"
        )
    return Notary(place.identity)


async def _together(
    tasks: dict[str, asyncio.Task[RunEnded]], stop: Stop
) -> dict[str, RunEnded | None]:
    """Run all until the end, the first error, or until told to stop; then none goes on."""
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


async def _stopped(stop: Stop) -> None:
    while not stop.is_set():  # nothing can await an event of threads, or of a signal's handler
        await asyncio.sleep(TICK)


def site_rows(planfile: PlanFile, data: str | Path, loader: str | None = None) -> tuple[Any, Any]:
    """Return a site's own rows `(x, y)`: what `local_data(data)` of the plan file returns.

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
    x, y = as_pair(where, found)
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
