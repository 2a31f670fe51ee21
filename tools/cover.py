# SPDX-License-Identifier: Apache-2.0
"""The floors of coverage: branches of every room that must have been taken by some test.

    python tools/cover.py .coverage.json

What a result stands on (from the keys up to the rounds) is covered whole; the rest, where an
operating system's faults have branches too, nearly so. What only runs in processes that tests
start, and end by force, counts where it is also called in the tests' own.
"""

import json
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import floors

WHOLE, MOST = 100.0, 95.0  # per cent of branches: up to the floor of the rounds, and above it
ROUNDS = floors.FLOORS["rounds"]


def room(file: str) -> str:
    """Return the room of a covered file: its first name below `muster`.

    >>> room("src/muster/plan/plan.py"), room("src/muster/keys.py")
    ('plan', 'keys')
    """
    parts = Path(file).parts
    return Path(parts[parts.index("muster") + 1]).stem


def shares(report: Mapping[str, Any]) -> dict[str, float]:
    """Return the per cent of branches taken, by room; 100 where there is none to take."""
    taken, all_ = Counter[str](), Counter[str]()
    for file, found in report["files"].items():
        summary = found["summary"]
        taken[room(file)] += summary["covered_branches"]
        all_[room(file)] += summary["num_branches"]
    return {name: 100.0 * taken[name] / all_[name] if all_[name] else 100.0 for name in all_}


def floor_of(name: str) -> float:
    """Return the share that a room has to reach."""
    return WHOLE if floors.FLOORS.get(name, ROUNDS + 1) <= ROUNDS else MOST


def main(arguments: list[str]) -> int:
    """Print the table; return 1 where a room is below its floor."""
    found = shares(json.loads(Path(arguments[0]).read_text(encoding="utf-8")))
    low = {name: share for name, share in found.items() if share < floor_of(name)}
    for name, share in sorted(found.items(), key=lambda one: one[1]):
        mark = f"  BELOW {floor_of(name):g}" if name in low else ""
        print(f"{share:7.2f} %  {name}{mark}")
    return int(bool(low))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
