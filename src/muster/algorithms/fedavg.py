# SPDX-License-Identifier: Apache-2.0
"""FedAvg: average what the clients learned; and its names in papers, by the server's step."""

from __future__ import annotations

from dataclasses import dataclass

from muster.algorithms.algorithm import Algorithm
from muster.optimizers import SGD, Adagrad, Adam, Momentum, Optimizer, Yogi

__all__ = ["FedAdagrad", "FedAdam", "FedAvg", "FedAvgM", "FedYogi"]


@dataclass(frozen=True)
class FedAvg(Algorithm):
    """x ← server step along Σ p_k (w_k − x) (McMahan et al. 2017, arXiv 1602.05629, Alg. 1).

    With `server=Momentum(...)` this is `FedAvgM`, with `Adam`, `Adagrad` or `Yogi` it is `FedAdam`,
    `FedAdagrad` or `FedYogi`: recipes below, which give a `FedAvg`.

    >>> FedAvg().server
    SGD(rate=1.0)
    """

    server: Optimizer = SGD(1.0)


def FedAvgM(rate: float = 1.0, beta: float = 0.9) -> FedAvg:
    """Return FedAvg with momentum on the server (Hsu, Qi and Brown 2019, arXiv 1909.06335).

    >>> FedAvgM()
    FedAvg(server=Momentum(rate=1.0, beta=0.9))
    """
    return FedAvg(Momentum(rate, beta))


def FedAdam(
    rate: float = 0.01, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3
) -> FedAvg:
    """Return FedAvg with Adam on the server (Reddi et al. 2021, arXiv 2003.00295, Algorithm 2).

    Without bias correction, as in the paper. The paper tunes `rate` between 0.001 and 0.1.

    >>> FedAdam().server
    Adam(rate=0.01, beta1=0.9, beta2=0.99, tau=0.001)
    """
    return FedAvg(Adam(rate, beta1, beta2, tau))


def FedYogi(
    rate: float = 0.01, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3
) -> FedAvg:
    """Return FedAvg with Yogi on the server (Reddi et al. 2021, Algorithm 2).

    >>> FedYogi(0.1).server.rate
    0.1
    """
    return FedAvg(Yogi(rate, beta1, beta2, tau))


def FedAdagrad(rate: float = 0.1, tau: float = 1e-3) -> FedAvg:
    """Return FedAvg with Adagrad on the server (Reddi et al. 2021, Algorithm 2; beta1 = 0).

    >>> FedAdagrad().server.beta1
    0.0
    """
    return FedAvg(Adagrad(rate, tau))
