# SPDX-License-Identifier: Apache-2.0
"""Which clients of a matrix are trained at a time, so that their parameters stay in cache.

A cohort of large models that takes one step of every client after another reads all its
parameters from far memory at every step. Walked a few clients at a time through all their steps,
each chunk is read once. Clients do not know of each other, so the numbers stay the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from muster.batches import Batches
from muster.types import Tree
from muster.vectors import leaves, tree_map

__all__ = ["chunks", "together", "walk"]

CACHE = 1 << 20  # bytes of parameters that are trained together


def together(w: Any) -> int:
    """How many clients of `w` `(clients, d)` fit `CACHE`; at least one.

    >>> together(np.zeros((5, 1 << 17), "float32"))
    2
    """
    return max(1, CACHE // int(w.shape[-1] * w.itemsize))


def chunks(w: Any) -> Iterator[slice]:
    """The clients of `w` in order, as many at a time as fit.

    >>> list(chunks(np.zeros((3, 1 << 17), "float32")))
    [slice(0, 2, None), slice(2, 3, None)]
    """
    few, clients = together(w), len(w)
    return (slice(i, min(i + few, clients)) for i in range(0, clients, few))


def walk(descent: Any, given: Tree, carry: Tree, batches: Batches) -> Tree:
    """`descent.walk` chunk by chunk; with several chunks the carry is written in place."""
    if batches.alone or len(carry.w) <= together(carry.w):
        return descent.walk(given, carry, batches)
    for rows in chunks(carry.w):
        part = tree_map(lambda a, rows=rows: a[rows], carry)
        fresh = descent.walk(given, part, _of(batches, rows))
        for (_, whole), (_, old), (_, new) in zip(
            leaves(carry), leaves(part), leaves(fresh), strict=True
        ):
            if new is not old:
                whole[rows] = new
    return carry


def _of(batches: Batches, rows: slice) -> Batches:
    """The steps of these clients alone."""
    active = np.clip(batches.active - rows.start, 0, rows.stop - rows.start)
    steps = int(np.count_nonzero(active))  # falling, so those that take part come first
    mine = (slice(steps), rows)
    return replace(
        batches,
        index=batches.index[mine],
        scale=None if batches.scale is None else batches.scale[mine],
        active=active[:steps],
        seeds=batches.seeds[mine],
    )
