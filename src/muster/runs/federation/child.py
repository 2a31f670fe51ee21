# SPDX-License-Identifier: Apache-2.0
"""One process of a federation on one machine: the server, or a site with its clients.

It is told what to do in the first line of its standard input, and ends when that ends, which is
when its parent is gone; what it has to tell is a line of JSON on its standard output each.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

from muster.errors import MusterError
from muster.federation.site.policy import Policy
from muster.federation.site.trainer import Habits
from muster.plan import Plan
from muster.runs import planfile
from muster.runs.drive import Options
from muster.runs.federation.conduct import ServerSettings
from muster.runs.federation.join import Joining, LocalClient, attend_many
from muster.runs.federation.processes import HOST, Spec, planned
from muster.runs.federation.serve import ListenSettings, ServedFederation, serve

__all__ = ["main"]


def main(role: str, number: int) -> int:
    """Be the server, or a site process with its share of the clients; the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to hear
    spec = _spec(json.loads(sys.stdin.readline()))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    threading.Thread(target=_until_orphaned, args=(stop,), daemon=True).start()
    try:
        file = planfile.load(spec.plan)
        plan = planned(
            spec, lambda: planfile.altered(file.plan, spec.settings, spec.rounds, spec.seed)
        )
        if role == "server":
            _server(spec, plan, file, stop)
        else:
            _sites(spec, plan, file, number, stop)
    except MusterError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _server(spec: Spec, plan: Plan, file: planfile.PlanFile, stop: threading.Event) -> None:
    names = dict(zip(spec.names, spec.clients, strict=True))
    terms = ServerSettings(enough=len(names), lease=spec.lease, names=names)
    people, rows = file.enrolled()
    federation = ServedFederation(  # a simulation: noise and cohorts are those of the plan's seed
        plan, Path(spec.folder), rows, terms, population=people, entropy=None, study=spec.study
    )
    where = ListenSettings(f"{HOST}:{spec.port}", spec.home / "server")
    why = serve(
        federation,
        where,
        stop=stop,
        options=Options(
            watch=lambda record: _tell("round", record=record),
            ledger=None if spec.ledger is None else Path(spec.ledger),
            tell=lambda event: _tell(**event),
        ),
        ready=lambda port: _tell("ready", port=port),
    )
    if why == "done":
        _tell("ended")


def _sites(
    spec: Spec, plan: Plan, file: planfile.PlanFile, number: int, stop: threading.Event
) -> None:
    people = file.enrolled().population
    mine = range(number, len(spec.names), spec.processes)
    seats = [
        LocalClient(
            spec.names[i],
            people[spec.clients[i]],
            spec.home / spec.names[i],
            people.test(spec.clients[i]),
        )
        for i in mine
    ]
    how = Joining(Policy(study=spec.study), habits=Habits(entropy=None))
    address = f"https://{HOST}:{spec.port}"
    attend_many(plan, seats, address, stop=stop, watch=partial(_heard), how=how)


def _heard(event: dict[str, Any]) -> None:
    if event.get("event") == "failed":
        _tell("failed", **{k: v for k, v in event.items() if k != "event"})


def _spec(said: dict[str, Any]) -> Spec:
    listed = {name: tuple(said[name]) for name in ("names", "clients", "settings")}
    return Spec(**said | listed)


def _tell(event: str, **more: Any) -> None:
    print(json.dumps({"event": event} | more), flush=True)


def _until_orphaned(stop: threading.Event) -> None:
    sys.stdin.read()  # returns when the other end is gone
    stop.set()
