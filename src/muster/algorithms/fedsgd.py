# SPDX-License-Identifier: Apache-2.0
"""FedSGD: one full-batch gradient a round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from muster.algorithms.algorithm import Algorithm, Update
from muster.errors import PlanError
from muster.optimizers import SGD, Optimizer
from muster.types import LocalWork, Tree, Vector

__all__ = ["FedSGD"]


@dataclass(frozen=True)
class FedSGD(Algorithm):
    """x ← server step along −Σ p_k ∇F_k(x) (McMahan et al. 2017, arXiv 1602.05629, section 2).

    The rate is the server's; the client divides its one step by the rate it used, so that minus
    its gradient travels whatever the local rate.

    >>> FedSGD(server=SGD(0.5)).server.rate
    0.5
    """

    server: Optimizer = SGD(1.0)

    def accept(self, local: Any, weighting: str) -> None:
        """Refuse all but one full-batch step of plain SGD."""
        once = local.steps == 1 or (local.steps is None and local.epochs == 1)
        if not once or local.batch is not None or not isinstance(local.optimizer, SGD):
            raise PlanError(
                f"FedSGD takes one full-batch gradient a round, but was given {local}; "
                f"use Local(steps=1, batch=None, optimizer=SGD(...)), or FedAvg"
            )

    def report(self, w: Vector, sent: Tree, memory: Tree, work: LocalWork) -> tuple[Tree, Tree]:
        """Send minus the gradient: (w − x) / rate."""
        return Update((w - sent.x) / work.rates), memory
