# SPDX-License-Identifier: Apache-2.0
"""A population's arrays in one anonymous shared-memory file, and the small value that names it."""

from __future__ import annotations

import mmap
import os
import pickle
import tempfile
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muster.data.rows import ClientId, Rows
from muster.data.source import Lazy, Source, Stored
from muster.errors import DataError

__all__ = ["Handle", "SharedArraySpec", "attached", "described", "share"]


@dataclass(frozen=True)
class SharedArraySpec:
    """The place of one array in the shared file: `offset` is a multiple of 64 bytes."""

    offset: int
    dtype: str
    shape: tuple[int, ...]

    def end(self) -> int:
        """Return the first byte after the array."""
        return self.offset + int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def of(self, memory: mmap.mmap) -> NDArray[Any]:
        """Return the array itself, as a view."""
        count = int(np.prod(self.shape))
        flat = np.frombuffer(memory, np.dtype(self.dtype), count, self.offset)
        return flat.reshape(self.shape)


@dataclass(frozen=True, eq=False)
class Handle:
    """A handle to open a population that another process made; small, and picklable.

    Either `fd`, `length` and `places` (x, y and, where there are, test x and y) of a shared
    file, with each client's starts and sizes `(k,)`; or `lazy`, the pickled loader, and no file.
    """

    clients: tuple[ClientId, ...]
    fd: int | None = None
    length: int = 0
    places: tuple[SharedArraySpec, ...] = ()
    offsets: tuple[NDArray[np.int64], ...] = ()
    lazy: bytes | None = None

    @property
    def fds(self) -> tuple[int, ...]:
        """File descriptors that a child process must inherit (`pass_fds`)."""
        return () if self.fd is None else (self.fd,)


class Segment:
    """An anonymous file of shared memory, closed when the last population over it is gone."""

    def __init__(self, length: int) -> None:
        if hasattr(os, "memfd_create"):
            self.fd = os.memfd_create("muster-population")
        else:
            with tempfile.TemporaryFile() as file:
                self.fd = os.dup(file.fileno())
        weakref.finalize(self, os.close, self.fd)
        os.ftruncate(self.fd, length)
        self.length = length
        self.places: tuple[SharedArraySpec, ...] = ()
        self.memory = mmap.mmap(self.fd, length)


def share(source: Stored) -> Stored:
    """Return the same rows, copied once into shared memory."""
    arrays = [*source.train[:2], *(source.test[:2] if source.test is not None else ())]
    places: list[SharedArraySpec] = []
    length = 0
    for array in arrays:
        places.append(SharedArraySpec(-(-length // 64) * 64, array.dtype.str, array.shape))
        length = places[-1].end()
    segment = Segment(max(length, 1))
    segment.places = tuple(places)
    views = [place.of(segment.memory) for place in places]
    for view, array in zip(views, arrays, strict=True):
        view[...] = array
    test = source.test and Rows(views[2], views[3], source.test.starts, source.test.sizes)
    return Stored(Rows(views[0], views[1], *source.train[2:]), test, segment)


def described(clients: tuple[ClientId, ...], source: Source) -> Handle:
    """Return the handle of a lazy or shared source.

    Raises `DataError` when the rows are in private memory, or the loader cannot be pickled.
    """
    if isinstance(source, Lazy):
        try:
            return Handle(clients, lazy=pickle.dumps(source))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise DataError(
                f"the loader {source.load!r} cannot be pickled, a function at the top of a module "
                "is required to load clients in other processes; move it there"
            ) from error
    if not isinstance(source.segment, Segment):
        raise DataError(
            "the population lies in private memory, shared memory is required for a handle; "
            "call population.shared().handle()"
        )
    offsets = [*source.train[2:], *(source.test[2:] if source.test is not None else ())]
    segment = source.segment
    return Handle(clients, segment.fd, segment.length, segment.places, tuple(offsets))


def attached(handle: Handle) -> Source:
    """Return the source a handle names, with read-only views, in this process."""
    if handle.lazy is not None:
        source: Lazy = pickle.loads(handle.lazy)
        return source
    if handle.fd is None:
        raise DataError("the handle names neither file nor loader; take population.handle()")
    memory = mmap.mmap(handle.fd, handle.length, access=mmap.ACCESS_READ)
    views = [place.of(memory) for place in handle.places]
    train = Rows(views[0], views[1], *handle.offsets[:2])
    test = Rows(views[2], views[3], *handle.offsets[2:]) if len(views) > 2 else None
    return Stored(train, test)
