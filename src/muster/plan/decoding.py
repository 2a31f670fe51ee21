# SPDX-License-Identifier: Apache-2.0
"""From what was summed to the mean that the server steps with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from muster.aggregation.robust import RobustAggregator
from muster.keys import RandomSource
from muster.plan.plan import Plan
from muster.types import Reply, State
from muster.vectors import divided, tree_map

__all__ = ["Decoded", "decoded"]


class Decoded(NamedTuple):
    """The mean payload, of the algorithm's type, and the mean of the averaged buffers."""

    payload: Any
    buffers: Any


def decoded(
    plan: Plan, total: Reply, denominator: float, states: tuple[State, ...], key: RandomSource
) -> tuple[Decoded, tuple[State, ...]]:
    """Decode the sum through all stages and divide; or decode each part, then ask the rule.

    Buffers are divided by the weight that came, whatever the denominator.
    """
    rule = plan.aggregation
    if not isinstance(rule, RobustAggregator):
        summed, states = plan.stages.decode(replace(total, weight=denominator), states, key)
        payload = tree_map(lambda field: divided(field, denominator), summed.payload)
        buffers = tree_map(lambda b: b / total.weight, total.buffers)
        return Decoded(plan.algorithm.payload(**payload), buffers), states
    rows = []
    for i, part in enumerate(total.parts):
        one, _ = plan.stages.decode(part, states, key.at(i))
        rows.append(tree_map(lambda x, by=one.weight: x / by, (one.payload, one.buffers)))
    payload, buffers = rule.aggregate(tree_map(lambda *each: np.stack(each), *rows))
    return Decoded(plan.algorithm.payload(**payload), buffers), states
