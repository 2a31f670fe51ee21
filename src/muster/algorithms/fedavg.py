# SPDX-License-Identifier: Apache-2.0
"""FedAvg: average what the clients learned."""

from __future__ import annotations

from dataclasses import dataclass

from muster.algorithms.algorithm import Algorithm
from muster.optimizers import SGD, Optimizer

__all__ = ["FedAvg"]


@dataclass(frozen=True)
class FedAvg(Algorithm):
    """x ← server step along Σ p_k (w_k − x) (McMahan et al. 2017, arXiv 1602.05629, Alg. 1).

    With `server=Momentum(...)` this is FedAvgM, with `Adam`, `Adagrad` or `Yogi` it is FedAdam,
    FedAdagrad or FedYogi (Reddi et al. 2021).

    >>> FedAvg().server
    SGD(rate=1.0)
    """

    server: Optimizer = SGD(1.0)
