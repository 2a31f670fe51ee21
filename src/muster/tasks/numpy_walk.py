# SPDX-License-Identifier: Apache-2.0
"""A cohort's walk through its local steps.

A cohort of large models that takes one step of every client after another reads all its
parameters from far memory at every step. Walked a few clients at a time through all their steps,
each chunk is read once. Clients do not know of each other, so the numbers stay the same.

A step of a tiny linear model is a handful of microseconds of arithmetic; reached through the
general layers it costs as much again in Python. `sweep` is the same computation, operation for
operation, with the views made once and nothing between the products.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from muster.batches import Batches
from muster.tasks.numpy_layers import scratch, views
from muster.tasks.task import RowLoss
from muster.types import Tree
from muster.vectors import leaves, tree_map

__all__ = ["chunks", "sweep", "sweeps", "together", "walk"]

CACHE = 1 << 20  # bytes of parameters that are trained together
ROWS = 1 << 23  # bytes of rows that are taken at once


def together(w: Any) -> int:
    """Count the clients of `w` `(clients, d)` that fit `CACHE`; at least one.

    >>> together(np.zeros((5, 1 << 17), "float32"))
    2
    """
    return max(1, CACHE // int(w.shape[-1] * w.itemsize))


def chunks(w: Any) -> Iterator[slice]:
    """Yield the clients of `w` in order, as many at a time as fit.

    >>> list(chunks(np.zeros((3, 1 << 17), "float32")))
    [slice(0, 2, None), slice(2, 3, None)]
    """
    few, clients = together(w), len(w)
    return (slice(i, min(i + few, clients)) for i in range(0, clients, few))


def walk(descent: Any, given: Tree, carry: Tree, batches: Batches) -> Tree:
    """Walk as `descent.walk`, chunk by chunk; with several, the carry is written in place."""
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
    """Return the steps of these clients alone."""
    active = np.clip(batches.active - rows.start, 0, rows.stop - rows.start)
    steps = int(np.count_nonzero(active))  # falling, so those that take part come first
    mine = (slice(steps), rows)
    return replace(
        batches,
        index=batches.index[mine],
        scale=None if batches.scale is None else batches.scale[mine],
        active=active[:steps],
        seeds=None if batches.seeds is None else batches.seeds[mine],
        private=None if batches.private is None else batches.private[mine],
    )


def sweeps(widths: tuple[int, ...], l2: float, batches: Batches) -> bool:
    """Return whether a sweep is possible: one layer, no penalty, and rows gathered for a matrix."""
    return len(widths) == 2 and not l2 and batches.gathered


def sweep(w: Any, widths: tuple[int, ...], loss: RowLoss, batches: Batches, rate: float) -> Any:
    """Take every step of plain SGD on `w` `(clients, d)`, in place; return summed losses."""
    clients, outputs = len(w), widths[1]
    total = np.zeros(clients, w.dtype)
    dtype, rows = w.dtype, batches.x.shape[2]
    x = batches.x.reshape(*batches.x.shape[:3], widths[0])
    x = x if x.dtype == dtype else x.astype(dtype)
    xt, ones = x.swapaxes(2, 3), np.ones(rows, dtype)
    before = -1
    for step, k in enumerate(batches.active.tolist()):
        if k != before:
            before, mine = k, w[:k]
            weight, bias = views(mine, widths)[0]
            update = scratch("whole", mine.shape, dtype)
            into, below = views(update, widths)[0]
            z = scratch("z", (outputs, k, rows), dtype)
            out, slopes = z.transpose(1, 0, 2), z.transpose(1, 2, 0)
            turned, bias = slopes.swapaxes(1, 2), bias.T[:, :, None]
        np.matmul(weight, xt[:k, step], out=out)
        np.add(z, bias, out=z)
        losses = loss.slope(z, batches.y[step, :k])
        if batches.scale is None:
            total[:k] += np.add.reduce(losses, -1) * (1.0 / rows)
            np.multiply(z, 1.0 / rows * rate, out=z)
        else:
            share = batches.scale[step, :k].astype(dtype, copy=False)
            total[:k] += np.einsum("kb,kb->k", losses, share)
            np.multiply(z, share * rate, out=z)
        np.matmul(turned, x[:k, step], out=into)
        np.matmul(ones, slopes, out=below)
        np.subtract(mine, update, out=mine)
    return total
