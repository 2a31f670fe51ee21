# SPDX-License-Identifier: Apache-2.0
"""Clients simulated on one machine: one at a time, as a matrix, or on all cores."""

from muster.simulation.engine import Choice, choose
from muster.simulation.pool import Pool
from muster.simulation.simulated import Executor, LocalExecutor, Simulation

__all__ = ["Choice", "Executor", "LocalExecutor", "Pool", "Simulation", "choose"]
