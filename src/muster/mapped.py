# SPDX-License-Identifier: Apache-2.0
"""Large arrays that lie in a map of a file: read a part at a time, they need hardly any memory.

Pages of a map are in memory once they were read, and stay there as long as the map. Whoever walks
over one from begin to end lets go of what lies behind, which the file still has: a sum over a
model costs the sum, and a copy the copy.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np

from muster.vectors import aligned

__all__ = ["PART", "add", "forget", "own", "parts"]

PART = 1 << 22  # bytes


def parts(array: Any) -> Iterator[Any]:
    """Yield cuts of a vector `(d,)` in order, a few MB each; one of all for any other array.

    >>> [len(np.zeros(1 << 20, "float64")[cut]) for cut in parts(np.zeros(1 << 20, "float64"))]
    [524288, 524288]
    """
    if array.ndim != 1 or array.nbytes <= PART:
        yield ...
        return
    few = PART // array.itemsize
    yield from (slice(i, i + few) for i in range(0, len(array), few))


def forget(array: Any) -> None:
    """Let go of the pages behind a contiguous array in a map that nobody writes to.

    They come again when they are read. Nothing happens to an array that lies elsewhere.
    """
    base = array
    while isinstance(base, np.ndarray):
        base = base.base
    held = base.obj if isinstance(base, memoryview) else base
    if not isinstance(held, mmap.mmap) or not array.nbytes:
        return
    begin = array.ctypes.data - np.frombuffer(held, np.uint8, 1).ctypes.data
    first = begin // mmap.PAGESIZE * mmap.PAGESIZE
    if hasattr(held, "madvise") and hasattr(mmap, "MADV_DONTNEED"):
        held.madvise(mmap.MADV_DONTNEED, first, min(begin + array.nbytes, len(held)) - first)


def own(array: Any) -> Any:
    """Return a copy that starts where kernels like it and may be written to.

    >>> own(np.arange(3.0)).flags.writeable
    True
    """
    copy = aligned(array.shape, array.dtype)
    for cut in parts(array):
        copy[cut] = array[cut]
        forget(array[cut])
    return copy


def add(total: Any, array: Any) -> Any:
    """Add `array` to `total`, a part at a time; return the total.

    >>> add(np.ones(2), np.array([1.0, 2.0]))
    array([2., 3.])
    """
    for cut in parts(array):
        total[cut] += array[cut]
        forget(array[cut])
    return total
