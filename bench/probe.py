# SPDX-License-Identifier: Apache-2.0
"""Contenders as processes of their own: their seconds, and the memory of their process tree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import psutil

__all__ = ["Side", "alternate", "peak_memory", "wall"]

PINNED = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass
class Side:
    """One contender: its name, its command after `python -m`, and the seconds seen so far."""

    name: str
    command: tuple[str, ...]
    threads: int = 1
    seconds: list[float] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Median seconds a round."""
        return median(self.seconds)

    @property
    def spread(self) -> str:
        """First and third quartile in milliseconds."""
        low, _, high = quantiles(self.seconds, n=4)
        return f"{low * 1e3:.3g} to {high * 1e3:.3g}"

    def run(self, rounds: int, *more: str) -> list[float]:
        """Run once; return the seconds of its rounds."""
        out = subprocess.run(
            [sys.executable, "-m", *self.command, "--rounds", str(rounds), *more],
            check=True,
            capture_output=True,
            text=True,
            env=_environment(self.threads),
        )
        self.facts = json.loads(out.stdout.strip().splitlines()[-1])
        return list(self.facts["seconds"])


def alternate(sides: list[Side], rounds: int, repeats: int, warm: int) -> None:
    """Run all sides in turn, several times; the first `warm` rounds of each do not count."""
    for repeat in range(repeats):
        for side in sides if repeat % 2 == 0 else reversed(sides):
            side.seconds += side.run(rounds + warm)[warm:]


def wall(command: list[str], repeats: int) -> float:
    """Return the median seconds from the shell to the end of a command."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, env=_environment(1))
        seconds.append(time.perf_counter() - began)
    return median(seconds)


def peak_memory(side: Side, rounds: int) -> float:
    """Return the highest sum of PSS over the process tree while a side runs, in MB."""
    child = subprocess.Popen(
        [sys.executable, "-m", *side.command, "--rounds", str(rounds)],
        stdout=subprocess.DEVNULL,
        env=_environment(side.threads),
    )
    peak, root = 0.0, psutil.Process(child.pid)
    while child.poll() is None:
        peak = max(peak, _pss(root))
        try:
            child.wait(0.03)
        except subprocess.TimeoutExpired:
            continue
    return peak / 1e6


def _pss(root: psutil.Process) -> float:
    total = 0.0
    try:
        tree = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return total
    for process in tree:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def _environment(threads: int) -> dict[str, str]:
    root = str(Path(__file__).parents[1])  # the bench is no installed package
    return os.environ | {name: str(threads) for name in PINNED} | {"PYTHONPATH": root}
