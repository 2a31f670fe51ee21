# SPDX-License-Identifier: Apache-2.0
"""Templates of the bodies that travel: names, dtypes and shapes, known to both sides.

A template's arrays have no size in memory; `wire.check_header` and `wire.decode` read their dtype
and shape.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from muster import keys
from muster.federation.protocol.frozen import NAME, once
from muster.plan import Plan
from muster.rounds import start
from muster.types import Sent, Tree
from muster.vectors import tree_map

__all__ = ["frozen_template", "sent_template", "update_template"]


def sent_template(plan: Plan) -> Sent:
    """Return the body of a model: what a cohort is sent each round. Costs one initialisation."""
    sent = start(plan).sent()
    hollow: Sent = tree_map(_hollow, sent if sent.frozen is None else sent._replace(frozen=NAME))
    return hollow


def frozen_template(plan: Plan) -> Tree | None:
    """Return the body of what nobody trains, which is sent once; None where the plan has none."""
    layout = plan.task.layout
    if not layout.frozen:
        return None
    whole = np.broadcast_to(np.zeros((), layout.dtype), layout.size)
    return once(_hollow(plan.sharing.take(whole, shared=None)))


def update_template(plan: Plan) -> Tree:
    """Return the body of one client's update: "payload" by field, and "buffers".

    Found by encoding a payload of zeros, so that it holds under any pipeline.
    """
    stages, dtype = plan.stages, np.dtype(plan.dtype)
    zeros = {field.name: np.zeros((1, field.size), dtype) for field in stages.contracts[0].fields}
    sent = tuple(state.shared for state in stages.init())
    memory = tree_map(_row, stages.memory())
    draws = keys.Keys(keys.key(plan.seed).at("encode", 0), (0,))
    weights = plan.weights(np.ones(1, np.int64), (1,))
    payload, _ = plan.encode(plan.algorithm.payload(**zeros), sent, memory, draws, weights)
    buffers = np.zeros(plan.task.layout.buffers, plan.task.layout.dtype)
    return {
        "payload": {name: _hollow(rows[0]) for name, rows in payload.items()},
        "buffers": _hollow(plan.sharing.take(buffers, buffers=True)),
    }


def _row(leaf: Any) -> Any:
    return np.asarray(leaf)[None]


def _hollow(leaf: Any) -> Any:
    like = np.asarray(leaf)
    return np.broadcast_to(np.zeros((), like.dtype), like.shape)
