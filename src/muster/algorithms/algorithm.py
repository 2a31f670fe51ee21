# SPDX-License-Identifier: Apache-2.0
"""An algorithm: a frozen dataclass of hyper-parameters with six pure hooks.

Symbols are the papers': x the global vector, w a local one, g a gradient, `sent` the shared
state that was broadcast, `memory` what a client keeps between rounds. All of them are flat
vectors `(d,)`, or `(clients, d)` when a cohort runs as one matrix; the hooks use operators
only, so one text serves NumPy, torch and JAX, simulated or deployed.

    init(x)                            the server's state: shared (broadcast) and private
    memory(x)                          what a client keeps between rounds; None for most
    correct(g, w, sent, memory)        bend one local gradient
    report(w, sent, memory, work)      what a client sends, and its new memory
    step(state, mean, share)           the server's step on the weighted mean of the payloads
    accept(local, weighting)           refuse at plan time what the method does not allow
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

from muster.optimizers import Optimizer
from muster.spelling import Spelled
from muster.types import LocalWork, State, Tree, Vector

__all__ = ["Algorithm", "ModelState", "Update"]


class ModelState(NamedTuple):
    """The shared state of most algorithms: the global vector."""

    x: Vector


class Update(NamedTuple):
    """The payload of most algorithms: w − x."""

    delta: Vector


class Algorithm(Spelled):
    """The hooks. Their defaults are plain averaging, so an algorithm says only what differs."""

    server: Optimizer
    payload: ClassVar[type[tuple[Any, ...]]] = Update

    def accept(self, local: Any, weighting: str) -> None:
        """Raise `PlanError`, with the remedy, for local training the method does not allow."""

    def init(self, x: Vector) -> State:
        """Return the state before the first round; `state.shared.x` is the global vector."""
        return State(ModelState(x), self.server.init(x))

    def memory(self, x: Vector) -> Tree:
        """Return the memory of a client that never took part."""
        return None

    def correct(self, g: Vector, w: Vector, sent: Tree, memory: Tree) -> Vector:
        """Return the gradient that local training follows."""
        return g

    def report(self, w: Vector, sent: Tree, memory: Tree, work: LocalWork) -> tuple[Tree, Tree]:
        """Return the payload to send, and the memory that counts once the reply is accepted."""
        return Update(w - sent.x), memory

    def step(self, state: State, mean: Tree, share: float) -> State:
        """Return the next state from the mean payload.

        `share` is accepted over population weight.
        """
        x, s = self.server.step(state.shared.x, mean.delta, state.private)
        return State(ModelState(x), s)

    @property
    def modifies_gradient(self) -> bool:
        """Return whether `correct` changes gradients (if not, they need no own buffer)."""
        return type(self).correct is not Algorithm.correct

    @property
    def plain_delta(self) -> bool:
        """Return whether clients report w − x and nothing else."""
        return type(self).report is Algorithm.report

    @property
    def remembers(self) -> bool:
        """Return whether clients keep memory between rounds."""
        return type(self).memory is not Algorithm.memory
