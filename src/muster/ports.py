# SPDX-License-Identifier: Apache-2.0
"""The world outside as values that are passed in, so that a test can put another in its place."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["DISK", "Disk"]


def _at_offset(file: int, data: Any, offset: int) -> int:
    """Write at a place; looked up when it is needed, as Windows has no such call."""
    return os.pwrite(file, data, offset)


@dataclass(frozen=True)
class Disk:
    """A disk to write to; a test puts faults here, and `sync=int` waits for no disk.

    >>> Disk(sync=int).sync(3)
    3
    """

    write: Callable[[int, Any, int], int] = _at_offset
    sync: Callable[[int], Any] = os.fsync
    replace: Callable[[Path, Path], None] = os.replace
    truncate: Callable[[int, int], None] = os.ftruncate


DISK = Disk()  # the real one
