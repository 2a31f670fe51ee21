# SPDX-License-Identifier: Apache-2.0
"""Runs: plan + data + runtime + store."""

from muster.runs.drive import Options
from muster.runs.run import Run
from muster.runs.simulate import explain, simulate

__all__ = ["Options", "Run", "explain", "simulate"]
