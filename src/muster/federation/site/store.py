# SPDX-License-Identifier: Apache-2.0
"""The vault: the folder of one client, with all that it must not lose.

The state says what counts; blobs lie beside it under names that end in their SHA-256. A blob is
on the disk before the state that names it, and is removed after the state that no longer does,
so a kill at any instant leaves the state before or the one after.

An update and both versions of the memory (the one it was trained with, and the one it left) stay
until the server has said whether it counts: then one version is the memory, and the other goes.

What a site must know for ever (what it trained, measured, masked and spent) is not here: a vault
may be lost. It is in the record of the study (see `site.study`), which a vault is bound to.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

from muster.errors import RunError
from muster.federation.protocol import codec_tensors
from muster.federation.protocol.message import TrainAssignment, UpdateHeader
from muster.federation.site.state import (
    Mark,
    PartialTraining,
    PendingUpdate,
    SealedSecrets,
    SiteState,
    destroyed,
)
from muster.ports import DISK, Disk
from muster.store.blobs import Files, NoRoom, model_name, said, update_name
from muster.types import ClientId, Tree

__all__ = ["LABELS", "SiteStore", "TrainingResult"]

LABELS = (
    "site: before assignment is begun",
    "site: assignment is begun",
    "site: after download",
    "site: in step",
    "site: in checkpoint",
    "site: after checkpoint",
    "site: before update kept",
    "site: in update kept",
    "site: after update kept",
    "site: before upload",
    "site: in upload",
    "site: after upload",
    "site: in settle",
    "site: after settle",
)
KEPT = {"model": 2, "frozen": 1}  # of the newest that are kept of each kind
DISK = DISK


@dataclass(frozen=True)
class TrainingResult:
    """The outcome of training: an update tree, its weight and metric sums, and the new memory.

    `spoiled`: the update was not finite, and zeros are sent in its place.
    """

    update: Tree
    weight: float
    metrics: dict[str, float] = field(default_factory=dict)
    memory: Tree = None
    spoiled: bool = False


class SiteStore:
    """One client's folder, open in one process; `at(label)` is called at each of `LABELS`.

    Raises `RunError` for a folder that is in use or damaged, and `NoRoom` when the disk is full:
    what was kept before is then as it was.

    >>> import tempfile
    >>> vault = SiteStore(tempfile.mkdtemp())
    >>> vault.pending, vault.close()
    (None, None)
    """

    def __init__(
        self, folder: str | Path, *, disk: Disk = DISK, at: Callable[[str], None] | None = None
    ) -> None:
        self.folder, self.at = Path(folder), at or _nothing
        self._state = SiteState(self.folder, disk)
        try:
            self.blobs = Files(self.folder, disk)
            self.models = Files(self.folder, replace(disk, sync=int))  # checked at every use
            self._sweep()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the folder; idempotent."""
        self._state.close()

    # Whose vault it is.

    def bind(self, mark: Callable[[], Mark]) -> None:
        """Go with the record of a study, whose mark is kept from now on with every change.

        Raises `RunError` when that is another record than before, or an older copy of it.
        """
        name, record, position = mark()
        before = self._state["study"]
        if before is not None and before[0] != name and self._state.named:
            raise RunError(
                f"{self.folder} keeps what belongs to the study {before[0]!r}, and the site's "
                f"policy names the study {name!r}; give another folder"
            )
        if before is not None and before[0] == name and before[1] != record:
            raise RunError(
                f"{self.folder} goes with another record of the study {name!r}, which is gone, and "
                f"with it what was spent; restore its folder, or begin another study"
            )
        if before is not None and before[1] == record and before[2] > position:
            raise RunError(
                f"the record of the study {name!r} was put back to an older copy: it was written "
                f"{position} times, and {self.folder} has seen {before[2]}; restore the newer one, "
                f"or begin another study"
            )
        self._state.mark = mark
        if before is None or before[1] != record:
            self._state.write()

    def enter(self, run: str, client: ClientId) -> None:
        """Belong to a run as one of its clients.

        Raises `RunError` when what is kept is of another run or client.
        """
        held = (self._state["run"], self._state["client"])
        if held == (run, client):
            return
        if held[0] and self._state.named:
            raise RunError(
                f"{self.folder} keeps what client {held[1]!r} has of the run {held[0]}, and the "
                f"server speaks of client {client!r} of the run {run}; give another folder"
            )
        destroyed(self.blobs, self.folder, self.blobs.names("noise-"))  # secrets of another run
        self._state.write(run=run, client=client, settled=None)

    @property
    def run(self) -> str:
        """The run that it belongs to; empty before the first."""
        return str(self._state["run"])

    # What counts.

    @property
    def settled(self) -> int:
        """The last round whose fate was heard."""
        return self.fate[0] if self.fate else 0

    @property
    def fate(self) -> tuple[int, int, bool] | None:
        """That round, its attempt, and whether the update was accepted."""
        found = self._state["settled"]
        return found and (int(found[0]), int(found[1]), bool(found[2]))

    @property
    def pending(self) -> PendingUpdate | None:
        """The update whose fate is open."""
        return self._state.pending

    def memory(self, template: Tree, *, left: bool = False) -> Tree:
        """Return the memory that counts, or (`left`) the one that the pending update left.

        None for one that has never taken part.
        """
        pending = self.pending
        name = pending.memory if left and pending else self._state["memory"]
        return None if name is None else self._tree(name, template)

    def body(self, pending: PendingUpdate) -> mmap:
        """Return the bytes of the pending update, as on the disk; the server checks them."""
        with said(f"{self.folder / pending.blob} could not be read"):
            file = os.open(self.folder / pending.blob, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return mmap(file, 0, access=ACCESS_READ)
            finally:
                os.close(file)

    def sound(self, pending: PendingUpdate) -> bool:
        """Return whether the pending update is on the disk as it was kept."""
        try:
            self.blobs.whole(pending.blob)
        except NoRoom:
            raise  # it may be sound: there is nothing to look with
        except RunError:
            return False
        return True

    def keep(self, task: TrainAssignment, made: TrainingResult) -> PendingUpdate:
        """Put an update and the memory it left on the disk; when this returns, they are safe.

        Raises `Refused` for what cannot travel.
        """
        self.at("site: before update kept")
        digest = codec_tensors.digest(codec_tensors.encode(made.update))
        blob = update_name(task.round, self._state["client"], digest)
        size = self._put(blob, made.update)
        memory = None
        if made.memory is not None:
            memory = self._named(f"memory-{task.round:06d}", made.memory)
        self.at("site: in update kept")
        update = UpdateHeader(
            task.run, task.round, digest, size, made.weight, made.metrics, task.attempt
        )
        pending = PendingUpdate(task, update, blob, memory)
        self._state.write(pending=pending, step=None, over=False)
        self.at("site: after update kept")
        self._sweep()
        return pending

    def settle(self, round: int, accepted: bool) -> bool:
        """Settle the fate of the pending update; False when it is known already. Idempotent."""
        pending = self.pending
        if pending is None or pending.task.round != round:
            return False
        memory = pending.memory if accepted else None
        self.at("site: in settle")
        self._state.write(
            memory=memory or self._state["memory"],
            pending=None,
            settled=(round, pending.task.attempt, accepted),
        )
        self.at("site: after settle")
        self._sweep()
        return True

    def forget(self) -> None:
        """Give up the pending update: it is damaged, or the server has gone back before it."""
        self._state.write(pending=None, step=None)
        self._sweep()

    # The secrets of a secure sum; they last as long as its update is pending, at most.

    def sealed(self, task: TrainAssignment) -> SealedSecrets:
        """Return the store of the secrets of a task's secure sum."""
        return SealedSecrets(self.blobs, self.folder, task)

    def destroy(self) -> None:
        """Destroy the secrets of the pending update, whose secure sum is over for this site."""
        self._state.write(over=True)
        self._sweep()

    def erase(self) -> None:
        """Erase all secrets of secure sums, whatever can be written down of it."""
        destroyed(self.blobs, self.folder, self.blobs.names("secure-"))

    # Half-trained.

    @property
    def step(self) -> PartialTraining | None:
        """The step at which a training was broken off."""
        return self._state.step

    def checkpoint(self, task: TrainAssignment, steps: int, carry: Tree, loss: str) -> None:
        """Keep how far a training is."""
        blob = self._named(f"step-{task.round:06d}-{steps}", carry)
        self.at("site: in checkpoint")
        self._state.write(step=PartialTraining(task, steps, blob, loss))
        self.at("site: after checkpoint")
        self._sweep()

    def carry(self, step: PartialTraining, template: Tree) -> Tree:
        """Return the carry of a checkpoint. Raises `RunError` or `Refused` when it is damaged."""
        return self._tree(step.blob, template)

    # What was downloaded.

    def model(self, digest: str, kind: str = "model") -> Any:
        """Return a map of a model that is held whole; a damaged one is removed, to be fetched anew.

        `kind` is "frozen" for the part that nobody trains. None when it is not held.
        """
        name = model_name(digest, kind)
        if self.models.size(name) is None:
            return None
        try:
            found = self.models.whole(name, private=True)
        except NoRoom:
            raise
        except RunError:
            self.models.drop(name)
            return None
        with said(f"the vault {self.folder} could not be written"):
            os.utime(self.folder / name)
        return found

    def trim(self, kind: str = "model") -> None:
        """Remove all models, or frozen parts, but the newest."""
        with said(f"the vault {self.folder} could not be read"):
            found = [self.folder / f"{name}" for name in self.models.names(model_name("", kind))]
            whole = sorted((p for p in found if p.exists()), key=lambda p: p.stat().st_mtime_ns)
        for path in whole[: -KEPT[kind]]:
            self.models.drop(path.name)

    def _named(self, prefix: str, tree: Tree) -> str:
        name = f"{prefix}-{codec_tensors.digest(codec_tensors.encode(tree))}"
        self._put(name, tree)
        return name

    def _put(self, name: str, tree: Tree) -> int:
        self.blobs.drop(name)
        size = 0
        try:
            for piece in codec_tensors.encode(tree):
                size = self.blobs.append(name, size, piece)
            self.blobs.finish(name)
        except NoRoom:
            self.blobs.drop(name)
            raise
        return size

    def _tree(self, name: str, template: Tree) -> Tree:
        data = self.blobs.whole(name)
        if sha256(data).hexdigest() != name.rpartition("-")[2]:
            raise RunError(
                f"{self.folder / name} is damaged (its SHA-256 is another); restore it from a copy"
            )
        return codec_tensors.decode(data, template)

    def _sweep(self) -> None:
        """Remove blobs that the state does not name; models stay."""
        named = self._state.named
        for prefix in ("update-", "memory-", "step-"):
            for name in self.blobs.names(prefix):
                if name not in named:
                    self.blobs.drop(name)
        pending = self.pending
        live = pending.task.round if pending and not self._state["over"] else 0
        secrets = self.blobs.names("secure-")
        gone = [name for name in secrets if not name.startswith(f"secure-{live:06d}-")]
        destroyed(self.blobs, self.folder, gone)


def _nothing(label: str) -> None:
    """Do nothing at a kill point."""
