# SPDX-License-Identifier: Apache-2.0
"""Metrics of a plan must be measurable, and what its stop rules read must be measured."""

from __future__ import annotations

import difflib
import json
from typing import Any

import numpy as np

from muster import keys
from muster.errors import MusterError, PlanError
from muster.metrics import Loss, TaskMean
from muster.metrics.trial import Tried
from muster.plan.stopping import EarlyStopping, Target
from muster.plan.view import PlanView

__all__ = ["check_metrics", "refuse_unmeasured"]

FEW = 64  # rows that metrics are tried on
ROOM = 60_000  # bytes of a message of 64 KiB that sums may take
NUMBER = 28  # bytes of a number in JSON and what stands around it


def refuse_unmeasured(plan: PlanView) -> None:
    """Raise `PlanError`, with the remedy, for metrics that are none and rules without a metric."""
    known, sums = plan.directions, plan.sums or frozenset[str]()
    size = sum(len(json.dumps(name)) + NUMBER for name in sums)
    if size > ROOM and plan.evaluate.clients != 0:
        raise PlanError(
            f"the metrics of this plan are {len(sums)} sums of up to {size} bytes, and a client "
            f"tells {ROOM} at most; take metrics with fewer bins or classes, or Every(clients=0)"
        )
    rules = [rule for rule in plan.stop if isinstance(rule, Target | EarlyStopping)]
    named: list[tuple[object, str]] = [(rule, rule.metric) for rule in rules]
    if plan.keep.best is not None:
        named.append((plan.keep, plan.keep.best))
    for rule, name in named:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "name one, or add it to metrics"
            raise PlanError(
                f"{rule} reads a metric that this plan does not measure; it measures "
                f"{', '.join(map(repr, known))}: {hint}"
            )


def check_metrics(plan: PlanView, x: Any, y: Any) -> None:
    """Raise `PlanError` for metrics that are no sums over rows, tried on a few rows and the start.

    A task with its own `measure` raises `DataError` where that returns other means than declared.
    Whatever else a model raises is told with its client and stage when that is trained.
    """
    w, buffers = plan.task.init(keys.key(plan.seed).at("init"))
    trial = tuple(m if isinstance(m, Loss | TaskMean) else Tried(m) for m in plan.measured)
    with np.errstate(all="ignore"):
        try:
            plan.task.evaluate(w, buffers, x[:FEW], y[:FEW], trial)
        except MusterError:
            raise
        except Exception:  # of the user's model, and no word about metrics
            return
