# SPDX-License-Identifier: Apache-2.0
"""FedDyn: dynamic regularisation that aligns the clients' optima with the global one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from muster.algorithms.algorithm import Algorithm, ModelState, Update
from muster.errors import PlanError
from muster.optimizers import SGD, Optimizer
from muster.types import LocalWork, State, Tree, Vector
from muster.vectors import zeros

__all__ = ["FedDyn"]


class Kept(NamedTuple):
    """The server's own part of the state: h, and its optimizer's state."""

    h: Vector
    optimizer: Tree


@dataclass(frozen=True)
class FedDyn(Algorithm):
    """Acar et al. 2021 (arXiv 2111.04263), Algorithm 1, with equal weights.

    Client: g − h_k + alpha (w − x), then h_k −= alpha (w_k − x). Server: h −= alpha·share·mean,
    x ← mean(w_k) − h/alpha. The paper minimises exactly; here the client takes its local steps.

    >>> FedDyn(alpha=0.1).alpha
    0.1
    """

    alpha: float = 0.1
    server: Optimizer = SGD(1.0)

    def __post_init__(self) -> None:
        if not 0 < self.alpha < float("inf"):
            raise PlanError(
                f"FedDyn(alpha={self.alpha!r}): alpha must be finite and above 0, such as 0.1"
            )

    def accept(self, local: Any, weighting: str) -> None:
        """Refuse all but equal weights, for which the method is stated."""
        if weighting != "equal":
            raise PlanError(
                f"FedDyn needs equal weights, but weighting={weighting!r}; "
                f"use Plan(weighting='equal')"
            )

    def init(self, x: Vector) -> State:
        """Return the model; h = 0 and the server optimizer's state stay on the server."""
        return State(ModelState(x), Kept(zeros(x), self.server.init(x)))

    def memory(self, x: Vector) -> Tree:
        """Return the client's h_k = 0."""
        return zeros(x)

    def correct(self, g: Vector, w: Vector, sent: Tree, memory: Tree) -> Vector:
        """Return the gradient bent to g − h_k + alpha (w − x)."""
        return g - memory + self.alpha * (w - sent.x)

    def report(self, w: Vector, sent: Tree, memory: Tree, work: LocalWork) -> tuple[Tree, Tree]:
        """Send w − x; h_k moves against it."""
        delta = w - sent.x
        return Update(delta), memory - self.alpha * delta

    def step(self, state: State, mean: Tree, share: float) -> State:
        """Move h by −alpha·share·mean, and x along mean − h/alpha."""
        h = state.private.h - self.alpha * share * mean.delta
        direction = mean.delta - h / self.alpha
        x, s = self.server.step(state.shared.x, direction, state.private.optimizer)
        return State(ModelState(x), Kept(h, s))
