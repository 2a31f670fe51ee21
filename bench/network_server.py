# SPDX-License-Identifier: Apache-2.0
"""A server under load, on one core: `python -m bench.network_server FOLDER --members 100000`.

The ledger, state, service and port of `muster serve`, twice: one in the clear, where the header
`Muster-Site` is the name (one certificate is one name, and 100,000 are needed), and one over TLS,
both before the same desk. Its engine waits for one member more than there are, so that no round
is open. It ends with its standard input.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sqlite3
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

from bench.network_plan import plan
from muster.federation.coordinator.clients import NetworkClients, Stopped
from muster.federation.coordinator.events import MemberEnrolled, row_of
from muster.federation.coordinator.round_state import RoundState
from muster.federation.coordinator.service import FederationService
from muster.runs.federation.conduct import ServerSettings, facts_of
from muster.store.ledger import FederationStore
from muster.store.records import Member
from muster.transport.event_loop import loop_factory
from muster.transport.http import listen
from muster.transport.http.app import HTTPApp
from muster.transport.http.limits import Limits
from muster.transport.http.operator import Meters, Operator
from muster.transport.http.protocol import Trust

__all__ = ["main", "name_of"]


def name_of(number: int) -> str:
    """Return the name of a member."""
    return f"site-{number:05d}"


def main() -> None:
    """Serve until the standard input ends; print the ports."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--rate", type=float, default=100.0)
    options = parser.parse_args()
    _enrol(options.folder, options.members)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_serve(options.folder, options.members, options.rate))


def _enrol(folder: Path, members: int) -> None:
    """Enrol all members at once as rows of the ledger; one by one they would take months."""
    FederationStore(folder).close()
    events = (MemberEnrolled(Member(name_of(i), name_of(i), 1)) for i in range(members))
    rows = [row_of(event) for event in events]
    values = [
        (i, row.topic, row.round, row.key, json.dumps(row.body)) for i, row in enumerate(rows, 1)
    ]
    say = "INSERT INTO journal (position, topic, round, key, body) VALUES (?, ?, ?, ?, ?)"
    with contextlib.closing(sqlite3.connect(folder / "run.db")) as database, database:
        database.executemany(say, values)
        database.execute("UPDATE control SET version = ?", (members,))


async def _serve(folder: Path, members: int, rate: float) -> None:
    ledger = FederationStore(folder)
    round_state = RoundState(ledger, facts_of(plan, folder.name, ServerSettings()))
    service, trust = FederationService(round_state, ledger), Trust(folder / "federation" / "server")
    meters, closed, limits = Meters(service), asyncio.Event(), Limits(rate, 2 * rate)
    engine = threading.Thread(target=_engine, args=(ledger, round_state, members + 1))
    engine.start()
    loop, ports = asyncio.get_running_loop(), {}

    def told(name: str, port: int) -> None:
        ports[name] = port
        if len(ports) == 2:
            print(json.dumps(ports), flush=True)

    def orphaned() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(closed.set)

    threading.Thread(target=orphaned, daemon=True).start()
    doors = []
    for name, identity in (("plain", None), ("tls", trust)):
        edge = HTTPApp(
            service, ledger.blobs, trust.revoked, limits=limits, meters=meters, plain=not identity
        )
        where = listen.ListenAddress("127.0.0.1", 0)
        one: Any = listen.serve(
            edge, Operator(service, meters), where, closed, trust=identity, told=partial(told, name)
        )
        doors.append(one)
    await asyncio.gather(*doors)
    round_state.close()
    engine.join()
    ledger.close()


def _engine(ledger: FederationStore, round_state: RoundState, enough: int) -> None:
    stop = threading.Event()
    network = NetworkClients(plan, ledger, round_state, enough=enough, stop=stop, at=str.strip)
    with contextlib.suppress(Stopped):
        network.known()


if __name__ == "__main__":
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    main()
