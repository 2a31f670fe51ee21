# SPDX-License-Identifier: Apache-2.0
"""What a plan measures must be measurable, and what its stop rules read must be measured."""

from __future__ import annotations

import difflib
from typing import Any

from muster.errors import PlanError
from muster.metrics.sums import MOST
from muster.plan.stopping import EarlyStopping, Target

__all__ = ["refuse_unmeasured"]


def refuse_unmeasured(plan: Any) -> None:
    """Raise `PlanError`, with the remedy, for metrics that are none and rules without a metric."""
    known, sums = plan.directions, plan.sums
    if sums is not None and len(sums) > MOST and plan.evaluate.clients != 0:
        raise PlanError(
            f"the metrics of this plan are {len(sums)} sums, and a client is asked for {MOST} at "
            f"most; take metrics with fewer bins or classes, or Every(clients=0)"
        )
    for rule in plan.stop:
        if isinstance(rule, Target | EarlyStopping) and rule.metric not in known:
            near = difflib.get_close_matches(rule.metric, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "name one, or add it to metrics"
            raise PlanError(
                f"{rule} reads a metric that this plan does not measure; it measures "
                f"{', '.join(map(repr, known))}: {hint}"
            )
