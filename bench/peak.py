# SPDX-License-Identifier: Apache-2.0
"""`python -m bench.peak FILE serve …`: the command `muster`, which leaves its peak in a file.

The peak is what the system has noted of this process when it ends: `VmHWM`, the most that it held
at once, pages of mapped files included. That of a child seen from outside (`ru_maxrss`) would begin
with its parent's.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["main", "peak"]


def peak(process: int | str = "self") -> int:
    """Return the most bytes that a process has held at once so far."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """Be `muster` with the remaining words, and write the peak at its end."""
    file = Path(sys.argv.pop(1))
    from muster.cli import main as muster

    try:
        muster()
    finally:
        file.write_text(str(peak()))
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
