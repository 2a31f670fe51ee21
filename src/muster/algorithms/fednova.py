# SPDX-License-Identifier: Apache-2.0
"""FedNova: clients that take more steps do not pull harder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from muster.algorithms.algorithm import Algorithm, ModelState
from muster.errors import PlanError
from muster.optimizers import SGD, Optimizer
from muster.types import LocalWork, Scalar, State, Tree, Vector

__all__ = ["FedNova"]


class Normalised(NamedTuple):
    """A client's payload: (w − x)/a_k, and a_k itself."""

    delta: Vector
    norm: Scalar


@dataclass(frozen=True)
class FedNova(Algorithm):
    """x ← server step along (Σ p_k a_k) Σ p_k (w_k − x)/a_k (Wang et al. 2020, arXiv 2007.07481).

    a_k is the L1 norm of the client's step weights: K_k for SGD, more for momentum, which is not
    damped here. The client divides, so that the sum may be masked; the factor Σ p_k a_k is a
    second summed number.

    >>> FedNova().server
    SGD(rate=1.0)
    """

    server: Optimizer = SGD(1.0)
    payload: ClassVar[type[tuple[Any, ...]]] = Normalised

    def accept(self, local: Any, weighting: str) -> None:
        """Refuse a local optimizer without step weights (SGD and Momentum have them)."""
        if local.optimizer.weights(1) is None:
            raise PlanError(
                f"FedNova needs step weights, which {local.optimizer} has not; "
                f"use SGD or Momentum as the local optimizer"
            )

    def report(self, w: Vector, sent: Tree, memory: Tree, work: LocalWork) -> tuple[Tree, Tree]:
        """Send the normalised update and its norm."""
        return Normalised((w - sent.x) / work.norm, work.norm), memory

    def step(self, state: State, mean: Tree, share: float) -> State:
        """Take one server step along the mean direction, scaled by the mean number of steps."""
        x, s = self.server.step(state.shared.x, mean.norm * mean.delta, state.private)
        return State(ModelState(x), s)
