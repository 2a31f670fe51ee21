# SPDX-License-Identifier: Apache-2.0
"""The round of a client, or of a cohort of clients: the only local-training loop.

    start → [ gradient → correct → descend ]* → report → check → weight → encode

The same text trains one client at a time, a cohort as one matrix, and (traced by JAX) one
compiled program; a task only says how to take a gradient and how to fold a step over batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from muster import keys
from muster.algorithms.algorithm import Update
from muster.batches import cut, drawn, step_counts
from muster.errors import ClientError
from muster.keys import RandomSource
from muster.local.descent import Carry, Given, Walk
from muster.local.view import LocalPlan
from muster.types import ClientId, LocalWork, Sent, Tree
from muster.vectors import aligned, tree_map, zeros

__all__ = ["Group", "Memory", "Outcome", "train"]


class Memory(NamedTuple):
    """A client's memory between rounds: the algorithm's, the stages', its private part."""

    algorithm: Tree = None
    stages: Tree = None
    private: Any = None
    buffers: Any = None


@dataclass(frozen=True)
class Group:
    """Clients that train together: their ids, how often each counts, their rows and memories."""

    clients: tuple[ClientId, ...]
    times: tuple[int, ...]
    x: Any
    y: Any
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    memories: tuple[Memory, ...] | None = None

    def alone(self) -> Iterator[Group]:
        """Yield one group for each client, in order."""
        for i, client in enumerate(self.clients):
            memory = self.memories and self.memories[i : i + 1]
            rows = slice(int(self.starts[i]), int(self.starts[i] + self.sizes[i]))
            yield Group(
                (client,),
                self.times[i : i + 1],
                self.x[rows],
                self.y[rows],
                np.zeros(1, np.int64),
                self.sizes[i : i + 1],
                memory,
            )

    def without(self, client: ClientId) -> Group:
        """Return the group without one client."""
        keep = [i for i, other in enumerate(self.clients) if other != client]
        memories = self.memories and tuple(self.memories[i] for i in keep)
        return Group(
            tuple(self.clients[i] for i in keep),
            tuple(self.times[i] for i in keep),
            self.x,
            self.y,
            self.starts[keep],
            self.sizes[keep],
            memories,
        )


class Outcome(NamedTuple):
    """One row per client, NumPy: encoded payload, buffers, weight, metrics, new memories.

    No metrics where the plan keeps them with the clients (`Local.reports`). `spoiled` are clients
    whose update was not finite, and is sent as zeros: where a plan hides what is in it, to fail
    would tell.
    """

    clients: tuple[ClientId, ...]
    payload: Tree
    buffers: Any
    weights: NDArray[np.float64]
    metrics: dict[str, NDArray[np.float64]]
    memories: tuple[Memory, ...] | None
    spoiled: tuple[ClientId, ...] = ()


def train(
    plan: LocalPlan,
    engine: str,
    round: int,
    sent: Sent,
    group: Group,
    walk: Walk | None = None,
    source: RandomSource | None = None,
) -> Outcome:
    """Do what a group of clients does in one round, as one matrix or (a group of one) alone.

    `walk` takes the local steps in place of `task.run`. `source` is where batches and noise of
    `Local(examples=...)` and the draws of stages come from: a secret in production, without one
    the plan's key. Raises `ClientError` when an update is not finite.
    """
    counts = step_counts(group.sizes, plan.local.epochs, plan.local.steps, plan.local.batch)
    rank = np.argsort(-counts, kind="stable")  # falling step counts
    memories = _stack(plan, sent, group)
    turn = rank if (rank[1:] < rank[:-1]).any() else None
    root = source or keys.key(plan.seed)
    own = root.at("examples", round)
    trained = _descend(plan, engine, round, sent, group, counts, memories, turn, walk, own)
    if turn is not None:
        back = np.argsort(turn)
        w, buffers, loss = (rows[back] for rows in trained[:3])
        trained = Trained(w, buffers, loss, mine=True)
    draws = keys.Keys(root.at("encode", round), group.clients)
    return _reply(plan, round, sent, group, counts, memories, trained, draws)


class Trained(NamedTuple):
    """The outcome of local training, a row for each client; `mine`: nobody else looks at `w`."""

    w: Any
    buffers: Any
    loss: Any
    mine: bool


def _stack(plan: LocalPlan, sent: Sent, group: Group) -> Memory:
    """Return the clients' memories as one tree with a leading axis of clients."""
    if group.memories is None:
        return Memory()
    rows: Memory = tree_map(lambda *rows: np.stack(rows), *group.memories)
    return rows


def _descend(
    plan: LocalPlan,
    engine: str,
    round: int,
    sent: Sent,
    group: Group,
    counts: NDArray[np.int64],
    memories: Memory,
    rank: NDArray[np.int64] | None,
    walk: Walk | None,
    source: RandomSource,
) -> Trained:
    task, k = plan.task, len(group.clients)
    starts, sizes, numbers = group.starts, group.sizes, keys.numbers(group.clients)
    if rank is not None:
        starts, sizes, numbers, counts = starts[rank], sizes[rank], numbers[rank], counts[rank]
        memories = tree_map(lambda a: a[rank], memories)
    alone = k == 1 and engine != "matrix"
    key = keys.key(plan.seed).at("train", round)
    batches = cut(
        group.x,
        group.y,
        starts,
        sizes,
        numbers,
        counts,
        plan.local.batch,
        key,
        task.layout.dtype,
        alone,
        task.draws,
    )
    if plan.local.examples is not None:
        order = range(k) if rank is None else rank.tolist()
        sources = [source.at(group.clients[i]) for i in order]
        poisson = plan.local.examples.batches == "poisson"
        batches = drawn(batches, starts, sizes, plan.local.batch, sources, poisson)
    w = begun = _start(plan, sent, memories, k)
    buffers = _start_buffers(plan, sent, memories, k)
    memory = memories.algorithm
    if alone:
        w, buffers, memory = w[0], buffers[0], tree_map(lambda a: a[0], memory)
    w, buffers, memory, shared = task.arrays((w, buffers, memory, sent.algorithm))
    rate = plan.local.optimizer.rate * plan.local.schedule.factor(round)
    descent = plan.descent(engine)
    loss = zeros(w[..., 0])
    carry = Carry(w, buffers, plan.local.optimizer.init(w), memory, loss)
    carry = (walk or task.run)(descent, Given(shared, rate, round), carry, batches)
    w, buffers, loss = task.numpy((carry.w, carry.buffers, carry.loss))
    if alone:
        w, buffers, loss = w[None], buffers[None], np.reshape(loss, (1,))
    mine = bool(w.flags.writeable and np.may_share_memory(w, begun))
    return Trained(w, buffers, loss / counts, mine)


def _start(plan: LocalPlan, sent: Sent, memories: Memory, k: int) -> Any:
    """Return every client's start `(k, d)`: what was sent, with its own private part."""
    w, x = aligned((k, plan.task.layout.size), plan.task.layout.dtype), sent.algorithm.x
    if plan.sharing.everything:
        w[...] = x
        return w
    shared, frozen = (
        a if a is None else np.broadcast_to(a, (k, *a.shape)) for a in (x, sent.frozen)
    )
    w[...] = plan.sharing.merge(shared, memories.private, frozen)
    return w


def _start_buffers(plan: LocalPlan, sent: Sent, memories: Memory, k: int) -> Any:
    if not plan.task.layout.buffers:
        return np.empty((k, 0), plan.task.layout.dtype)
    shared = np.broadcast_to(sent.buffers, (k, *sent.buffers.shape))
    return np.array(plan.sharing.merge(shared, memories.buffers, buffers=True))


def _reply(
    plan: LocalPlan,
    round: int,
    sent: Sent,
    group: Group,
    counts: NDArray[np.int64],
    memories: Memory,
    trained: Trained,
    draws: keys.Keys,
) -> Outcome:
    """Report, check, weight and encode; the payload leaves as NumPy rows."""
    w, buffers, loss, _ = trained
    rate = plan.local.optimizer.rate * plan.local.schedule.factor(round)
    steps = counts[:, None].astype(w.dtype)
    work = LocalWork(steps, steps * w.dtype.type(rate), plan.local.optimizer.weights(steps))
    take = plan.sharing.take
    shared = take(w)
    payload, mine = _reported(plan, shared, sent, memories, work, trained.mine)
    odd = _odd(payload)
    if odd.any() and not plan.veiled:
        _refuse(round, group.clients, payload, loss)
    if odd.any():  # to fail would tell what noise or masks hide
        nothing, k = tree_map(np.zeros_like, payload), len(odd)
        start = _start(plan, sent, memories, k), _start_buffers(plan, sent, memories, k)
        payload, w, buffers, mine, loss = _without(
            odd,
            (payload, w, buffers, mine, loss),
            (nothing, *start, memories.algorithm, np.zeros_like(loss)),
        )
        shared = take(w)
    gap = shared - sent.algorithm.x if not plan.algorithm.plain_delta else payload[0]
    weights, metrics = plan.weights(group.sizes, group.times), {}
    if plan.local.reports:
        metrics = {
            "rows": group.sizes.astype(float),
            "loss": loss * group.sizes,
            "steps": counts.astype(float),
            "drift": weights * np.vecdot(gap, gap),
        }
    payload, stages = plan.encode(
        payload, sent.stages, memories.stages, draws, weights, own=plan.algorithm.plain_delta
    )
    kept = None
    if plan.remembers:
        own = plan.sharing.private
        private = take(w, shared=False) if own else None
        apart = take(buffers, shared=False, buffers=True) if own else None
        kept = Memory(mine, stages, private, apart)
    new = kept and tuple(tree_map(lambda a, i=i: a[i].copy(), kept) for i in range(len(weights)))
    averaged = take(buffers, buffers=True)
    spoiled = tuple(group.clients[i] for i in np.flatnonzero(odd))
    return Outcome(group.clients, payload, averaged, weights, metrics, new, spoiled)


def _reported(
    plan: LocalPlan, shared: Any, sent: Sent, memories: Memory, work: LocalWork, mine: bool
) -> tuple[Tree, Tree]:
    """Return the payloads that the algorithm has clients send, and the memories they keep.

    Where that is w − x and nothing else it takes the place of w, if that is nobody else's: so a
    large model is in memory once.
    """
    algorithm, x, memory = plan.algorithm, sent.algorithm.x, memories.algorithm
    if mine and algorithm.plain_delta and shared.dtype == x.dtype:
        return Update(np.subtract(shared, x, out=shared)), memory
    return algorithm.report(shared, sent.algorithm, memory, work)


def _odd(payload: Tree) -> NDArray[np.bool_]:
    """Mark the clients whose payload holds something not finite, or whose square is not."""
    with np.errstate(all="ignore"):
        sound = np.stack([np.isfinite(np.vecdot(field, field)) for field in payload])
    return np.asarray(~sound.all(0), np.bool_)


def _without(
    odd: NDArray[np.bool_], made: tuple[Any, ...], before: tuple[Any, ...]
) -> tuple[Any, ...]:
    """Return what these clients had before their training; for all others, what it made."""

    def chosen(old: Any, new: Any) -> Any:
        return np.where(odd.reshape(-1, *(1,) * (np.ndim(new) - 1)), old, new)

    return tuple(tree_map(chosen, old, new) for old, new in zip(before, made, strict=True))


def _refuse(round: int, clients: Sequence[ClientId], payload: Tree, loss: Any) -> None:
    """Raise `ClientError` where a field holds something not finite."""
    for name, field in zip(payload._fields, payload, strict=True):
        for i in np.flatnonzero(~np.isfinite(np.vecdot(field, field))):
            raise ClientError(
                round,
                clients[int(i)],
                "report",
                f"its {name} holds NaN or Inf, or overflows {field.dtype} (mean training loss "
                f"{float(loss[i]):g}); lower the local rate, or clean this client's data",
            )
