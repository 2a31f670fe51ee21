# SPDX-License-Identifier: Apache-2.0
"""Replies added up in fixed point: the same bits in any order, from any workers, in any tree.

Partial sums are replies, too, whose vectors are `FixedPointSum` and whose numbers are `ExactFloat`:
they travel and add up like others, and become plain ones at the root alone (`settled`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from muster.aggregation.fixed_point import ExactFloat, FixedPointSum
from muster.aggregation.sums import merged
from muster.types import Reply
from muster.vectors import tree_map

__all__ = ["fixed_sum", "partial_sum", "settled"]


def fixed_sum(replies: Iterable[Reply]) -> Reply | None:
    """Return the partial sum of replies and partial sums, or None if there were none.

    A partial sum among them may be changed. Arrays may be read-only, and are not needed once the
    next reply is asked for.
    """
    total: Reply | None = None
    for reply in replies:
        total = _begun(reply) if total is None else merged(total, reply, _into)
    return total


def partial_sum(reply: Reply, rows: Any, buffers: Any, weights: Any, metrics: Any) -> Reply:
    """Return the partial sum of clients that trained together, given a row of each.

    `rows` is a payload of `(k, size)` each, `buffers` `(k, size)`, `weights` and each of the
    `metrics` `(k,)`; `reply` has the rest.
    """
    return replace(
        reply,
        payload=tree_map(_summed, rows),
        buffers=_summed(buffers),
        weight=_exact(weights),
        metrics={name: _exact(values) for name, values in metrics.items()},
    )


def settled(reply: Reply) -> Reply:
    """Return a partial sum as arrays of the replies' dtype and plain numbers.

    Raises `SumError` where a number is beyond the dtype.
    """
    payload, buffers = tree_map(_value, (reply.payload, reply.buffers))
    metrics = {name: float(value) for name, value in reply.metrics.items()}
    weight = float(reply.weight)
    return replace(reply, payload=payload, buffers=buffers, weight=weight, metrics=metrics)


def _begun(reply: Reply) -> Reply:
    payload, buffers = tree_map(_own, (reply.payload, reply.buffers))
    metrics = {name: ExactFloat(value) for name, value in reply.metrics.items()}
    weight = ExactFloat(reply.weight)
    return replace(reply, payload=payload, buffers=buffers, weight=weight, metrics=metrics)


def _own(leaf: Any) -> Any:
    """Begin a sum; integers, of quantised updates, are one already."""
    if isinstance(leaf, FixedPointSum):
        return leaf
    leaf = np.asarray(leaf)
    return _summed(leaf[None]) if leaf.dtype.kind == "f" else leaf


def _summed(rows: Any) -> Any:
    if rows.dtype.kind != "f":
        return rows.sum(axis=0)
    total = FixedPointSum(rows.shape[1], rows.dtype)
    total.deposit(rows)
    return total


def _exact(values: Any) -> ExactFloat:
    return sum(values.tolist(), ExactFloat(0.0))


def _into(total: Any, leaf: Any) -> Any:
    if isinstance(leaf, FixedPointSum):
        total.merge(leaf)
    elif isinstance(total, FixedPointSum):
        total.deposit(leaf)
    else:
        total = total + leaf
    return total


def _value(leaf: Any) -> Any:
    return leaf.value() if isinstance(leaf, FixedPointSum) else leaf
