# SPDX-License-Identifier: Apache-2.0
"""Blobs that others fill, on a disk of which some is kept for what must never wait: a commit."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass

from muster.store.blobs import Blobs, NoRoom, update_round

__all__ = ["Reserved", "drop_all_halves", "drop_halves"]


@dataclass(frozen=True)
class Reserved:
    """The same blobs, which take nothing more once fewer than `kept` bytes of the disk are free.

    >>> import tempfile
    >>> from muster.store.blobs import Files
    >>> Reserved(Files(tempfile.mkdtemp()), 0).append("note", 0, b"ab")
    2
    """

    blobs: Blobs
    kept: int

    def size(self, name: str) -> int | None:
        """Return the bytes of a finished blob, or None."""
        return self.blobs.size(name)

    def held(self, name: str) -> int:
        """Return the bytes that are there of an unfinished blob."""
        return self.blobs.held(name)

    def append(self, name: str, offset: int, data: bytes | memoryview) -> int:
        """Add bytes at the end. Raises `NoRoom` where that would take what is kept."""
        if data and self.room() < len(data):
            raise NoRoom(
                f"the blob {name} could not be written: the last {self.kept} bytes of the disk "
                f"are kept for commits; make room, then try again"
            )
        return self.blobs.append(name, offset, data)

    def finish(self, name: str) -> None:
        """Make a blob durable under its name; idempotent."""
        self.blobs.finish(name)

    def drop(self, name: str) -> None:
        """Remove a blob, finished or not; idempotent."""
        self.blobs.drop(name)

    def erase(self, name: str) -> None:
        """Drop a blob, written over first where that is in a program's power."""
        self.blobs.erase(name)

    def read(self, name: str, begin: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Yield bytes `begin` to `end` in pieces."""
        return self.blobs.read(name, begin, end)

    def whole(self, name: str, *, known: bool = False) -> mmap.mmap | bytes | bytearray:
        """Return a finished blob, checked unless its digest is `known`."""
        return self.blobs.whole(name, known=known)

    def names(self, prefix: str) -> list[str]:
        """Return the sorted names that begin so, finished or not."""
        return self.blobs.names(prefix)

    def room(self) -> int:
        """Return the bytes that are free, beyond those that are kept."""
        return max(0, self.blobs.room() - self.kept)


def drop_all_halves(blobs: Blobs) -> None:
    """Leave one unfinished blob to each client and round, the longest: it is gone on with."""
    halves: dict[str, list[tuple[int, str]]] = {}
    for name in blobs.names(""):
        if update_round(name) is not None and blobs.size(name) is None:
            kept = halves.setdefault(name.rpartition("-")[0], [])
            kept.append((blobs.held(name), name))
    for found in halves.values():
        for _, name in sorted(found)[:-1]:
            blobs.drop(name)


def drop_halves(blobs: Blobs, keep: str) -> None:
    """Remove the unfinished blobs of the round and client of this one, which may stay.

    Whoever begins ever new bodies and ends none holds the room of one of them.
    """
    digest = len(keep.rpartition("-")[2])
    for name in blobs.names(keep[:-digest]):
        if name != keep and blobs.size(name) is None:
            blobs.drop(name)
