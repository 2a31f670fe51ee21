# SPDX-License-Identifier: Apache-2.0
"""Local training in pieces of a few steps, so that it can be watched, stopped and gone on with.

Slices of the same steps give the same bits, whatever their size. A task with its own training is
never cut: it shows no steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from threading import Event
from typing import Any

import numpy as np

from muster.errors import RunError
from muster.federation.protocol.message import TrainAssignment
from muster.federation.site.store import SiteStore
from muster.local import Carry, Descent, Given
from muster.mapped import own
from muster.security.refusal import Refused
from muster.store.blobs import NoRoom
from muster.types import Tree
from muster.vectors import tree_map

__all__ = ["CheckpointedRun", "Effort", "TrainingStopped"]

MOST = 64  # steps of a piece
QUICK, SLOW = 0.5, 4.0  # seconds of a piece, below which the next is longer, above which shorter


class TrainingStopped(Exception):
    """The training was broken off, as was asked; what was done is kept."""


@dataclass
class Effort:
    """The effort of a training while it runs, as it shows it, and the request to break it off."""

    total: int = 0  # steps; 0 where nothing is known of any
    steps: int = 0
    stop: Event = field(default_factory=Event)


@dataclass
class CheckpointedRun:
    """All steps of one training, in place of `task.run`; see `muster.local.train`.

    A checkpoint is written when `every` seconds have gone by since the last.
    """

    task: TrainAssignment
    site_store: SiteStore
    effort: Effort
    every: float = 60.0
    clock: Callable[[], float] = time.monotonic
    told: Callable[[str], Any] = str.strip

    def __call__(self, descent: Descent, given: Given, carry: Carry, batches: Any) -> Carry:
        """Walk. Raises `TrainingStopped` when the effort is to stop."""
        task, total = descent.task, len(batches)
        if task.traits.whole:
            return task.run(descent, given, carry, batches)  # type: ignore[no-any-return]
        batches = replace(batches, x=_cast(batches.x, task.layout.dtype))
        done, carry = self._resumed(task, carry)
        self.effort.total, self.effort.steps = total, done
        size, kept = task.traits.piece, self.clock()
        while done < total:
            begin = self.clock()
            carry = task.run(descent, given, carry, batches.steps(done, done + size))
            done = min(done + size, total)
            self.effort.steps, now = done, self.clock()
            self.site_store.at("site: in step")
            stop = self.effort.stop.is_set()
            if done < total and (stop or now - kept >= self.every):
                self._keep(task, done, carry)
                kept = self.clock()
            if stop and done < total:
                raise TrainingStopped
            size = _size(size, now - begin)
        return carry

    def _resumed(self, task: Any, carry: Carry) -> tuple[int, Carry]:
        """Return the steps that a checkpoint of this very task has, and where they led."""
        step = self.site_store.step
        if step is None or replace(step.task, lease=0) != replace(self.task, lease=0):
            return 0, carry
        template = _bare(task.numpy(carry), np.dtype(step.loss))
        try:
            found = tree_map(own, self.site_store.carry(step, template))
        except NoRoom:
            raise
        except (RunError, Refused) as error:
            self.told(f"the checkpoint is no good, so training begins anew: {error}")
            return 0, carry
        return step.steps, task.arrays(found)._replace(memory=carry.memory)

    def _keep(self, task: Any, done: int, carry: Carry) -> None:
        found = task.numpy(carry)
        loss = np.asarray(found.loss).dtype
        try:
            self.site_store.checkpoint(self.task, done, _bare(found, loss), str(loss))
        except NoRoom as error:
            self.told(f"no checkpoint was written, and training goes on: {error}")


def _bare(carry: Carry, loss: Any) -> Tree:
    """Return a carry as a checkpoint holds it: all but the memory, which no step changes."""
    return carry._replace(memory=None, loss=np.asarray(carry.loss, loss))


def _size(size: int, seconds: float) -> int:
    if seconds < QUICK:
        return min(MOST, 2 * size)
    return max(1, size // 2) if seconds > SLOW else size


def _cast(x: Any, dtype: str) -> Any:
    """Cast real features to the task's precision, once and not in every piece."""
    x = np.asarray(x)
    return x.astype(dtype, copy=False) if x.dtype.kind == "f" else x
