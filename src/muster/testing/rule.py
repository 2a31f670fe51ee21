# SPDX-License-Identifier: Apache-2.0
"""`check_rule`: a rule believes rows whatever their order, and leaves them as they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from muster.aggregation.robust import RobustAggregator
from muster.testing.claim import check_value, claim, close, copied, same
from muster.types import Reply
from muster.vectors import leaves, tree_map

__all__ = ["check_rule"]

REPLIES, EXTRA = 9, 4


def check_rule(rule: RobustAggregator, tolerance: float = 1e-6) -> None:
    """Raise `AssertionError` where a rule breaks a promise of `RobustAggregator`.

    `tolerance`, relative to numbers above one, is how far the order of the rows may move it.

    >>> from muster.aggregation import Median
    >>> check_rule(Median())
    """
    check_value(rule)
    least = rule.min_replies
    claim(isinstance(least, int) and least >= 1, f"{rule}.least is {least!r}, no number above 0")
    for count in (least, max(least, REPLIES), least + EXTRA):
        for dtype in ("float32", "float64"):
            _believes(rule, _rows(count, dtype), tolerance)
    _keeps_parts(rule)


def _rows(count: int, dtype: str) -> Any:
    draw = np.random.default_rng(count)
    return {
        "delta": draw.normal(size=(count, 7)).astype(dtype),
        "control": draw.normal(size=(count, 4)).astype(dtype),
    }, np.zeros((count, 0), dtype)  # nobody has buffers


def _believes(rule: RobustAggregator, rows: Any, tolerance: float) -> None:
    before, count = copied(rows), len(rows[1])
    found = rule.aggregate(rows)
    claim(same(rows, before), f"{rule}.combine changes the rows that it is given")
    shapes = [(name, leaf.shape, leaf.dtype) for name, leaf in leaves(found)]
    wanted = [(name, leaf.shape[1:], leaf.dtype) for name, leaf in leaves(rows)]
    claim(shapes == wanted, f"{rule}.combine of {count} rows gives {shapes}, expected {wanted}")
    claim(same(rule.aggregate(before), found), f"{rule}.combine of the same rows gives other bits")
    order = np.random.default_rng(1).permutation(count)
    turned = rule.aggregate(tree_map(lambda x: x[order], rows))
    close(turned, found, tolerance, f"{rule}.combine of {count} rows in another order")
    alike = rule.aggregate(tree_map(lambda x: np.repeat(x[:1], count, 0), rows))
    close(alike, tree_map(lambda x: x[0], rows), tolerance, f"{rule}.combine of {count} like rows")


def _keeps_parts(rule: RobustAggregator) -> None:
    replies = tuple(Reply((i,), {"delta": np.ones(2)}, 1.0 + i) for i in range(3))
    claim(rule.reduce(iter(()), ()) is None, f"{rule}.reduce of no reply is not None")
    total = rule.reduce(iter(replies), (0, 1, 2))
    claim(total and total.parts == replies, f"{rule}.reduce does not keep every reply as a part")
