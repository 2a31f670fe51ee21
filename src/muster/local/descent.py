# SPDX-License-Identifier: Apache-2.0
"""One pass of local training as a value: gradient → correct → descend, step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

from muster.algorithms.algorithm import Algorithm
from muster.layout import Sharing
from muster.optimizers import Optimizer
from muster.privacy.per_example import PerExample
from muster.types import Batch, Fusing, GradientsByRow, Task, Tree
from muster.vectors import zeros

__all__ = ["Carry", "Descent", "Given", "Walk"]


class Given(NamedTuple):
    """The givens of a whole pass: the algorithm's shared state, the local rate, the round."""

    shared: Tree
    rate: Any
    round: Any


class Carry(NamedTuple):
    """The carry of a local step; a leading axis of clients when they train as a matrix."""

    w: Any
    buffers: Any
    optimizer: Tree
    memory: Tree
    loss: Any


@dataclass(frozen=True)
class Descent:
    """One pass of local training as a value: which gradients, bent by whom, over which mask.

    `trained` masks the coordinates that move in this pass (None: all); `fused` updates in place
    through `task.descend`, where nothing bends gradients; `examples` keeps single rows private.
    """

    task: Task
    algorithm: Algorithm
    optimizer: Optimizer
    sharing: Sharing
    fused: bool = False
    trained: Sharing | None = None
    examples: PerExample | None = None

    def walk(self, given: Given, carry: Carry, batches: Any) -> Carry:
        """Walk all steps of the pass."""
        end: Carry = self.task.loop(partial(self.step, given), carry, batches)
        return end

    def step(self, given: Given, carry: Carry, batch: Batch) -> Carry:
        """Take one local step."""
        shared, rate, _ = given
        w, buffers, s, memory, loss = carry
        if self.fused:
            task = cast("Fusing", self.task)
            return carry._replace(loss=loss + task.descend(w, buffers, batch, rate))
        if self.examples is None:
            g, now, buffers = self.task.gradient(w, buffers, batch)
        else:
            g, now = self._private(self.examples, w, buffers, batch)
        g = self._bend(g, w, shared, memory)
        w, s = self.optimizer.move(w, g, s, -rate)  # down the gradient
        return Carry(w, buffers, s, memory, loss + now)

    def _private(self, rule: PerExample, w: Any, buffers: Any, batch: Batch) -> tuple[Any, Any]:
        """Return a private gradient, and the mean loss of the rows that came.

        What bends it afterwards reads the shared state and the memory, which are made of private
        gradients alone, so nothing more is revealed.
        """
        task = cast("GradientsByRow", self.task)
        total, loss = task.clipped(w, buffers, batch, rule.clip)
        noise, expected = task.arrays(rule.noise(batch.private, task.layout))
        g = (total + noise) / expected
        if task.l2:
            g, loss = g + task.l2 * w, loss + task.l2 / 2 * (w * w).sum(-1)
        return g, loss

    def _bend(self, g: Any, w: Any, shared: Tree, memory: Tree) -> Any:
        if self.algorithm.modifies_gradient:
            take = self.sharing.take
            bent = self.algorithm.correct(take(g), take(w), shared, memory)
            if self.sharing.everything:
                g = bent
            else:
                g = self.sharing.merge(bent, take(g, shared=False), take(g, shared=None))
        if self.trained is not None:
            g = self.trained.merge(self.trained.take(g), zeros(self.trained.take(g, shared=False)))
        return g


Walk = Callable[[Descent, Given, Carry, Any], Carry]  # what `task.run` is: all steps over batches
