# SPDX-License-Identifier: Apache-2.0
"""FedProx: keep local models near the global one."""

from __future__ import annotations

from dataclasses import dataclass

from muster.algorithms.algorithm import Algorithm
from muster.errors import PlanError
from muster.optimizers import SGD, Optimizer
from muster.types import Tree, Vector

__all__ = ["FedProx"]


@dataclass(frozen=True)
class FedProx(Algorithm):
    """Clients minimise F_k(w) + (mu/2) ‖w − x‖² (Li et al. 2020, arXiv 1812.06127, eq. 2).

    The norm is squared, so the gradient gains mu (w − x). Deviation: the paper also sums what a
    slow client has done of its work; here every client does all of it, and a late one is left out.

    >>> FedProx(mu=0.1).mu
    0.1
    """

    mu: float = 0.1
    server: Optimizer = SGD(1.0)

    def __post_init__(self) -> None:
        if not 0 <= self.mu < float("inf"):
            raise PlanError(f"FedProx(mu={self.mu!r}): mu must be finite, at least 0, such as 0.1")

    def correct(self, g: Vector, w: Vector, sent: Tree, memory: Tree) -> Vector:
        """Return the gradient bent to g + mu (w − x)."""
        return g + self.mu * (w - sent.x)
