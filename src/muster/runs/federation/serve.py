# SPDX-License-Identifier: Apache-2.0
"""`serve`: a plan's federation, from the first check-in to the last commit, in one process.

Two threads: the event loop, where sites check in, and the engine, which plays the rounds. A
server may be killed at any instant; `serve` on the same folder goes on from there. Of several
servers on one PostgreSQL one leads, and another takes over when that one is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from muster.data import Population
from muster.errors import LogFull, NoRoom, RunError
from muster.federation.coordinator.clients import MINUTE, Stopped
from muster.federation.coordinator.facts import raised
from muster.federation.coordinator.replica import mirror
from muster.federation.coordinator.round_state import RoundState
from muster.federation.coordinator.service import FederationService
from muster.federation.protocol.codec_json import STUDY_NAME
from muster.federation.protocol.limits import kept_of_disk
from muster.federation.protocol.message import STUDY
from muster.locks import require_locks
from muster.plan import Plan
from muster.plan.quorum import fewest, refuse_few
from muster.runs.drive import Options, Watch
from muster.runs.federation.conduct import (
    ServerSettings,
    check_study,
    conduct,
    facts_of,
    prepare,
    refuse_unserved,
)
from muster.runs.folder import know
from muster.runs.privacy.rows import refuse_blind_budget
from muster.security import audit, pki
from muster.store.blobs import said
from muster.store.ledger import FederationStore
from muster.store.reserved import Reserved
from muster.transport.event_loop import loop_factory
from muster.transport.http import listen
from muster.transport.http.app import HTTPApp
from muster.transport.http.operator import Meters, Operator
from muster.transport.http.protocol import Trust

__all__ = ["ListenSettings", "ServedFederation", "serve"]

LOG = logging.getLogger("muster.server")
ROOM = 5.0  # seconds until it is looked again whether there is room
TICK = 0.25  # seconds between two looks at a ledger that several servers share
CONTROL = "control.sock"

Rows = tuple[Any, Any] | None
T = TypeVar("T")


@dataclass(frozen=True)
class ListenSettings:
    """The address at which a server listens, and its identity.

    `address` is HOST:PORT, port 0 any that is free; `identity` the folder of the server's
    certificate, None for plain HTTP, which a loopback address alone may have; `meters` a
    loopback port for health and metrics.
    """

    address: str = "127.0.0.1:8443"
    identity: Path | None = None
    meters: int | None = None

    def listening(self, folder: Path) -> listen.ListenAddress:
        """Return the address for the sockets. Raises `RunError` for what is no address."""
        host, colon, port = self.address.rpartition(":")
        if not colon or not port.isdigit() or not 0 <= int(port) < 1 << 16:
            raise RunError(f"the address {self.address!r} is not HOST:PORT; use 0.0.0.0:8443")
        host = host.strip("[]")
        return listen.ListenAddress(host, int(port), control=folder / CONTROL, meters=self.meters)


@dataclass(frozen=True)
class ServedFederation:
    """A federation to serve: a plan, its folder, central test rows if any, and the terms.

    `url` is a PostgreSQL that several servers share, instead of SQLite in the folder; with
    `keep_updates` every update outlives its commit, for tests and audits. `population` is known on
    one machine alone, and recorded. `entropy(n)` draws n secret bytes for noise and cohorts of a
    plan with noise; None takes them from the plan's seed: a simulation. `study` names the runs over
    the same people, to which this one belongs.
    """

    plan: Plan
    folder: Path
    rows: Rows = None
    terms: ServerSettings = ServerSettings()
    url: str | None = None
    keep_updates: bool = False
    population: Population | None = None
    entropy: Callable[[int], bytes] | None = os.urandom
    study: str = STUDY

    def __post_init__(self) -> None:
        if not re.fullmatch(STUDY_NAME[0], self.study):
            raise RunError(f"the study {self.study!r:.80} is none; give {STUDY_NAME[1]}")


def serve(
    federation: ServedFederation,
    where: ListenSettings,
    *,
    options: Options | None = None,
    ready: Callable[[int], None] | None = None,
    stop: threading.Event | None = None,
) -> str:
    """Serve until the run has ended or `stop` is set; returns why: done, drain, stop, closing.

    `ready(port)` is called when sites can connect. Raises `RunError` for a folder that is in
    use, damaged, or of another plan, `PlanError` for one that its clients can never fulfil, and
    `AuditError` for a log that was altered.
    """
    require_locks()
    options, stop = options or Options(), stop or threading.Event()
    folder = federation.folder
    if federation.entropy is not None:
        refuse_blind_budget(federation.plan)
    fewest(federation.plan)  # else it would wait for ever, whoever joins
    refuse_unserved(federation.plan, federation.population)
    if federation.population is not None:
        refuse_few(federation.plan, federation.population.clients)
    trust = Trust(where.identity) if where.identity else None
    notary = _notary(federation.plan, where)
    opened = partial(_opened, federation, options, stop, notary, plain=trust is None)
    try:
        one, stack = patient(opened, stop, options.tell)
    except Stopped:
        return "closing"
    with stack:
        one.forewarn()
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(one.run(where.listening(folder), trust, ready or _unheard))


def patient(deed: Callable[[], T], stop: threading.Event, tell: Watch) -> T:
    """Do a deed once there is room for it, and return what it returns.

    Raises `Stopped` when told to stop first.
    """
    shortage = Shortage(tell)
    while True:
        try:
            return deed()
        except NoRoom as full:
            shortage.met(full)
            if stop.wait(ROOM):
                raise Stopped("closing") from full


@dataclass
class Shortage:
    """The room that a server lacks when it starts: told at once, and again each minute."""

    tell: Watch
    text: str = ""
    due: float = 0.0

    def met(self, full: NoRoom) -> None:
        """Tell that it is lacking now."""
        now = time.monotonic()
        if str(full) == self.text and now < self.due:
            return
        self.text, self.due = str(full), now + MINUTE
        self.tell({"event": "full", "text": f"{full}; the server starts once there is room"})


def _opened(
    federation: ServedFederation,
    options: Options,
    stop: threading.Event,
    notary: pki.Notary | None,
    *,
    plain: bool,
) -> tuple[_Server, contextlib.ExitStack]:
    """Return a server whose run is opened and is this plan's, and what closes it again."""
    folder = federation.folder
    with said(f"the folder {folder} cannot be made"):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # updates of single sites lie here
    with contextlib.ExitStack() as stack:
        ledger = FederationStore(
            folder, federation.url, at=options.at, keep_updates=federation.keep_updates
        )
        stack.callback(ledger.close)
        log = _log(folder)
        stack.callback(log.close)
        check_study(ledger, federation.study)
        if not ledger.shared:
            prepare(federation.plan, ledger, federation.study)  # refused before anybody connects
        one = _Server(federation, ledger, log, options, stop, notary, plain=plain)
        return one, stack.pop_all()


def _notary(plan: Plan, where: ListenSettings) -> pki.Notary | None:
    """Return the notary that knows the members of a plan whose sums are masked.

    Raises `RunError` without one.
    """
    if plan.secure is None:
        return None
    if where.identity is None:
        raise RunError(
            "this plan masks its sums, for which every site signs with its identity; serve with "
            "--identity FOLDER (made by muster pki), or leave SecureSum out"
        )
    return pki.Notary(where.identity)


def _log(folder: Path) -> audit.AuditLog:
    """Return the server's audit log, after a check of the whole of it."""
    path = folder / "audit.jsonl"
    if path.exists() and path.stat().st_size:  # a kill may come before its first entry
        audit.verify(path)
    return audit.AuditLog(path, purpose="server", id=folder.resolve().name)


class _Server:
    """The two threads of a server, and how they end."""

    def __init__(
        self,
        federation: ServedFederation,
        ledger: FederationStore,
        log: audit.AuditLog,
        options: Options,
        stop: threading.Event,
        notary: pki.Notary | None,
        *,
        plain: bool,
    ) -> None:
        self.federation, self.ledger, self.log, self.plain = federation, ledger, log, plain
        self.options, self.stop = options, stop
        facts = facts_of(
            federation.plan,
            _name(ledger),
            federation.terms,
            study=federation.study,
            raised=raised(ledger),
        )
        facts = replace(facts, note=self._noted)
        if notary is not None:
            facts = replace(facts, vouch=notary.attest, listed=notary.listed)
        self.round_state = RoundState(ledger, facts)
        self.service = FederationService(self.round_state, ledger, log.append)
        self.leads = asyncio.Event()
        self._late: list[asyncio.Future[None]] = []  # entries that wait for room
        self.why = "closing"

    def forewarn(self) -> None:
        """Tell whoever starts it that it can take no update, where there is no room for one."""
        if self.ledger.shared:
            return
        need, free = kept_of_disk(self.service.facts.size), self.ledger.blobs.room()
        if free < need:
            text = (
                f"{free >> 20} MB are free in {self.ledger.path}, and {need >> 20} MB are kept for "
                f"commits: no update is taken before there is more"
            )
            self.options.tell({"event": "full", "text": text})

    async def run(
        self, where: listen.ListenAddress, trust: Trust | None, ready: Callable[[int], None]
    ) -> str:
        """Listen and play, until one of both ends."""
        closed = asyncio.Event()
        engine = asyncio.create_task(self._play(closed))
        watch = asyncio.create_task(self._stopped(closed))
        tasks = [engine, watch]
        if self.ledger.shared:
            plan, at = self.federation.plan, self.options.at
            looking = mirror(plan, self.ledger, self.round_state, self.leads, TICK, at=at)
            tasks.append(asyncio.create_task(looking))
        try:
            await self._listen(where, trust, partial(self._ready, ready), closed)
        finally:
            self.stop.set()
            self.round_state.close()
            for task in tasks[2:]:
                task.cancel()
        await engine
        await watch
        await asyncio.gather(*self._late, return_exceptions=True)
        try:
            self.log.append("server", "closed", why=self.why, committed=self.round_state.committed)
        except LogFull as full:  # the end is known by what is committed
            LOG.error("the end is not in the audit log: %s", full)
        return self.why

    async def _listen(
        self,
        where: listen.ListenAddress,
        trust: Trust | None,
        told: Callable[[int], None],
        closed: asyncio.Event,
    ) -> None:
        """Listen until the end, once there is room for the sockets."""
        shortage = Shortage(self.options.tell)
        while not closed.is_set():
            meters = Meters(self.service)
            edge = HTTPApp(
                self.service,
                Reserved(self.ledger.blobs, kept_of_disk(self.service.facts.size)),
                trust.revoked if trust else frozenset,
                meters=meters,
                plain=trust is None,
            )
            operator = Operator(self.service, meters)
            try:
                return await listen.serve(edge, operator, where, closed, trust=trust, told=told)
            except NoRoom as full:
                shortage.met(full)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(closed.wait(), ROOM)

    def _ready(self, ready: Callable[[int], None], port: int) -> None:
        facts, committed = self.round_state.facts, self.round_state.committed
        said = {"committed": committed, "study": facts.study, "attempt": facts.attempt}
        try:
            self.log.append("server", "serving", port=port, **said)
        except LogFull:
            late = asyncio.to_thread(self._noted, "server", "serving", port=port, **said)
            self._late.append(asyncio.ensure_future(late))
        ready(port)

    async def _stopped(self, closed: asyncio.Event) -> None:
        """Let go of everything that waits: the process was told to stop."""
        await asyncio.to_thread(self.stop.wait)
        self.round_state.close()
        closed.set()

    async def _play(self, closed: asyncio.Event) -> None:
        """Play the engine, in a thread of its own; when it ends, the sites are told."""
        loop = asyncio.get_running_loop()
        try:
            self.why = await asyncio.to_thread(self._engine, loop)
            if self.why in ("done", "stop"):
                text = "all rounds are done" if self.why == "done" else "an operator stopped it"
                spent = self.why == "done" and self.ledger.meta("spent")
                text = str(self.ledger.meta("stopped")) if spent else text
                await self._told(text)
        finally:
            closed.set()
            self.stop.set()

    def _engine(self, loop: asyncio.AbstractEventLoop) -> str:
        if not self.ledger.lead(self.stop):
            return "closing"
        loop.call_soon_threadsafe(self.leads.set)
        try:
            options = patient(self._begin, self.stop, self.options.tell)
        except Stopped:
            return "closing"
        federation = self.federation
        return conduct(
            federation.plan,
            self.ledger,
            self.round_state,
            federation.rows,
            federation.terms,
            self.stop,
            options,
        )

    def _begin(self) -> Options:
        """Write down what this life begins with; return how it plays."""
        federation = self.federation
        if federation.population is None and self.ledger.meta("carrier") != "plain":
            self.ledger.note(
                carrier="plain" if self.plain else "TLS"
            )  # one life in the clear lasts
        self.round_state.follow()  # all that a leader wrote which is gone
        if self.round_state.wanted in ("drain", "stop"):  # that was the last life of this run
            self.round_state.order("run")
        watch = partial(self._committed, self.options.watch)
        at = partial(_given_back, self.options.at)
        options = replace(self.options, watch=watch, entropy=federation.entropy, at=at)
        if federation.population is not None:
            people = federation.population
            know(self.ledger, people, resume=self.round_state.committed > 0)
            options = replace(options, held=people.roster())
        return options

    def _noted(self, actor: str, action: str, /, **details: Any) -> None:
        """Note in the audit log what the engine does: it waits until there is room."""
        while True:
            try:
                self.log.append(actor, action, **details)
            except LogFull as full:
                LOG.error("the audit log waits for room: %s", full)
                if self.stop.wait(ROOM):
                    raise
            else:
                return

    def _committed(self, watch: Callable[[dict[str, Any]], None], record: dict[str, Any]) -> None:
        self._noted(
            "server",
            "committed",
            round=record["round"],
            invited=len(record["invited"]),
            accepted=len(record["accepted"]),
            model=record.get("model", ""),
        )
        watch(record)

    async def _told(self, text: str) -> None:
        """Wait until everybody who is here has heard that the run is over, or is silent."""
        round_state = self.round_state
        round_state.end(text)

        def wait() -> None:
            # Sites come back within a third of it.
            until = round_state.clock() + round_state.facts.lease / 2
            while True:
                seen, left = round_state.news.count, until - round_state.clock()
                if left <= 0 or self.stop.is_set() or round_state.heard_all():
                    return
                round_state.news.wait(seen, left)

        await asyncio.to_thread(wait)


def _name(ledger: FederationStore) -> str:
    """Return the run's id: its folder's name, and what tells it from one that was there before."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", ledger.path.resolve().name)[:96].lstrip("._-") or "run"
    if ledger.shared:
        return name  # all servers must say the same without asking each other
    if ledger.meta("run") is None:
        ledger.note(run=f"{name}-{secrets.token_hex(4)}")
    return str(ledger.meta("run"))


def _given_back(at: Callable[[str], None], label: str) -> None:
    """Give back to the system, before vectors are summed, what pieces of many uploads took."""
    if label == "round: closed":
        with contextlib.suppress(AttributeError, OSError):  # glibc alone keeps it, and can
            ctypes.CDLL(None).malloc_trim(0)
    at(label)


def _unheard(port: int) -> None:
    """Do nothing: nobody waits for the port."""
