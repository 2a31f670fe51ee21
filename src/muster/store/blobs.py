# SPDX-License-Identifier: Apache-2.0
"""Models and updates by name: they grow from their first byte on, are finished once, then read.

A blob that is not finished keeps what it holds, so that an upload goes on where it broke off. The
name ends in the SHA-256 of the whole; `whole` compares, so that a bit that fell over on the disk
is found before it is added to a sum.
"""

from __future__ import annotations

import json
import mmap
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import ENOSPC
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from muster.errors import NoRoom, RunError, short
from muster.locks import flock
from muster.ports import DISK, Disk
from muster.store.blob import erased
from muster.tree_codec import CHUNK
from muster.types import ClientId

__all__ = [
    "Blobs",
    "Files",
    "NoRoom",
    "misplaced",
    "model_name",
    "said",
    "sound",
    "update_name",
    "update_round",
]

PART = ".part"  # ends the file of a blob that is not finished
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
UPDATE = re.compile(r"(?:update|masked)-(\d{6,})-[0-9a-f]{16}-[0-9a-f]{64}")
NAMED = re.compile(r"(?:model|frozen|(?:update|masked)-\d{6,}-[0-9a-f]{16})-([0-9a-f]{64})")


class Blobs(Protocol):
    """A store of blobs; every method is thread-safe and raises `RunError` in a sentence.

    A finished blob takes nothing more: it is dropped before another of its name is begun.
    """

    def size(self, name: str) -> int | None:
        """Return the bytes of a finished blob, or None."""

    def held(self, name: str) -> int:
        """Return the bytes that are there of an unfinished blob; 0 for none, or a finished one."""

    def append(self, name: str, offset: int, data: bytes | memoryview) -> int:
        """Add bytes at the end, which must be at `offset`; the new end.

        Raises `NoRoom` when the disk is full, and then nothing is added.
        """

    def finish(self, name: str) -> None:
        """Make a blob durable under its name; idempotent."""

    def drop(self, name: str) -> None:
        """Remove a blob, finished or not; idempotent."""

    def erase(self, name: str) -> None:
        """Drop a blob, written over first where that is in a program's power."""

    def read(self, name: str, begin: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Yield bytes `begin` to `end`, at most 1 MiB each; of an unfinished blob, what it has."""

    def whole(self, name: str, *, known: bool = False) -> mmap.mmap | bytes | bytearray:
        """Return a finished blob, checked against the digest in its name unless that is `known`."""

    def names(self, prefix: str) -> list[str]:
        """Return the sorted names that begin so, finished or not."""

    def room(self) -> int:
        """Return the bytes that are free."""


def model_name(digest: str, kind: str = "model") -> str:
    """Return the blob of a model; `kind` is "frozen" for the part of it that nobody trains.

    >>> model_name("0" * 64)[:12]
    'model-000000'
    """
    return f"{kind}-{digest}"


def update_name(round: int, client: ClientId, digest: str, kind: str = "update") -> str:
    """Return the blob's name of a client's update to a round; `kind` is "masked" if hidden.

    >>> update_name(3, "a", "0" * 64)[:32]
    'update-000003-ac8d8342bbb2362d-0'
    """
    who = sha256(json.dumps(client).encode()).hexdigest()[:16]
    return f"{kind}-{round:06d}-{who}-{digest}"


def update_round(name: str) -> int | None:
    """Return the round of an update's blob; None for the name of anything else.

    >>> update_round(update_name(3, "a", "0" * 64)), update_round("model-x")
    (3, None)
    """
    found = UPDATE.fullmatch(name)
    return int(found[1]) if found else None


def misplaced(name: str, offset: int, held: int) -> RunError:
    """Return the error of bytes that do not begin where a blob ends."""
    return RunError(
        f"bytes from {offset} on were given for the blob {name}, which holds {held}; go on from "
        f"{held}"
    )


def sound(name: str, data: Any, where: str) -> None:
    """Raise `RunError` when a whole blob is not what the digest in its name says."""
    found = NAMED.fullmatch(name)
    if found and sha256(data).hexdigest() != found[1]:
        raise RunError(
            f"the blob {name} in {where} is damaged (its SHA-256 is another); remove it and "
            f"have it sent again, or restore it from a copy"
        )


class Files:
    """Blobs as files of a folder, made if need be; an unfinished one ends in `.part`.

    >>> import tempfile
    >>> blobs = Files(tempfile.mkdtemp())
    >>> blobs.append("note", 0, b"ab"), blobs.append("note", 2, b"c"), blobs.finish("note")
    (2, 3, None)
    >>> blobs.size("note"), bytes(blobs.whole("note"))
    (3, b'abc')
    """

    def __init__(self, folder: str | Path, disk: Disk = DISK) -> None:
        self.folder, self._disk = Path(folder), disk
        with said(f"the folder {folder} cannot be made"):
            if not self.folder.exists():
                self.folder.mkdir(parents=True, exist_ok=True)
                self._sync(self.folder.parent)

    def size(self, name: str) -> int | None:
        """Return the bytes of a finished blob, or None."""
        return _size(self._path(name))

    def held(self, name: str) -> int:
        """Return the bytes that are there of an unfinished blob."""
        return 0 if self.size(name) is not None else _size(self._part(name)) or 0

    def append(self, name: str, offset: int, data: bytes | memoryview) -> int:
        """Add bytes at the end, which must be at `offset`; the new end."""
        whole = self.size(name)
        if whole is not None:
            raise misplaced(name, offset, whole)
        with (
            said(f"the blob {name} could not be written"),
            _opened(self._part(name), os.O_RDWR | os.O_CREAT) as file,
        ):
            flock(file)  # two connections may send one blob
            end = os.fstat(file).st_size
            if end != offset:
                raise misplaced(name, offset, end)
            try:
                return self._put(file, memoryview(data), offset)
            except BaseException:
                with suppress(OSError):
                    os.ftruncate(file, offset)
                raise

    def finish(self, name: str) -> None:
        """Make a blob durable under its name; idempotent."""
        path, part = self._path(name), self._part(name)
        with said(f"the blob {name} could not be finished"):
            if not path.exists():
                with _opened(part, os.O_RDWR) as file, _gone_unless_synced(part):
                    self._disk.sync(file)
                self._disk.replace(part, path)
            self._sync(self.folder)

    def drop(self, name: str) -> None:
        """Remove a blob, finished or not; idempotent."""
        with said(f"the blob {name} could not be removed"):
            self._part(name).unlink(missing_ok=True)
            self._path(name).unlink(missing_ok=True)

    def erase(self, name: str) -> None:
        """Remove a blob, its bytes written over; idempotent."""
        with said(f"the blob {name} could not be erased"):
            erased(self._part(name))
            erased(self._path(name))

    def read(self, name: str, begin: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Yield bytes `begin` to `end` in pieces of at most 1 MiB."""
        path = self._path(name) if self.size(name) is not None else self._part(name)
        with (
            said(f"the blob {name} could not be read"),
            _opened(path, os.O_RDONLY) as file,
        ):
            stop = os.fstat(file).st_size if end is None else end
            while begin < stop:
                piece = os.pread(file, min(CHUNK, stop - begin), begin)
                if not piece:
                    return
                begin += len(piece)
                yield piece

    def whole(self, name: str, *, known: bool = False, private: bool = False) -> mmap.mmap | bytes:
        """Return a finished blob as a map of its file, checked unless its digest is `known`.

        What is written to a `private` one is seen by nobody else, and is not kept.
        """
        with (
            said(f"the blob {name} could not be read"),
            _opened(self._path(name), os.O_RDONLY) as file,
        ):
            size = os.fstat(file).st_size
            access = mmap.ACCESS_COPY if private else mmap.ACCESS_READ
            data = mmap.mmap(file, 0, access=access) if size else b""
        if not known:
            sound(name, data, str(self.folder))
        return data

    def names(self, prefix: str) -> list[str]:
        """Return the sorted names that begin so, finished or not."""
        with said(f"the folder {self.folder} could not be read"):
            found = {path.removesuffix(PART) for path in os.listdir(self.folder)}
        return sorted(n for n in found if n.startswith(prefix) and NAME.fullmatch(n))

    def room(self) -> int:
        """Return the bytes that are free to this process."""
        with said(f"the room in {self.folder} could not be found"):
            found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def _sync(self, folder: Path) -> None:
        with _opened(folder, os.O_RDONLY) as file:
            self._disk.sync(file)

    def _put(self, file: int, data: memoryview, at: int) -> int:
        while data:
            done = self._disk.write(file, data, at)
            if done <= 0:
                raise OSError(ENOSPC, f"wrote {done} of {len(data)} bytes")
            data, at = data[done:], at + done
        return at

    def _path(self, name: str) -> Path:
        if not NAME.fullmatch(name) or name.endswith(PART):
            raise RunError(f"{name!r:.80} names no blob; use letters, digits, '.', '_' and '-'")
        return self.folder / name

    def _part(self, name: str) -> Path:
        return self.folder / f"{self._path(name).name}{PART}"


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    file = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        yield file
    finally:
        os.close(file)


@contextmanager
def _gone_unless_synced(part: Path) -> Iterator[None]:
    """Remove the file after a failed sync: a second may succeed though bytes are lost."""
    try:
        yield
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def said(what: str) -> Iterator[None]:
    """Turn what the disk refuses into a sentence."""
    try:
        yield
    except OSError as error:
        if short(error):
            raise NoRoom(f"{what} ({error.strerror}); make room, then try again") from error
        raise RunError(f"{what} ({error}); repair the disk, then try again") from error


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
