# SPDX-License-Identifier: Apache-2.0
"""The results as a table: on the terminal, and in `RESULTS.md` with machine and versions."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

__all__ = ["Line", "write"]

TAIL = "<!-- end -->"


class Line(NamedTuple):
    """One row: the part of the bench, who, how long, the spread, the ratio, the goal."""

    part: str
    who: str
    value: str
    spread: str
    ratio: str
    goal: str

    def text(self) -> str:
        """Return the line for a terminal."""
        goal = f"  goal {self.goal}" if self.goal else ""
        return f"{self.part:9} {self.who:52} {self.value:>22} {self.ratio:>8}{goal}"


def write(lines: list[Line], path: Path, *, partial: bool, mark: str = "measured") -> None:
    """Put the measured table between its marks in the file; keep what was written around it.

    A partial measurement is printed but not written, so that one table is one sitting.
    """
    if partial:
        return
    head = f"<!-- {mark} -->"
    rows = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    table = (
        f"{head}\n{_machine()}\n\n| part | who | median | spread (quartiles, ms) | ratio | goal |\n"
        f"|---|---|---|---|---|---|\n{rows}\n{TAIL}"
    )
    old = path.read_text() if path.exists() else f"# Results\n\n{head}\n{TAIL}\n"
    before, _, rest = old.partition(head)
    path.write_text(before + table + rest.partition(TAIL)[2])


def _machine() -> str:
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        cpu = models[0].partition(":")[2].strip() if models else cpu
    versions = ", ".join(f"{name} {_version(name)}" for name in ("numpy", "torch", "jax"))
    when = datetime.now(UTC).date().isoformat()
    return (
        f"Measured {when} on {os.cpu_count()} cores of {cpu}, Python {platform.python_version()}, "
        f"{versions}; BLAS and OpenMP pinned to one thread a process unless said."
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
