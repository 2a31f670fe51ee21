# SPDX-License-Identifier: Apache-2.0
"""The engine that trains a cohort, and the pieces: a pure function of plan and data shapes.

Never of clocks, free memory or the number of workers, so that a run chooses the same on every
machine and gives the same bits with one worker as with many.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from muster.aggregation.sums import block_size
from muster.batches import step_counts
from muster.data import Population
from muster.errors import PlanError
from muster.plan import Plan
from muster.types import Fusing

__all__ = ["Choice", "ENGINES", "choose", "grouped"]

ENGINES = ("auto", "loop", "matrix", "fused")
SMALL = 2e6  # flops of a step below which dispatch costs more than arithmetic
CACHE = 8 << 20  # bytes of parameters that train together
PIECE = 1e8  # flops below which a piece of work is not worth sending anywhere
LIGHT = 2e9  # flops of a round below which worker processes do not pay
MOST = 128  # clients in one piece, so that memory does not grow with the cohort


@dataclass(frozen=True)
class Choice:
    """The engine, the most clients that train together, whether a round is light, and why."""

    engine: str
    together: int
    light: bool
    reason: str

    def pieces(self, cohort: int) -> list[slice]:
        """Cut a cohort (by index) into pieces of whole blocks."""
        block = block_size(cohort)
        size = max(block, self.together // block * block)
        return [slice(a, min(a + size, cohort)) for a in range(0, cohort, size)]


def choose(plan: Plan, population: Population, cohort: int, engine: str = "auto") -> Choice:
    """Return the choice for cohorts of about so many clients.

    Raises `PlanError` for an engine that this task does not have.
    """
    task = plan.task
    if engine not in ENGINES:
        raise PlanError(f"engine={engine!r}: use one of {', '.join(ENGINES)}")
    if engine not in ("auto", *task.engines):
        raise PlanError(
            f"engine={engine!r}: {type(task).__name__} has {', '.join(task.engines)}; "
            f"use one of those, or 'auto'"
        )
    if engine == "fused" and plan.local.examples is not None:
        raise PlanError(
            f"engine='fused' updates the model in place, without the gradient that "
            f"{plan.local.examples} adds its noise to; use 'loop', 'matrix' or 'auto'"
        )
    if engine == "fused" and not plan.fusible:
        raise PlanError(
            f"engine='fused' needs plain local SGD and an algorithm that leaves gradients alone, "
            f"not {plan.algorithm} with {plan.local.optimizer}; use 'loop' or 'matrix'"
        )
    sizes = population.sizes
    mean = max(1, int(np.mean(sizes)))
    step = task.flops(plan.local.batch or mean)
    local = plan.local
    steps = float(step_counts(sizes, local.epochs, local.steps, local.batch).mean())
    name, reason = (engine, "asked for") if engine != "auto" else _best(plan, step, sizes)
    fit = max(1, CACHE // max(1, task.layout.size * np.dtype(plan.dtype).itemsize))
    worth = int(np.ceil(PIECE / max(1.0, step * steps)))
    alone = not grouped(name, plan)
    together = 1 if alone and worth == 1 else min(fit, MOST, max(worth, -(-cohort // 16)))
    light = step * steps * cohort < LIGHT
    return Choice(name, max(1, together), light, reason)


def grouped(engine: str, plan: Plan) -> bool:
    """Return whether an engine trains the clients of a piece as one group."""
    fused = engine == "fused" and cast("Fusing", plan.task).fuses == "cohort"
    return engine == "matrix" or fused


def _best(plan: Plan, step: float, sizes: np.ndarray) -> tuple[str, str]:
    """Return the best engine of those the task has, and a sentence."""
    has = plan.task.engines
    flops = f"{step / 1e6:.3g} MFLOP a step"
    ragged = plan.local.batch is None and int(sizes.max()) > 2 * int(sizes.min())
    if ragged and "loop" in has:
        return "loop", "full batches of unequal clients: a matrix would pad to the longest"
    fused = plan.fusible and "fused" in has
    if fused and grouped("fused", plan):
        return "fused", f"plain SGD, gradients left alone: the cohort in place ({flops})"
    if "matrix" in has and (step < SMALL or has[0] == "matrix"):
        return "matrix", f"{flops}: the cohort as one matrix saves dispatch"
    if fused:
        return "fused", f"{flops}: bound by arithmetic, so one client at a time, in place"
    return "loop", f"{flops}: one client at a time"
