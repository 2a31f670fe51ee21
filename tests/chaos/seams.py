# SPDX-License-Identifier: Apache-2.0
"""Where a process of a federation can be hurt beside the labels of its code.

SERVER and SITE name further points, which are between and inside the steps that have no label of
their own; FAULTS are what else can go wrong in a process. All of it wraps functions of the
process that calls `lay`, which was forked to be hurt.
"""

import errno
import functools
import importlib
import inspect
import os
import time
from pathlib import Path

from muster.federation.coordinator.clients import NetworkClients
from muster.federation.coordinator.receiver import Receiver
from muster.federation.coordinator.round_state import RoundState
from muster.federation.coordinator.service import FederationService
from muster.federation.site import agent, transfers
from muster.federation.site.agent import SiteAgent
from muster.federation.site.training import Training
from muster.runs.privacy.guard import RunAccountant
from muster.security import audit
from muster.security.refusal import RefusalReason
from muster.store.blobs import Files, NoRoom
from muster.store.ledger import FederationStore
from muster.transport.http import client, request

driving = importlib.import_module("muster.runs.drive")

# label: (whose, which function, before it or after it, the beginning of the blob's name if any)
SERVER = {
    "server: before its facts": (FederationStore, "note", "before", ""),
    "server: before a site is enrolled": (FederationService, "_enrol", "before", ""),
    "server: before a site is welcome": (FederationService, "welcome", "after", ""),
    "server: half a model": (Files, "append", "after", "model-"),
    "server: before a model has its name": (Files, "finish", "before", "model-"),
    "server: after sampling": (NetworkClients, "send", "before", ""),
    "server: a task is told": (RoundState, "_fetched", "after", ""),
    "server: an update is announced": (FederationService, "announce", "after", ""),
    "server: in mid-upload": (Receiver, "_put", "after", ""),
    "server: before an update has its name": (Files, "finish", "before", "update-"),
    "server: an update has its name": (Files, "finish", "after", "update-"),
    "server: before an update is acknowledged": (FederationService, "arrived", "after", ""),
    "server: before an evaluation is acknowledged": (FederationService, "answer", "after", ""),
    "server: before its history's line": (driving, "append", "before", ""),
    "server: before the sites know": (RoundState, "settled", "before", ""),
    "server: before its log's line": (audit.AuditLog, "append", "before", ""),
    "server: before the end is told": (RoundState, "end", "before", ""),
}
GUARD = {  # passed only by a plan with noise
    "guard: before the secret": (RunAccountant, "_keep_secret", "before", ""),
    "guard: the secret is kept": (RunAccountant, "_keep_secret", "after", ""),
    "guard: charged": (RunAccountant, "charge_round", "after", ""),
    "guard: before the secret goes": (RunAccountant, "close", "before", ""),
    "guard: the secret is gone": (RunAccountant, "close", "after", ""),
}
SEAL = {  # passed at the end of a run of correlated noise
    "guard: before the rows of noise go": (FederationStore, "amend", "before", ""),
    "guard: the rows of noise are gone": (FederationStore, "amend", "after", ""),
}
SITE = {
    "site: before hello": (SiteAgent, "_enrol", "before", ""),
    "site: in download": (Files, "append", "after", "model-"),
    "site: half an update": (Files, "append", "after", "update-"),
    "site: half a memory": (Files, "append", "after", "memory-"),
    "site: half a state": (Files, "append", "after", "state.json"),
    "site: measured": (Training, "measure", "after", ""),
    "site: heard the end": (SiteAgent, "attend", "after", ""),
    "site: before its log's line": (audit.AuditLog, "append", "before", ""),
}


def lay(faults, at, *, server):
    """Have `at(label)` called at each further point, and put the faults in."""
    for label, (owner, name, when, prefix) in (SERVER | GUARD | SEAL if server else SITE).items():
        call = getattr(owner, name)
        setattr(owner, name, _passing(call, functools.partial(at, label), when, prefix))
    for name, value in faults.items():
        FAULTS[name](value)


def _passing(call, at, when, prefix):
    def whether(given):
        return not prefix or given[1].startswith(prefix)

    @functools.wraps(call)
    def sync(*given, **named):
        if when == "before" and whether(given):
            at()
        found = call(*given, **named)
        if when == "after" and whether(given):
            at()
        return found

    @functools.wraps(call)
    async def soon(*given, **named):
        if when == "before":
            at()
        found = await call(*given, **named)
        if when == "after":
            at()
        return found

    return soon if inspect.iscoroutinefunction(call) else sync


def _small_pieces(size):
    """Uploads in pieces of so many octets, and not compressed."""
    transfers.PIECE = size
    client._pays = lambda body: False


def _wall(path):
    """A wall clock that jumps by the seconds that a file names."""

    def wall():
        return time.time() + float(Path(path).read_text())

    RoundState.__init__.__kwdefaults__["wall"] = wall
    FederationStore.__init__.__kwdefaults__["clock"] = wall


def _full(path):
    """A disk that is full for blobs of which a file has the beginning of the name."""
    append = Files.append

    def full(self, name, offset, data):
        prefix = Path(path).read_text()
        if prefix and name.startswith(prefix):
            why = os.strerror(errno.ENOSPC)
            raise NoRoom(f"the blob {name} could not be written ({why}); make room, then try again")
        return append(self, name, offset, data)

    Files.append = full


def _ask_again(seconds):
    """Return the Retry-After of a server whose disk is full."""
    request.AGAIN[RefusalReason.NO_ROOM] = seconds


def _fails(rounds):
    """A client's own code raises in these rounds; by client."""
    train = Training.train

    def raising(self, task, client, *rest):
        if task.round in rounds.get(client, ()):
            raise ValueError(f"the scanner of {client!r} was off, 17 rows")
        return train(self, task, client, *rest)

    Training.train = raising


def _speaks(versions):
    """A site of another release."""
    agent.VERSIONS = versions


def _patience(seconds):
    """Seconds without an octet after which a site gives up a connection."""
    client.READ = seconds


def _another_plan(fingerprint):
    """A site that holds another plan."""
    agent.fingerprint = lambda plan: fingerprint


FAULTS = {
    "another plan": _another_plan,
    "ask again": _ask_again,
    "fails": _fails,
    "full": _full,
    "patience": _patience,
    "small pieces": _small_pieces,
    "speaks": _speaks,
    "wall": _wall,
}
