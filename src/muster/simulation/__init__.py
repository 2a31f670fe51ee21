# SPDX-License-Identifier: Apache-2.0
"""Clients simulated on one machine: one at a time, as a matrix, or on all cores."""

from muster.simulation.engine import Choice, choose
from muster.simulation.pool import Pool
from muster.simulation.simulated import Hands, Here, Simulation

__all__ = ["Choice", "Hands", "Here", "Pool", "Simulation", "choose"]
