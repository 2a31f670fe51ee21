# SPDX-License-Identifier: Apache-2.0
"""The algorithms, one small file each, written once over flat vectors."""

from __future__ import annotations

from typing import Any

from muster.algorithms.algorithm import Algorithm
from muster.algorithms.fedavg import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedYogi
from muster.algorithms.feddyn import FedDyn
from muster.algorithms.fednova import FedNova
from muster.algorithms.fedprox import FedProx
from muster.algorithms.fedsgd import FedSGD
from muster.algorithms.scaffold import Scaffold
from muster.spelling import absent

__all__ = [
    "Algorithm",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedDyn",
    "FedNova",
    "FedProx",
    "FedSGD",
    "FedYogi",
    "Scaffold",
]


def __getattr__(name: str) -> Any:
    raise absent("muster.algorithms", name, __all__)
