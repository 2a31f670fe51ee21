# SPDX-License-Identifier: Apache-2.0
"""`python -m bench.memory`: the peak memory of a real server and of a real site, each alone.

A server is a process `muster serve` that stubs take part in, a site a process `muster join` that a
stub asks, over plain HTTP on loopback: memory of the other side is in another process. What is
told is (peak − peak with a model of 10 kB) / M for a model of M bytes, where a peak is the most
that the process has held from its first to its last instruction (`bench.peak`), mapped files
included.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.memory_stub import Body, Server, site
from bench.probe import PINNED
from bench.results import Line, write
from muster.federation.protocol.template import sent_template, update_template
from muster.plan import Plan
from muster.runs import planfile

__all__ = ["GOALS", "PARTS", "Case", "at_a_server", "at_a_site", "main", "ratio"]

MARK = "measured peaks"
PLAN = Path(__file__).with_name("memory_plan.py")
TINY = 2500  # parameters of the model whose peak is the price of everything else
GOALS = {"server": 3.5, "site": 2.5}
SIZES = (100, 1000, 4000)  # MB


@dataclass(frozen=True)
class Case:
    """A case to measure: the kind of plan (see `memory_plan`), rounds, sites at a server.

    `again`: the server is stopped after its first round, and the peak is that of its second life.
    """

    kind: str = "plain"
    rounds: int = 2
    sites: int = 1
    again: bool = False


def ratio(part: Callable[[Case, int], int], case: Case, parameters: int) -> float:
    """Return the peak of a process over that with a tiny model, in sizes of the model."""
    least = part(case, TINY)
    wide = round(parameters**0.5)
    return (part(case, wide * wide) - least) / (4 * wide * wide)


def at_a_server(case: Case, parameters: int) -> int:
    """Return the peak of a server, in bytes, over all rounds and its end."""
    with _folder(case, parameters) as (folder, plan):
        body = Body(update_template(plan), 0)
        _ = body.digest
        words = [
            "serve",
            str(PLAN),
            "--path",
            str(folder / "run"),
            "--plain",
            "--json",
            "--address",
            "127.0.0.1:0",
            "--clients",
            str(case.sites),
            "--lease",
            "120",
        ]
        first = _events(folder, words) if case.again else None
        if first is not None:
            with first as (process, events):
                _take_part(next(events)["address"], plan, body, case, stop=process)
        with _events(folder, words) as (_, events):
            counted = _take_part(next(events)["address"], plan, body, case)
        assert first is not None or counted == [case.rounds] * case.sites, counted
        return int((folder / "peak").read_text())


def _take_part(
    address: str, plan: Plan, body: Body, case: Case, stop: subprocess.Popen[str] | None = None
) -> list[int]:
    """Run all sites until the run has ended, or a server was told to stop after a round."""
    if stop is not None:
        leave = site(address, "s0", plan, body, 1, rounds=1)
        stop.send_signal(signal.SIGTERM)
        return [leave]
    with ThreadPoolExecutor(case.sites) as pool:
        return list(pool.map(lambda i: site(address, f"s{i}", plan, body, 1), range(case.sites)))


def at_a_site(case: Case, parameters: int) -> int:
    """Return the peak of a site, in bytes, over all rounds."""
    with _folder(case, parameters) as (folder, plan):
        with Server(sent_template(plan), case.rounds) as stub:
            words = [
                "join",
                stub.address,
                str(PLAN),
                "--data",
                str(PLAN),
                "--plain",
                "--name",
                "a",
                "--path",
                str(folder / "a"),
                "--json",
            ]
            with _events(folder, words) as (_, events):
                for _ in events:
                    continue
            assert len(stub.updates) == case.rounds and not stub.failed, (stub.updates, stub.failed)
        return int((folder / "peak").read_text())


@contextmanager
def _events(folder: Path, words: Sequence[str]) -> Iterator[tuple[Any, Iterator[dict[str, Any]]]]:
    """Yield a process, and what it says; it has ended well when this ends."""
    with subprocess.Popen(
        [sys.executable, "-m", "bench.peak", str(folder / "peak"), *words],
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=dict(os.environ),
    ) as process:
        assert process.stdout is not None
        try:
            yield process, map(json.loads, process.stdout)
            for _ in process.stdout:
                continue
        except BaseException:
            process.kill()
            raise
    if process.returncode not in (0, 130):
        raise RuntimeError(f"{words[0]} ended with status {process.returncode}")


@contextmanager
def _folder(case: Case, parameters: int) -> Iterator[tuple[Path, Plan]]:
    """Yield an empty folder, and the plan that this process and its children read."""
    given = {"KIND": case.kind, "PARAMETERS": str(parameters), "ROUNDS": str(case.rounds)}
    os.environ |= {f"MUSTER_BENCH_{name}": value for name, value in given.items()}
    root = str(PLAN.parents[1])
    paths = dict.fromkeys([root, *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    os.environ |= dict.fromkeys(PINNED, "1")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder), planfile.load(PLAN).plan


PARTS: dict[str, tuple[str, Callable[[Case, int], int], Case]] = {
    "server": ("server", at_a_server, Case()),
    "server, 5 sites": ("server", at_a_server, Case(sites=5)),
    "server, 40 sites": ("server", at_a_server, Case(rounds=1, sites=40)),
    "server, second life": ("server", at_a_server, Case(again=True)),
    "site": ("site", at_a_site, Case()),
    "site, noise": ("site", at_a_site, Case("noised")),
    "site, torch": ("site", at_a_site, Case("torch")),
}


def main() -> None:
    """Measure what is asked for (all by default), and write the results of all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", default=[], choices=[*PARTS])
    parser.add_argument("--sizes", nargs="*", type=int, default=SIZES, help="MB")
    options = parser.parse_args()
    lines = []
    for name, (side, part, case) in PARTS.items():
        if options.only and name not in options.only:
            continue
        for size in options.sizes:
            found = ratio(part, case, size * 250_000)
            goal = f"{GOALS[side]:g} M" if case.kind == "plain" else ""
            line = Line("peak", f"{name}, a model of {size} MB", f"{found:.2f} M", "", "", goal)
            print(line.text(), flush=True)
            lines.append(line)
    whole = not options.only and tuple(options.sizes) == SIZES
    write(lines, Path(__file__).with_name("RESULTS.md"), partial=not whole, mark=MARK)


if __name__ == "__main__":
    main()
