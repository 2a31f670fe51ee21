# SPDX-License-Identifier: Apache-2.0
"""A federation on one machine: a real server and real sites, each a process, over TLS.

    FOLDER/federation/   authority, the server's identity, one folder for each site
    FOLDER/run.db        the run, as any other

The parent only starts processes, starts again those that die, and reads the server's records. It
may die as well: its children end when it does, and the run goes on where it was committed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

from muster.errors import PlanError, RunError
from muster.federation.protocol.message import STUDY
from muster.locks import require_locks
from muster.plan import Plan
from muster.plan.quorum import refuse_few
from muster.plan.registry import fingerprint, from_value, irreversible, to_value
from muster.runs.drive import Watch
from muster.runs.federation.conduct import refuse_unserved
from muster.runs.run import Run
from muster.security import pki
from muster.tasks import numpy as numpy_tasks
from muster.types import ClientId

__all__ = ["ProcessGroup", "Spec", "federated", "identities", "planned", "told"]

DAYS = 30  # of the certificates, which are made anew for a new run
DEATHS = 5  # of one process without a round between them, after which the run is given up
HOST = "127.0.0.1"
# Tasks that are values: those of torch, JAX and one's own training hold functions.
TASKS = {f"tasks.numpy.{name}": vars(numpy_tasks)[name] for name in numpy_tasks.__all__}


@dataclass(frozen=True)
class Spec:
    """The settings of a child process: the plan file as altered, the folder, who is who.

    `value` is the plan's (`registry.to_value`), where that makes the same plan again; else it is
    that of the file `plan`, altered by `settings`, `rounds` and `seed`. The file's functions say
    what the data are in either case. `mark` is the fingerprint of the plan it must come to.
    `names[i]` is the certificate's name of the population's client i; a site process has the
    clients i with i % processes = its number.
    """

    plan: str
    folder: str
    processes: int
    names: tuple[str, ...]
    clients: tuple[ClientId, ...]
    settings: tuple[str, ...] = ()
    rounds: int | None = None
    seed: int | None = None
    port: int = 0
    lease: float = 15.0
    ledger: str | None = None
    study: str = STUDY
    value: dict[str, object] | None = None
    mark: str = ""

    @property
    def home(self) -> Path:
        """The folder of identities and vaults."""
        return Path(self.folder) / "federation"


@dataclass
class _Child:
    """A process that is started again when it dies."""

    role: str
    number: int
    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    deaths: int = 0

    def said(self) -> str:
        """Return the end of what it wrote on its standard error."""
        self.errors.seek(0)
        return self.errors.read().decode(errors="replace").strip()[-2000:]


@dataclass
class ProcessGroup:
    """All children of one run."""

    spec: Spec
    children: list[_Child] = field(default_factory=list)
    news: SimpleQueue[tuple[_Child | None, dict[str, Any] | None]] = field(
        default_factory=SimpleQueue
    )

    def open(self) -> _Child:
        """Start the server; `spec.port` is where it listens, from now on."""
        server = self.start("server", 0)
        while True:
            child, said = self.news.get()
            if said is None and child is server:
                server = self.replace(child)
            elif said is not None and said.get("event") == "ready":
                self.spec = replace(self.spec, port=int(said["port"]))
                return server

    def start(self, role: str, number: int, deaths: int = 0) -> _Child:
        """Start one more process; what it says is put among the news, and its end as None."""
        errors = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the child)
        spec = json.dumps(asdict(self.spec)).encode()
        process = subprocess.Popen(
            [sys.executable, "-m", "muster.runs.federation", role, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=_environment(),
        )
        assert process.stdin is not None
        process.stdin.write(spec + b"\n")
        process.stdin.flush()  # it stays open: its end tells the child that the parent is gone
        child = _Child(role, number, process, errors, deaths)
        self.children.append(child)
        threading.Thread(target=self._listen, args=(child,), daemon=True).start()
        return child

    def _listen(self, child: _Child) -> None:
        assert child.process.stdout is not None
        with child.process.stdout as lines:
            for line in lines:
                self.news.put((child, json.loads(line)))
        self.news.put((child, None))

    def replace(self, child: _Child) -> _Child:
        """Start a process again that died. Raises `RunError` when it dies for ever."""
        self.children.remove(child)
        code, said = child.process.wait(), child.said()
        child.errors.close()
        if code > 0 or child.deaths >= DEATHS:
            who = "the server" if child.role == "server" else f"site process {child.number}"
            raise RunError(
                f"{who} ended with status {code}; what is committed is safe, resume the run once "
                f"this is mended:\n{said}"
            )
        return self.start(child.role, child.number, child.deaths + 1)

    def close(self) -> None:
        """End what still runs: gently, then by force."""
        for child in self.children:
            if child.process.stdin is not None:
                child.process.stdin.close()
        for child in self.children:
            try:
                child.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
            child.errors.close()


def told(plan: Plan, spec: Spec) -> tuple[Spec, str]:
    """Put the plan into the spec; return it with why its value is not sent, or ""."""
    why, mark = irreversible(plan, TASKS), fingerprint(plan)
    value = None if why else json.loads(json.dumps(to_value(plan)))
    return replace(spec, value=value, mark=mark), why


def planned(spec: Spec, file: Callable[[], Plan]) -> Plan:
    """Return the plan that a child was told of; `file()` is the plan file's, as it was altered.

    Raises `PlanError` where it is not the parent's.
    """
    plan: Plan = file() if spec.value is None else from_value(spec.value, TASKS)
    if spec.mark and fingerprint(plan) != spec.mark:
        raise PlanError(
            f"the plan in {spec.plan} is not the one that the run was started with: the file was "
            f"changed since, or makes another plan each time; start the run again"
        )
    return plan


def federated(plan: Plan, spec: Spec, watch: Watch, tell: Callable[[dict[str, Any]], None]) -> Run:
    """Run a plan file with a server and `spec.processes` site processes; return its run.

    `watch` gets each committed record, `tell` what else happens (a process that was started
    again, clients that a round waits for), with a "text". Raises `PlanError` where its clients
    are too few for any round to count, `RunError` when a process fails, with what it said.
    """
    require_locks()
    refuse_unserved(plan)
    refuse_few(plan, spec.clients)
    identities(spec)
    spec, why = told(plan, spec)
    if why:
        tell(
            {"event": "plan", "text": f"each process makes the plan from {spec.plan} again: {why}"}
        )
    crew = ProcessGroup(spec)
    try:
        crew.open()
        for number in range(spec.processes):
            crew.start("site", number)
        _follow(crew, watch, tell)
    finally:
        crew.close()
    return Run(spec.folder, plan)


def _follow(crew: ProcessGroup, watch: Watch, tell: Callable[[dict[str, Any]], None]) -> None:
    """Follow the news until the server has ended the run."""
    ended = False
    while True:
        child, said = crew.news.get()
        assert child is not None
        if said is None:
            if ended or child not in crew.children:
                if child.role == "server":
                    return
                continue
            who = "the server" if child.role == "server" else f"site process {child.number}"
            crew.replace(child)
            tell({"event": "died", "text": f"{who} died and was started again"})
        elif said.get("event") == "ended":
            ended = True
        elif said.get("event") == "round":
            for other in crew.children:
                other.deaths = 0
            watch(said["record"])
        elif said.get("event") in ("failed", "waiting"):
            tell(said)


def identities(spec: Spec) -> None:
    """Make an authority, and an identity for the server and each site, unless they are there."""
    home, now = spec.home, datetime.now(UTC)
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    authority = home / "authority"
    if not (authority / "authority.pem").exists():
        pki.init(authority, "muster on one machine", now)
    address = f"https://{HOST}:8443"
    for name in ("server", *spec.names):
        folder = home / name
        if (folder / "identity.pem").exists():
            continue
        (folder / "pending.key").unlink(missing_ok=True)
        request, _ = pki.ask(folder, name)
        role = "server" if name == "server" else "site"
        grant = pki.Grant(address, role=role, days=DAYS)
        approval = pki.approve(authority, request, grant, now)
        pki.accept(approval.bundle, folder, now)


def _environment() -> dict[str, str]:
    """Return the parent's environment, with its import path, so that a plan's modules are found."""
    path = os.pathsep.join(part for part in sys.path if part)
    return os.environ | {"PYTHONPATH": path}
