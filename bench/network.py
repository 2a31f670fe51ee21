# SPDX-License-Identifier: Apache-2.0
"""`python -m bench.network`: rounds, memory, load and deaths of a real server and real sites.

Everything runs over loopback, with TLS unless said, each side a process of its own that is pinned
to one thread. No round is timed before its model is bit for bit that of the simulated loop.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import muster
from bench.network_server import name_of
from bench.probe import PINNED
from bench.results import Line, write
from muster.runs import planfile
from muster.runs.federation import processes
from muster.security.identity import client_context

__all__ = ["PARTS", "main", "measured"]

MARK = "measured network"
PLAN = Path(__file__).with_name("network_plan.py")
SMALL, LARGE = 2500, 25_000_000  # parameters: 10 kB and 100 MB
MEMBERS = 100_000


def main() -> None:
    """Measure what is asked for (all by default) and write the results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", default=[], choices=[*PARTS])
    measured(parser.parse_args().only)


def measured(only: Sequence[str]) -> None:
    """Print these parts (all: none named), and write the results of all."""
    lines: list[Line] = []
    for name, part in PARTS.items():
        if not only or name in only:
            for line in part(name):
                print(line.text(), flush=True)
                lines.append(line)
    write(lines, Path(__file__).with_name("RESULTS.md"), partial=bool(only), mark=MARK)


# Rounds.


def _rounds(name: str) -> list[Line]:
    """Measure a small model: what is left is what a round costs whatever it trains."""
    return [_timed(name, SMALL, 2, 60, 0.1), _timed(name, SMALL, 8, 40, 0.2)]


def _large(name: str) -> list[Line]:
    """Measure a large model: bytes that are hashed, sent and written."""
    return [_timed(name, LARGE, 2, 12, 2.5)]


def _timed(name: str, parameters: int, sites: int, rounds: int, goal: float) -> Line:
    with _folder(parameters, sites, rounds) as folder:
        file = planfile.load(PLAN)
        run = processes.federated(file.plan, _spec(folder, sites), _quiet, _quiet)
        loop = muster.simulate(
            file.plan,
            file.enrolled().population,
            path=folder.parent / "loop",
            engine="loop",
            workers=1,
        )
        if run.parameters.tobytes() != loop.parameters.tobytes():
            sys.exit(f"{name}: the federation's model is not the simulated loop's")
        if any(len(record["accepted"]) != sites for record in run.trained):
            sys.exit(f"{name}: not every site was in every round")
        seconds = [record["seconds"] for record in run.trained[2:]]
    low, _, high = quantiles(seconds, n=4)
    size = "10 kB" if parameters == SMALL else "100 MB"
    return Line(
        name,
        f"a round of a {size} model, {sites} sites",
        f"{median(seconds):.3f} s",
        f"{low * 1e3:.3g} to {high * 1e3:.3g}",
        "",
        f"{goal:g} s",
    )


# Memory.


def _memory(name: str) -> list[Line]:
    """Measure sites that only speak the protocol, all of them uploading at once."""
    lines = []
    for sites in (5, 20):
        with _folder(LARGE, sites, 2) as folder, _crew(folder, sites, 0) as (crew, server):
            found = _load("uploads", crew.spec.port, folder, "--members", str(sites))
            if found["accepted"] != sites or found["settled"] != sites:
                sys.exit(f"{name}: {found}")
            value = f"{_peak(server.process.pid):.0f} MB"
        rate = sites * found["size"] / found["seconds"] / 1e6
        title = f"server's peak, {sites} sites uploading 100 MB each at once"
        goal = "450 MB" if sites == 20 else ""
        lines.append(Line(name, title, value, f"{rate:.0f} MB/s taken in", "", goal))
    return lines


def _peak(process: int) -> float:
    """Return the most memory that a process has held so far (VmHWM), in MB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(x.split()[1]) * 1024 / 1e6 for x in lines if x.startswith("VmHWM"))


# Load.


def _requests(name: str) -> list[Line]:
    """Measure check-ins as fast as they are answered."""
    lines = []
    with _folder(SMALL, 8, 1) as folder, _loaded(folder, 8, 1e9) as (ports, _):
        for door, goal in (("plain", 5000), ("tls", 2000)):
            more = ("--tls",) if door == "tls" else ()
            rates = [_load("requests", ports[door], folder, *more)["rate"] for _ in range(3)]
            title = f"check-ins answered on one core, {'TLS' if more else 'no TLS'}, 32 connections"
            spread = f"{min(rates):.0f} to {max(rates):.0f}"
            lines.append(Line(name, title, f"{median(rates):.0f}/s", spread, "", f"{goal}/s"))
    return lines


def _checkins(name: str) -> list[Line]:
    """Measure a crowd that keeps to the pace it is told."""
    with _folder(SMALL, 8, 1) as folder, _loaded(folder, MEMBERS, 100.0) as (ports, server):
        found = _load(
            "checkins",
            ports["plain"],
            folder,
            "--other",
            str(ports["tls"]),
            "--members",
            str(MEMBERS),
            "--seconds",
            "60",
        )
        value = _peak(server.pid)
    odd = {k: n for k, n in found["statuses"].items() if k not in ("200", "tls 200")}
    title = f"{MEMBERS:,} members, {found['rate']:.0f} check-ins/s ({found['told']:g} s apart)"
    worst = f"median {found['p50'] * 1e3:.1f} ms, worst {found['worst']:.2f} s"
    knocks = f"beside them {found['knocks']:.0f} new TLS connections/s"
    spread = f"worst {found['knock worst']:.2f} s"
    return [
        Line(name, title, f"p99 {found['p99']:.3f} s", worst, "", "0.5 s"),
        Line(name, knocks, f"p99 {found['knock p99']:.3f} s", spread, "", "0.5 s"),
        Line(name, "refused or broken, of all", f"{sum(odd.values())}", "", "", "0"),
        Line(name, "server's peak", f"{value:.0f} MB", "", "", "500 MB"),
    ]


@contextmanager
def _loaded(folder: Path, members: int, rate: float) -> Iterator[Any]:
    """Yield the ports and the process of a server with two doors, on a core of its own."""
    processes.identities(_spec(folder, 8))
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "bench.network_server",
            str(folder),
            "--members",
            str(members),
            "--rate",
            str(rate),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin is not None and server.stdout is not None
    with server:
        yield json.loads(server.stdout.readline()), server
        server.stdin.close()


def _load(kind: str, port: int, folder: Path, *more: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.network_load", kind, str(port), str(folder), *more]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(out.stdout)
    return found


# Deaths.


def _server_killed(name: str) -> list[Line]:
    """Kill a server amid rounds; it starts again at once, as by whoever supervises it."""
    seconds = []
    with _folder(SMALL, 2, 10**6) as folder, _crew(folder, 2, 2) as (crew, server):
        for _ in range(7):
            _recorded(crew)
            begun = time.perf_counter()
            os.kill(server.process.pid, signal.SIGKILL)
            server = crew.replace(server)
            _answered(crew, folder)
            seconds.append(time.perf_counter() - begun)
    spread = f"{min(seconds):.2f} to {max(seconds):.2f} s"
    title = "from kill -9 of the server to its answering again"
    return [Line(name, title, f"{median(seconds):.2f} s", spread, "", "2 s")]


def _site_killed(name: str) -> list[Line]:
    """Kill sites amid a round: one that is started again, then one that is gone for good."""
    back, gone = [], 0.0
    with _folder(SMALL, 2, 10**6) as folder, _crew(folder, 2, 2) as (crew, _):
        for left in range(5, -1, -1):
            site = next(c for c in crew.children if (c.role, c.number) == ("site", 1))
            _recorded(crew)
            os.kill(site.process.pid, signal.SIGKILL)
            if left:
                crew.replace(site)
            # The round that was open when it died is one of the next two to be committed.
            rounds = [_recorded(crew) for _ in range(2)]
            if left:
                back.append(max(record["seconds"] for record in rounds))
                assert all(len(record["accepted"]) == 2 for record in rounds)
            else:
                gone = max(record["seconds"] for record in rounds)
    spread = f"{min(back):.2f} to {max(back):.2f} s"
    return [
        Line(
            name,
            "the round in which a site was killed and started again",
            f"{median(back):.2f} s",
            spread,
            "",
            "15 s",
        ),
        Line(
            name,
            "the round in which a site was killed for good",
            f"{gone:.2f} s",
            "",
            "",
            "15 s: one lease",
        ),
    ]


def _answered(crew: processes.ProcessGroup, folder: Path) -> None:
    home = folder / "federation" / name_of(0)
    tls = client_context(home, home / "authority.pem")
    while True:
        line = http.client.HTTPSConnection(processes.HOST, crew.spec.port, context=tls, timeout=5)
        try:
            line.request("GET", "/healthz")
            if line.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.002)
        finally:
            line.close()


def _recorded(crew: processes.ProcessGroup) -> dict[str, Any]:
    """Return the record of the next round."""
    while crew.news.qsize() > 1:
        crew.news.get()
    while True:
        _, said = crew.news.get(timeout=60)
        if said and said.get("event") == "round":
            for child in crew.children:
                child.deaths = 0
            record: dict[str, Any] = said["record"]
            return record


# What all have in common.


@contextmanager
def _folder(parameters: int, sites: int, rounds: int) -> Iterator[Path]:
    """Yield a folder for a run of the plan with these numbers."""
    given = {"PARAMETERS": parameters, "SITES": sites, "ROUNDS": rounds}
    os.environ |= {f"MUSTER_BENCH_{name}": str(number) for name, number in given.items()}
    os.environ |= dict.fromkeys(PINNED, "1") | {"PYTHONPATH": str(PLAN.parents[1])}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "run").mkdir()
        yield Path(folder) / "run"


def _spec(folder: Path, sites: int) -> processes.Spec:
    names = tuple(map(name_of, range(sites)))
    return processes.Spec(str(PLAN), str(folder), sites, names, tuple(range(sites)))


@contextmanager
def _crew(folder: Path, sites: int, started: int) -> Iterator[Any]:
    """Yield a server, and so many of its sites as processes."""
    spec = _spec(folder, sites)
    processes.identities(spec)
    crew = processes.ProcessGroup(spec)
    try:
        server = crew.open()
        for number in range(started):
            crew.start("site", number)
        yield crew, server
    finally:
        crew.close()


def _quiet(_: dict[str, Any]) -> None:
    """Watch nothing."""


PARTS: dict[str, Callable[[str], list[Line]]] = {
    "rounds": _rounds,
    "large": _large,
    "memory": _memory,
    "requests": _requests,
    "checkins": _checkins,
    "server killed": _server_killed,
    "site killed": _site_killed,
}


if __name__ == "__main__":
    main()
