# SPDX-License-Identifier: Apache-2.0
"""SCAFFOLD: correct each client's drift with control variates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from muster.algorithms.algorithm import Algorithm
from muster.errors import PlanError
from muster.optimizers import SGD, Optimizer
from muster.types import LocalWork, State, Tree, Vector
from muster.vectors import zeros

__all__ = ["Scaffold"]


class Controlled(NamedTuple):
    """The broadcast: the model x and the server's control c."""

    x: Vector
    c: Vector


class Change(NamedTuple):
    """A client's payload: w − x and c_k' − c_k."""

    delta: Vector
    control: Vector


@dataclass(frozen=True)
class Scaffold(Algorithm):
    """Karimireddy et al. 2020 (arXiv 1910.06378), Algorithm 1 with option II.

    Deviation: the control is averaged with the weights of the model (the paper has equal ones),
    c += share · mean(c_k' − c_k), so that c = Σ p_k c_k holds under n_k weights too; and K·eta
    is the sum of the local rates really used.

    >>> Scaffold().server
    SGD(rate=1.0)
    """

    server: Optimizer = SGD(1.0)
    payload: ClassVar[type[tuple[Any, ...]]] = Change

    def accept(self, local: Any, weighting: str) -> None:
        """Refuse all but plain SGD, which alone lets Option II read the mean gradient off w − x."""
        if not isinstance(local.optimizer, SGD):
            raise PlanError(
                f"Scaffold needs plain local SGD, but was given {local.optimizer}; "
                f"use Local(optimizer=SGD(...)), and momentum on the server if wanted"
            )

    def init(self, x: Vector) -> State:
        """Return the model and a zero control; the server optimizer's state."""
        return State(Controlled(x, zeros(x)), self.server.init(x))

    def memory(self, x: Vector) -> Tree:
        """Return the client's control c_k = 0."""
        return zeros(x)

    def correct(self, g: Vector, w: Vector, sent: Tree, memory: Tree) -> Vector:
        """Return the gradient bent to g − c_k + c."""
        return g - memory + sent.c

    def report(self, w: Vector, sent: Tree, memory: Tree, work: LocalWork) -> tuple[Tree, Tree]:
        """Return both differences; c_k' = c_k − c + (x − w)/Σ rates."""
        control = memory - sent.c + (sent.x - w) / work.rates
        return Change(w - sent.x, control - memory), control

    def step(self, state: State, mean: Tree, share: float) -> State:
        """Move x along the mean update, c by the population's share of the mean change."""
        x, s = self.server.step(state.shared.x, mean.delta, state.private)
        return State(Controlled(x, state.shared.c + share * mean.control), s)
