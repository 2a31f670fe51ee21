# SPDX-License-Identifier: Apache-2.0
"""The state of a vault: a few facts in one file that is replaced as a whole, and the lock.

Beside them, while a secure sum lasts, its secrets: sealed under a key that has a file of its own,
so that to destroy that one file is to destroy all of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muster.errors import RunError
from muster.extras import require
from muster.federation.protocol.message import (
    Message,
    TrainAssignment,
    UpdateHeader,
    from_json,
    to_json,
)
from muster.locks import flock
from muster.ports import Disk
from muster.store.blobs import Files, said

if TYPE_CHECKING:
    from cryptography import exceptions
    from cryptography.hazmat.primitives.ciphers import aead
else:
    exceptions = require("cryptography.exceptions", extra="site")
    aead = require("cryptography.hazmat.primitives.ciphers.aead", extra="site")

__all__ = [
    "Mark",
    "PartialTraining",
    "PendingUpdate",
    "SealedSecrets",
    "SiteState",
    "destroyed",
    "locked",
]

FILE, KEY = "state.json", "key"
FRESH = f"{FILE}.new"
VERSION = 2
EMPTY: dict[str, Any] = {
    "version": VERSION,
    "run": "",
    "client": None,
    "memory": None,
    "pending": None,
    "step": None,
    "settled": None,
    "over": False,
    "study": None,
}
Mark = tuple[str, str, int]  # a study's name, which record of it, and how often it was written


@dataclass(frozen=True)
class PendingUpdate:
    """An update whose fate is open: the task it answers, and the blob of the memory it left."""

    task: TrainAssignment
    update: UpdateHeader
    blob: str
    memory: str | None


@dataclass(frozen=True)
class PartialTraining:
    """A half-trained client: the task, how many local steps are done, and the blob with the rest.

    `loss` is the dtype of the summed loss.
    """

    task: TrainAssignment
    steps: int
    blob: str
    loss: str


class SiteState:
    """The facts of one folder, which is locked against other processes.

    Raises `RunError` for a folder that is in use, damaged or newer.
    """

    def __init__(self, folder: Path, disk: Disk) -> None:
        self.folder, self._disk = folder, disk
        self.mark: Callable[[], Mark | None] = _unmarked
        self._lock = locked(folder, f"another process attends from {folder}")
        try:
            self._files = Files(folder, disk)
            self._facts = self._read()
            self._files.drop(FRESH)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the folder; idempotent."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def __getitem__(self, name: str) -> Any:
        return self._facts[name]

    @property
    def pending(self) -> PendingUpdate | None:
        """The update whose fate is open."""
        found = self["pending"]
        if found is None:
            return None
        task, update = (
            _message(found["task"], TrainAssignment),
            _message(found["update"], UpdateHeader),
        )
        return PendingUpdate(task, update, found["blob"], found["memory"])

    @property
    def step(self) -> PartialTraining | None:
        """The step at which a training was broken off."""
        found = self["step"]
        task = found and _message(found["task"], TrainAssignment)
        return found and PartialTraining(task, found["steps"], found["blob"], found["loss"])

    @property
    def named(self) -> set[str]:
        """The blobs that count."""
        pending, step = self["pending"] or {}, self["step"] or {}
        found = (self["memory"], pending.get("memory"), pending.get("blob"), step.get("blob"))
        return {name for name in found if name}

    def write(self, **changes: Any) -> None:
        """Replace facts: when this returns they are on the disk, and a kill leaves old or new.

        With them goes the mark of the study's record, unless there is none.
        """
        fresh = self._facts | {name: _plain(value) for name, value in changes.items()}
        fresh["study"] = self.mark() or fresh["study"]
        self._files.drop(FRESH)
        self._files.append(FRESH, 0, json.dumps(fresh).encode())
        part = self.folder / f"{FRESH}.part"
        with said(f"{self.folder / FILE} could not be written"):
            self._sync(part)
            self._disk.replace(part, self.folder / FILE)
            self._sync(self.folder)
        self._facts = fresh

    def _sync(self, path: Path) -> None:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._disk.sync(file)
        finally:
            os.close(file)

    def _read(self) -> dict[str, Any]:
        path = self.folder / FILE
        with said(f"{path} could not be read"):
            text = path.read_text("utf-8") if path.exists() else json.dumps(EMPTY)
        try:
            found = dict(json.loads(text))
            version = found["version"]
        except (ValueError, KeyError, TypeError):
            raise RunError(
                f"{path} is damaged; restore it from a copy, or give an empty folder"
            ) from None
        if version != VERSION or found.keys() != EMPTY.keys():
            spent = self.folder / "privacy.json"
            more = f", and move what was spent, {spent}, into the study's" if spent.exists() else ""
            raise RunError(
                f"{path} is of version {version!r}, but this muster knows {VERSION}; use the "
                f"muster that wrote it, or give an empty folder{more}"
            )
        return found


class SealedSecrets:
    """The secrets of one task's secure sum; its files begin with `secure-`, and the round.

    AES-256-GCM under a key that is drawn with the chest; run, round, attempt, model and name are
    bound to what is sealed. Raises `RunError` for what is damaged, or was sealed for another task.
    """

    def __init__(self, files: Files, folder: Path, task: TrainAssignment) -> None:
        self._files, self._folder = files, folder
        self._prefix = f"secure-{task.round:06d}-"
        self._place = json.dumps([task.run, task.round, task.attempt, task.model])
        self._key = self._prefix + KEY

    def read(self) -> dict[str, bytes]:
        """Return all that was kept, by name."""
        if self._files.size(self._key) is None:
            return {}
        return {name.removeprefix(self._prefix): self._opened(name) for name in self._names()}

    def __len__(self) -> int:
        return len(self._names())

    def __contains__(self, name: str) -> bool:
        return self._files.size(self._prefix + name) is not None

    def _names(self) -> list[str]:
        names = [n for n in self._files.names(self._prefix) if n != self._key]
        return [name for name in names if self._files.size(name) is not None]

    def keep(self, name: str, data: bytes) -> None:
        """Seal something; it is on the disk when this returns."""
        if self._files.size(self._key) is None:
            self._put(self._key, os.urandom(32))
        place, nonce = self._prefix + name, os.urandom(12)
        sealed = aead.AESGCM(self._secret()).encrypt(nonce, data, self._bound(place))
        self._put(place, nonce + sealed)

    def _secret(self) -> bytes:
        return bytes(self._files.whole(self._key))

    def _opened(self, name: str) -> bytes:
        sealed = bytes(self._files.whole(name))
        try:
            cipher = aead.AESGCM(self._secret())
            return cipher.decrypt(sealed[:12], sealed[12:], self._bound(name))
        except (exceptions.InvalidTag, ValueError):
            raise RunError(
                f"{self._folder / name} is damaged, or of another task; this round goes on "
                f"without this site"
            ) from None

    def _bound(self, name: str) -> bytes:
        return f"{self._place} {name}".encode()

    def _put(self, name: str, data: bytes) -> None:
        self._files.drop(name)
        self._files.append(name, 0, data)
        self._files.finish(name)


def destroyed(files: Files, folder: Path, names: Iterable[str]) -> None:
    """Remove secrets, the keys before what they open; a key is written over first."""
    for name in sorted(names, key=lambda name: not name.endswith(KEY)):
        if name.endswith(KEY) and files.size(name) is not None:
            with said(f"{folder / name} could not be destroyed"):
                file = os.open(folder / name, os.O_WRONLY | os.O_CLOEXEC)
                try:
                    os.pwrite(file, bytes(32), 0)
                    os.fsync(file)
                finally:
                    os.close(file)
        files.drop(name)


def _plain(value: Any) -> Any:
    if isinstance(value, Message):
        return json.loads(to_json(value))
    if isinstance(value, PendingUpdate | PartialTraining):
        return {name: _plain(part) for name, part in vars(value).items()}
    return value


def _message(value: Any, kind: type[Any]) -> Any:
    return from_json(json.dumps(value).encode(), kind)


def _unmarked() -> Mark | None:
    """Return None: no record of a study goes with these facts."""
    return None


def locked(folder: Path, taken: str) -> int:
    """Return the lock of a folder that its owner alone may read; `taken` says who holds it, if so.

    Raises `RunError` when another process holds it.
    """
    with said(f"the folder {folder} cannot be made"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        flock(lock, wait=False)
    except OSError:
        os.close(lock)
        raise RunError(f"{taken}; stop it, or give another folder") from None
    return lock
