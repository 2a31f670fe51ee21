# SPDX-License-Identifier: Apache-2.0
"""The algorithms, one small file each, written once over flat vectors."""

from muster.algorithms.algorithm import Algorithm
from muster.algorithms.fedavg import FedAvg
from muster.algorithms.feddyn import FedDyn
from muster.algorithms.fednova import FedNova
from muster.algorithms.fedprox import FedProx
from muster.algorithms.fedsgd import FedSGD
from muster.algorithms.scaffold import Scaffold

__all__ = ["Algorithm", "FedAvg", "FedDyn", "FedNova", "FedProx", "FedSGD", "Scaffold"]
