# SPDX-License-Identifier: Apache-2.0
"""Locks on files, which the system lets go of when a process dies, whatever it died of."""

from __future__ import annotations

import sys
from typing import Any

from muster.errors import MusterError

try:
    import fcntl
except ModuleNotFoundError:  # Windows has none; what needs no lock works there
    fcntl = None  # type: ignore[assignment]

__all__ = ["flock", "require_locks"]


def require_locks() -> None:
    """Raise `MusterError` on a system without locks, before anything is begun that needs them."""
    if fcntl is None:
        raise MusterError(
            f"runs, keys and ledgers are kept whole by file locks, which this system "
            f"({sys.platform}) has not as muster needs them; use Linux, macOS, or WSL on Windows"
        )


def flock(file: Any, *, shared: bool = False, wait: bool = True) -> None:
    """Lock an open file, or its descriptor, against everybody else (or other than `shared` ones).

    Raises `BlockingIOError` where somebody has it and `wait` is false, `OSError` for a disk that
    has no locks, and `MusterError` on a system without them.
    """
    require_locks()
    fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
