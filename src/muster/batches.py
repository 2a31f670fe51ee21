# SPDX-License-Identifier: Apache-2.0
"""Batches: the rows that each local step of a cohort sees.

One local epoch of a client with n rows at batch size B is ceil(n/B) steps over a fresh order of
its rows; the short last batch is kept, and its mean is over its own rows. E epochs are
E·ceil(n/B) steps; with `steps=S` every client takes S steps, walking as many epochs as that
needs. Full batch (B=None) is one step an epoch over the rows as they stand.

A cohort is cut as one: clients stand by falling step count, so that those still training at
step t are a prefix, and nothing is padded to the longest client.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muster import keys
from muster.keys import Key
from muster.types import Batch, PrivateStep, Tree
from muster.vectors import leaves, tree_map

__all__ = ["Batches", "cut", "drawn", "fold", "gather", "step_counts"]


@dataclass(frozen=True)
class Batches:
    """Steps over the rows `x`, `y`; iterating yields `(active, Batch)` step by step.

    For a matrix: `index` `(steps, clients, B)`, `scale` the same or None when every batch is
    full, `active` `(steps,)` how many clients (a prefix) take each step, `seeds`
    `(steps, clients)`, `private` the same, a `PrivateStep` each. For one client (`alone`):
    `clients` = 1, batches are cut to their true length and come without the client axis. Once
    `gathered`, `x` is `(clients, steps, B, ...)` and `y` `(steps, clients, B, ...)`.
    """

    x: Any
    y: Any
    index: Any
    scale: Any
    active: NDArray[np.int64]
    seeds: NDArray[np.uint32] | None
    alone: bool = False
    gathered: bool = False
    private: NDArray[np.object_] | None = None

    def __len__(self) -> int:
        return len(self.active)

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        return (self.at(step) for step in range(len(self)))

    def at(self, step: int) -> tuple[int, Batch]:
        """Return the number of clients that take this step, and their rows."""
        k = int(self.active[step])
        if self.alone:
            rows = self.index[step, 0]
            if self.scale is not None:
                rows = rows[: int((self.scale[step, 0] > 0).sum())]
            seed = None if self.seeds is None else self.seeds[step, 0]
            private = None if self.private is None else self.private[step, 0]
            return 1, Batch(self.x[rows], self.y[rows], None, seed, private)
        scale, seeds, private = (
            None if each is None else each[step, :k]
            for each in (self.scale, self.seeds, self.private)
        )
        if self.gathered:
            return k, Batch(self.x[:k, step], self.y[step, :k], scale, seeds, private)
        rows = self.index[step, :k]
        return k, Batch(self.x[rows], self.y[rows], scale, seeds, private)

    def steps(self, start: int, stop: int) -> Batches:
        """Return the steps from `start` up to `stop` alone; not once gathered.

        To fold over them takes the carry of those clients that take the first of them.
        """
        part = slice(start, stop)
        return replace(
            self,
            index=self.index[part],
            scale=None if self.scale is None else self.scale[part],
            active=self.active[part],
            seeds=None if self.seeds is None else self.seeds[part],
            private=None if self.private is None else self.private[part],
        )


def gather(batches: Batches, most: int, room: Callable[..., Any]) -> Batches:
    """Return NumPy batches of a matrix with all rows taken at once, if so many bytes hold them.

    Client by client, so that each client's rows come from far memory once and together, into
    `room("rows", shape, dtype)`, which is theirs until the next gathering.
    """
    size = batches.index.size * batches.x[:1].nbytes
    if batches.alone or batches.gathered or size > most:
        return batches
    by_client = np.ascontiguousarray(batches.index.swapaxes(0, 1))
    out = room("rows", (*by_client.shape, *batches.x.shape[1:]), batches.x.dtype)
    x = batches.x.take(by_client, axis=0, out=out, mode="clip")
    return replace(batches, x=x, y=batches.y.take(batches.index, axis=0), gathered=True)


def step_counts(
    sizes: NDArray[np.int64], epochs: int | None, steps: int | None, batch: int | None
) -> NDArray[np.int64]:
    """Count the local steps of each client: `steps` for all, or epochs · ceil(n/B).

    >>> step_counts(np.array([10, 25]), 2, None, 10)
    array([2, 6])
    """
    if steps is not None:
        return np.full(len(sizes), steps, np.int64)
    return int(epochs or 1) * (-(-sizes // batch) if batch else np.ones_like(sizes))


def cut(
    x: Any,
    y: Any,
    starts: NDArray[np.int64],
    sizes: NDArray[np.int64],
    clients: NDArray[np.uint64],
    counts: NDArray[np.int64],
    batch: int | None,
    key: Key,
    dtype: str = "float32",
    alone: bool = False,
    draws: bool = True,
) -> Batches:
    """Return the steps of a cohort whose clients stand by falling `counts` (their local steps).

    `starts`, `sizes`, `clients` `(k,)`: where each client's rows begin in `x`, how many there
    are, and its key number.
    """
    width, total = batch or int(sizes.max()), int(counts[0])
    rounds = -(-sizes // width)  # steps an epoch
    epochs = int((-(-counts // rounds)).max())
    order = None if batch is None else keys.order(key, clients, sizes, epochs)
    if order is not None and (sizes == sizes[0]).all() and sizes[0] % width == 0:
        local, scale = order.reshape(len(sizes), -1, width)[:, :total], None  # end to end
    else:
        local, real = _ragged(order, sizes, width, total)
        share = real / real.sum(-1, keepdims=True)
        scale = None if real.all() else share.astype(dtype).swapaxes(0, 1)
    index = (local + starts[:, None, None]).swapaxes(0, 1)
    active = (counts[None, :] > np.arange(total)[:, None]).sum(1)
    seeds = _seeds(key, clients, total) if draws else None
    return Batches(x, y, index, scale, active, seeds, alone)


def drawn(
    batches: Batches,
    starts: NDArray[np.int64],
    sizes: NDArray[np.int64],
    batch: int | None,
    sources: Sequence[Any],
    poisson: bool,
) -> Batches:
    """Return the same steps for private training, on rows drawn from the clients' `sources`.

    By Poisson's coins each row comes into each step with probability batch/n, apart from all
    others, so a step may see none; else every epoch is cut from an order of its own. Each step
    learns where its noise lies and that its sum is divided by `batch`, or n where that is less.
    """
    steps = len(batches)
    expected = np.minimum(batch or sizes, sizes)
    private = np.empty((steps, len(sizes)), object)
    for at in np.ndindex(private.shape):
        private[at] = PrivateStep(sources[at[1]].at(at[0], "noise"), int(expected[at[1]]))
    batches = replace(batches, private=private)
    if batch is None:
        return batches
    cut = _tossed if poisson else _shuffled
    local, real = cut(sources, sizes, batch, steps)
    share = real / np.maximum(1, real.sum(-1, keepdims=True))
    index = (local + starts[:, None, None]).swapaxes(0, 1)
    return replace(batches, index=index, scale=share.swapaxes(0, 1))


def _tossed(
    sources: Sequence[Any], sizes: NDArray[np.int64], batch: int, steps: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the same as `_ragged`, by one coin for each row and step."""
    rates = np.minimum(1.0, batch / sizes)
    chosen = [
        [np.flatnonzero(source.at(step, "rows").uniform(n) < rate) for step in range(steps)]
        for source, n, rate in zip(sources, sizes.tolist(), rates.tolist(), strict=True)
    ]
    width = max(1, *(len(rows) for each in chosen for rows in each))
    local = np.zeros((len(sizes), steps, width), np.int64)
    real = np.zeros(local.shape, np.bool_)
    for client, each in enumerate(chosen):
        for step, rows in enumerate(each):
            local[client, step, : len(rows)], real[client, step, : len(rows)] = rows, True
    return local, real


def _shuffled(
    sources: Sequence[Any], sizes: NDArray[np.int64], batch: int, steps: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the same as `_ragged`, by orders that the sources draw."""
    epochs = int((-(-steps // -(-sizes // batch))).max())
    order = np.zeros((len(sizes), epochs, int(sizes.max())), np.int64)
    for client, (source, n) in enumerate(zip(sources, sizes.tolist(), strict=True)):
        for epoch in range(epochs):
            order[client, epoch, :n] = source.at("order", epoch).uniform(n).argsort(kind="stable")
    return _ragged(order, sizes, batch, steps)


def _ragged(
    order: NDArray[np.int64] | None, sizes: NDArray[np.int64], width: int, total: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return each client's own row numbers `(k, steps, B)`, and which of them are no padding."""
    steps, rounds = np.arange(total), -(-sizes // width)[:, None]
    position = (steps % rounds)[:, :, None] * width + np.arange(width)
    local = np.minimum(position, sizes[:, None, None] - 1)
    if order is not None:
        epoch = np.minimum(steps // rounds, order.shape[1] - 1)
        local = order[np.arange(len(sizes))[:, None, None], epoch[:, :, None], local]
    return local, position < sizes[:, None, None]


def _seeds(key: Key, clients: NDArray[np.uint64], steps: int) -> NDArray[np.uint32]:
    base = np.uint64(key.at("draw").integer())
    with np.errstate(over="ignore"):
        mixed = (clients ^ base)[None, :] * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed + np.arange(steps, dtype=np.uint64)[:, None]) * np.uint64(0xBF58476D1CE4E5B9)
    return (mixed >> np.uint64(32)).astype(np.uint32)


def fold(step: Callable[[Tree, Batch], Tree], carry: Tree, batches: Batches) -> Tree:
    """Fold `step` over the batches eagerly; clients that have finished keep their rows.

    The carry's arrays have a leading axis of clients (none when `alone`); a step of fewer than
    all clients works on the prefix and is written back in place.
    """
    everybody = int(batches.active[0]) if len(batches) else 0
    for active, batch in batches:
        if active == everybody:
            carry = step(carry, batch)
            continue
        part = tree_map(lambda a, k=active: a[:k], carry)
        fresh = step(part, batch)
        for (_, old), (_, before), (_, new) in zip(
            leaves(carry), leaves(part), leaves(fresh), strict=True
        ):
            if new is not before:
                old[:active] = new
    return carry
