# SPDX-License-Identifier: Apache-2.0
"""The audit log as its owner writes it: append-only, on the disk before anybody goes on.

How a line is made and how a log is checked stands in `chain.py`; nothing that could be a row of
somebody's data is ever let into a line.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from muster.errors import AuditError, LogFull, short
from muster.locks import flock
from muster.ports import DISK, Disk
from muster.security import chain
from muster.security.chain import LONGEST, Anchor, Verified, entries, verify

__all__ = [
    "Anchor",
    "AuditLog",
    "LONGEST",
    "Verified",
    "entries",
    "redacted",
    "verify",
]

TEXT = 2000  # bytes of a string in the details
NAME = 256  # characters of an actor, an action or a field
ITEMS, DEPTH, WHOLE = 10_000, 4, 1 << 63
START = b'{"sequence":0,"time":"'


class AuditLog:
    """A log open for writing, by one process at a time; `purpose` and `id` say what it is of.

    A last line that a crash tore is moved to `FILE.torn`, and an entry says so. Raises
    `AuditError` for a log that is in use, of something else, or altered at either end; the whole
    of it is for `verify` to read.

    >>> import tempfile
    >>> log = AuditLog(tempfile.mkdtemp() + "/audit.jsonl", lambda: 0.0, purpose="server", id="r1")
    >>> log.append("operator", "pause", round=3).sequence
    1
    >>> log.close(), verify(log.path).entries
    (None, 2)
    """

    def __init__(
        self,
        path: str | Path,
        clock: Callable[[], float] = time.time,
        *,
        purpose: str,
        id: str,
        disk: Disk = DISK,
    ) -> None:
        self.path = Path(path)
        self._clock, self._disk = clock, disk
        self._gate = threading.Lock()
        self._broken = ""
        self._end, self._next, self._head = 0, 0, chain.root(purpose, id)
        self._file = _locked(self.path)
        try:
            self._begin(purpose, id)
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> AuditLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def anchor(self) -> Anchor:
        """The last entry's place, for `verify(path, expect=...)` on another day."""
        return Anchor(self._next - 1, self._head)

    def append(self, actor: str, action: str, /, **details: Any) -> Anchor:
        """Add an entry; when this returns, it is on the disk. Raises `AuditError` if it is not."""
        for name in (actor, action):
            if not (isinstance(name, str) and name.isprintable() and 0 < len(name) <= NAME):
                raise AuditError(
                    f"an entry by {name!r:.80} cannot be kept; actor and action are printable "
                    f"text of 1 to {NAME} characters"
                )
        plain = redacted(details)
        with self._gate:
            if self._broken:
                raise AuditError(f"the audit log {self.path} {self._broken}; open it again")
            self._put([(actor, action, plain)])
            return self.anchor

    def close(self) -> None:
        """Let go of the file; idempotent."""
        with self._gate:
            if self._broken != "is closed":
                self._broken = "is closed"
                os.close(self._file)

    def _begin(self, purpose: str, id: str) -> None:
        size = os.fstat(self._file).st_size
        begin = max(0, size - 3 * LONGEST)
        last, torn = _cut(os.pread(self._file, size - begin, begin))
        first = os.pread(self._file, LONGEST, 0).partition(b"\n")[0] + b"\n"
        if last:
            chain.genesis(self.path, chain.parsed(self.path, 1, first), (purpose, id))
            entry = chain.parsed(self.path, 0, last)
            self._next, self._head = entry["sequence"] + 1, sha256(last).hexdigest()
        elif begin or not (START.startswith(torn[: len(START)]) or not torn.strip(b"\0")):
            raise AuditError(f"{self.path} is not an audit log; name another file for the log")
        self._end = size - len(torn)
        opening: list[tuple[str, str, dict[str, Any]]] = []
        if not last:
            opening.append(("muster", "genesis", {"purpose": purpose, "id": id}))
        if torn:
            self._set_aside(torn)
            facts = {"bytes": len(torn), "sha256": sha256(torn).hexdigest()}
            opening.append(("muster", "torn", facts | {"file": f"{self.path.name}.torn"}))
        if opening:
            self._put(opening)

    def _set_aside(self, torn: bytes) -> None:
        place = self.path.with_name(f"{self.path.name}.torn")
        file = -1
        try:
            file = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._write(file, torn + b"\n", os.fstat(file).st_size)
            self._disk.sync(file)
            _sync_folder(place)
        except OSError as error:
            kind = LogFull if short(error) else AuditError
            raise kind(f"the torn end of {self.path} could not be kept: {error}") from error
        finally:
            if file >= 0:
                os.close(file)

    def _put(self, added: list[tuple[str, str, dict[str, Any]]]) -> None:
        """Write entries at the end, over whatever is there, and wait for the disk."""
        data, head = b"", self._head
        for number, (actor, action, details) in enumerate(added, self._next):
            stamp = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")
            line = chain.written((number, stamp, actor, action, details, head))
            if len(line) > LONGEST:
                raise AuditError(
                    f"an entry {action!r} of {len(line)} bytes cannot be kept; a line has at most "
                    f"{LONGEST}: write a count or a digest instead"
                )
            data, head = data + line, sha256(line).hexdigest()
        whole = False
        try:
            self._write(self._file, data, self._end)
            if os.fstat(self._file).st_size > self._end + len(data):  # a tear, now overwritten
                self._disk.truncate(self._file, self._end + len(data))
            whole = True
            self._disk.sync(self._file)
        except BaseException as error:
            self._retreat(whole)
            if not isinstance(error, OSError):
                raise
            kind = LogFull if short(error) and not self._broken else AuditError
            raise kind(f"an entry of {self.path} is not on the disk: {error}") from error
        self._end, self._next, self._head = self._end + len(data), self._next + len(added), head

    def _write(self, file: int, data: bytes, at: int) -> None:
        while data:
            done = self._disk.write(file, data, at)
            if done <= 0:
                raise OSError(f"wrote {done} of {len(data)} bytes")
            data, at = data[done:], at + done

    def _retreat(self, whole: bool) -> None:
        """Take a half-written entry back; after a failed sync nobody knows, so nothing goes on."""
        self._broken = "has an entry of unknown fate"
        if not whole:
            with suppress(OSError):
                self._disk.truncate(self._file, self._end)
                self._broken = ""


def redacted(details: Mapping[str, Any]) -> dict[str, Any]:
    """Return the details as plain JSON. Raises `AuditError` for what could hold a training row.

    Text up to 2 kB, whole numbers, finite numbers, booleans, None, and short nests of them; no
    bytes, no arrays, no list of fractions.

    >>> redacted({"round": 3, "clients": ("a", "b")})
    {'round': 3, 'clients': ['a', 'b']}
    """
    plain = _plain(details, "details", 0)
    return dict(plain)


def _cut(end: bytes) -> tuple[bytes, bytes]:
    """Cut the last whole line from what is torn behind it; a power cut may leave zeros there."""
    stop = end.rfind(b"\n") + 1
    while stop:
        start = end.rfind(b"\n", 0, stop - 1) + 1
        if b"\0" not in end[start:stop]:
            return end[start:stop], end[stop:]
        stop = start
    return b"", end


def _locked(path: Path) -> int:
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        kind = LogFull if short(error) else AuditError
        raise kind(f"the audit log {path} cannot be opened: {error.strerror}") from error
    try:
        flock(file, wait=False)
        _sync_folder(path)
    except OSError as error:
        os.close(file)
        if short(error):
            raise LogFull(f"the audit log {path} cannot be kept: {error}") from error
        held = isinstance(error, BlockingIOError)
        why = "is in use by another process; stop that one" if held else f"cannot be kept: {error}"
        raise AuditError(f"the audit log {path} {why}") from error
    return file


def _sync_folder(path: Path) -> None:
    folder = os.open(path.resolve().parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _plain(value: Any, name: str, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str) and len(value.encode("utf-8", "surrogatepass")) <= TEXT:
        return str(value)
    if isinstance(value, int) and -WHOLE <= value < WHOLE:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, Mapping | list | tuple) and depth < DEPTH and len(value) <= ITEMS:
        if not isinstance(value, Mapping):
            if not any(isinstance(part, float) for part in value):
                return [_plain(part, f"{name}[{i}]", depth + 1) for i, part in enumerate(value)]
        elif all(isinstance(key, str) and len(key) <= NAME for key in value):
            return {str(key): _plain(p, f"{name}.{key}", depth + 1) for key, p in value.items()}
    raise AuditError(
        f"{name} is a {type(value).__name__} that an audit log may not hold; give text up to "
        f"{TEXT} bytes, finite numbers, or small nests of them without lists of fractions"
    )
