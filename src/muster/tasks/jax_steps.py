# SPDX-License-Identifier: Apache-2.0
"""The data of a compiled program: vectors as tensors, batches as arrays of rounded sizes."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate, pairwise
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from muster.extras import require
from muster.vectors import aligned

jax = require("jax", extra="jax")
jnp = jax.numpy

__all__ = ["Parts", "Steps", "apart", "join", "kind", "like", "pack", "pad", "place", "rounded"]

LOCKSTEP = 1 << 12  # parameters up to which clients with equal steps step together
NICE = (1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8)  # times powers of ten
SIZES: list[int] = sorted(
    {*range(11), *(int(m * 10**e) for e in range(1, 9) for m in NICE), *(1 << e for e in range(31))}
)


class Parts(NDArrayOperatorsMixin):
    """A vector `(d,)` kept as its tensors while it is traced, so that no step cuts or joins it.

    Operators and `muster.vectors` work tensor by tensor; slices read the joined vector.
    """

    def __init__(self, arrays: Any) -> None:
        self.arrays = tuple(arrays)

    @property
    def shape(self) -> tuple[int]:
        """`(d,)`."""
        return (sum(a.size for a in self.arrays),)

    @property
    def flat(self) -> Any:
        """The vector itself."""
        return jnp.concatenate([a.reshape(-1) for a in self.arrays])

    def sum(self, axis: int = -1) -> Any:
        """Return the sum of all coordinates."""
        return sum(a.sum() for a in self.arrays)

    def __getitem__(self, place: Any) -> Any:
        return self.flat[place]

    def __array_ufunc__(self, ufunc: Any, method: str, *operands: Any, **options: Any) -> Any:
        if method != "__call__" or options:
            return NotImplemented
        rows = zip(*map(self.twin, operands), strict=True)
        return Parts(getattr(jnp, ufunc.__name__)(*row) for row in rows)

    def __array_function__(self, function: Any, types: Any, given: Any, options: Any) -> Any:
        if function is np.zeros_like:
            return Parts(map(jnp.zeros_like, self.arrays))
        return getattr(jnp, function.__name__)(*map(join, given), **options)

    def twin(self, other: Any) -> tuple[Any, ...]:
        """Return another operand tensor by tensor; a single number is repeated."""
        if isinstance(other, Parts):
            return other.arrays
        if np.size(other) == 1:
            return (other,) * len(self.arrays)
        return apart(other, [a.shape for a in self.arrays]).arrays


jax.tree_util.register_pytree_node(Parts, lambda p: (p.arrays, None), lambda _, a: Parts(a))


def apart(vector: Any, shapes: Any) -> Parts:
    """Return a vector as tensors of these shapes."""
    ends = pairwise([0, *accumulate(map(prod, shapes))])
    return Parts(vector[a:b].reshape(s) for (a, b), s in zip(ends, shapes, strict=True))


def join(a: Any) -> Any:
    """Return the vector of parts; anything else as it is."""
    return a.flat if isinstance(a, Parts) else a


def like(new: Any, old: Any) -> Any:
    """Return a new value in the form, parts or vector, of the old one."""
    return Parts(old.twin(new)) if isinstance(old, Parts) else join(new)


class Steps(NamedTuple):
    """Batches as arrays of rounded sizes: the rows, and which of them each step sees.

    `index`, `scale` `(clients, steps, B)`, `seeds` `(clients, steps)`, `count` `(clients,)` how
    many steps are real; one alone has no axis of clients. `lockstep` is `()` where all take the
    same steps at once, else None: part of the type that JAX compiles for.
    """

    x: Any
    y: Any
    index: Any
    scale: Any
    seeds: Any
    count: Any
    lockstep: tuple[()] | None


def pack(batches: Any, size: int, dtype: str) -> Steps:
    """Pack what `muster.batches.Batches` say, for a model of so many parameters."""
    steps, k, width = batches.index.shape
    count = (batches.active[:, None] > np.arange(k)).sum(0, dtype=np.int32)
    together = not batches.alone and size <= LOCKSTEP and bool((count == steps).all())
    seen = np.zeros(len(batches.x), bool)
    seen[batches.index] = True
    shape = (k if together or batches.alone else rounded(k), _double(steps, 16), rounded(width))
    index, scale = np.zeros(shape, np.int32), np.zeros(shape, dtype)
    seeds = np.zeros(shape[:2], np.uint32)
    index[:k, :steps, :width] = (seen.cumsum() - 1)[batches.index].swapaxes(0, 1)
    shares = 1 / width if batches.scale is None else batches.scale.swapaxes(0, 1)
    scale[:k, :steps, :width] = shares
    if batches.seeds is not None:
        seeds[:k, :steps] = batches.seeds.T
    each = (index, scale, seeds, np.pad(count, (0, shape[0] - k)))
    each = tuple(a[0] for a in each) if batches.alone else each
    x, y = (_rows(a, seen, dtype) for a in (batches.x, batches.y))
    placed = [jnp.asarray(a) for a in (x, y, *each)]
    return Steps._make([*placed, () if together else None])


def _rows(a: Any, seen: Any, dtype: str) -> Any:
    """Return the rows that are seen, in order, then zeros up to a rounded number."""
    rows = np.flatnonzero(seen)
    span = slice(int(rows[0]), int(rows[-1]) + 1)
    part = np.asarray(a[span] if span.stop - span.start == len(rows) else a[rows])
    out = aligned((_double(len(rows), 64), *part.shape[1:]), kind(part.dtype, dtype))
    out[: len(rows)], out[len(rows) :] = part, 0
    return out


def _double(size: int, least: int) -> int:
    return max(least, 1 << (size - 1).bit_length())


def rounded(size: int) -> int:
    """Return the next size of `SIZES`.

    >>> rounded(11), rounded(33)
    (12, 40)
    """
    return SIZES[bisect_left(SIZES, size)]


def kind(found: Any, dtype: str) -> Any:
    """Return the dtype: reals in the task's precision, whole numbers in at most 32 bits."""
    if found.kind == "f":
        return np.dtype(dtype)
    return np.dtype(np.int32) if found.kind in "iu" and found.itemsize > 2 else found


def place(a: Any, dtype: str) -> Any:
    """Return an array on the device in the dtype a task computes with."""
    a = np.asarray(a)
    return jnp.asarray(a.astype(kind(a.dtype, dtype), copy=False))


def pad(a: Any, more: int) -> Any:
    """Return an array on the device, with so many empty clients at its end."""
    a = np.asarray(a)
    return jnp.asarray(np.concatenate([a, np.zeros((more, *a.shape[1:]), a.dtype)]) if more else a)
