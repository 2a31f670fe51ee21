# SPDX-License-Identifier: Apache-2.0
"""w1 in torch as a plan file, one round: what `muster run` starts in the bench of start-up."""

from bench.contenders import plan as _plan
from bench.contenders import population as _population
from bench.workloads import WORKLOADS
from muster import Population

__all__ = ["plan", "population"]

plan = _plan(WORKLOADS["w1"], "torch", 1)


def population() -> Population:
    """Return all 1000 clients."""
    return _population(WORKLOADS["w1"])
