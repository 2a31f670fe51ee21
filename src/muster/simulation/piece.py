# SPDX-License-Identifier: Apache-2.0
"""One piece of a round: some of the cohort's clients trained here, their blocks summed."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from muster.data import Population, Rows
from muster.errors import ClientError, DataError, MusterError
from muster.local import Group, Memory, Outcome, train
from muster.plan import Plan
from muster.types import ClientId, Failed, Reply, Sent
from muster.sums import add, block_size, fold_blocks
from muster.vectors import in_order

__all__ = ["Done", "Piece", "measure", "perform"]


@dataclass(frozen=True)
class Piece:
    """Some clients of a cohort of `invited`, in order, with their places in it and memories."""

    round: int
    invited: int
    clients: tuple[ClientId, ...]
    times: tuple[int, ...]
    places: tuple[int, ...]
    memories: tuple[Memory, ...] | None


class Done(NamedTuple):
    """What became of a piece: block sums in order, new memories, and who failed."""

    replies: tuple[Reply, ...]
    memories: dict[ClientId, Memory]
    failed: tuple[Failed, ...] = ()


def perform(
    plan: Plan, engine: str, population: Population, sent: Sent, piece: Piece, *, lenient: bool
) -> Done:
    """Train a piece. A client that fails raises `ClientError`, or is left out when `lenient`."""
    failed: list[Failed] = []
    memories: dict[ClientId, Memory] = {}
    replies: list[Reply] = []
    place = dict(zip(piece.clients, piece.places, strict=True))
    block = block_size(piece.invited)
    for group in _groups(plan, engine, population, piece):
        outcome = _attempt(plan, engine, sent, piece.round, group, failed if lenient else None)
        if outcome is None:
            continue
        memories |= zip(outcome.clients, outcome.memories or (), strict=False)
        blocks = [place[client] // block for client in outcome.clients]
        replies += _blocks(outcome, blocks, fold=place[outcome.clients[0]] == 0)
    replies = list(fold_blocks(replies, lambda reply: place[reply.clients[0]] // block))
    if piece.places and piece.places[0] == 0:  # a left fold may begin here, and only here
        replies = [add(replies)] if replies else []
    return Done(tuple(replies), memories, tuple(failed))


def _groups(
    plan: Plan, engine: str, population: Population, piece: Piece
) -> Iterator[Group]:
    """The groups that train together."""
    if not piece.clients:
        return
    data = population.gather(piece.clients)
    if population.is_lazy:
        _check(plan, piece, data)
    whole = Group(
        piece.clients, piece.times, data.x, data.y, data.starts, data.sizes, piece.memories
    )
    together = engine == "matrix" or (
        engine == "fused" and plan.task.fuses == "cohort"
    )
    yield from [whole] if together else whole.alone()


def _check(plan: Plan, piece: Piece, data: Rows) -> None:
    """Rows loaded on demand are seen here for the first time."""
    for client, start, size in zip(piece.clients, data.starts, data.sizes, strict=True):
        rows = slice(int(start), int(start + size))
        try:
            plan.task.check(data.x[rows], data.y[rows])
        except DataError as error:
            raise ClientError(piece.round, client, "data", str(error)) from None


def _attempt(
    plan: Plan, engine: str, sent: Sent, round: int, group: Group, failed: list[Failed] | None
) -> Outcome | None:
    """Train a group; where failures are collected, again without whoever failed."""
    while group.clients:
        try:
            return _trained(plan, engine, sent, round, group)
        except ClientError as error:
            if failed is None:
                raise
            failed.append(Failed(error.client, error.stage, error.cause))
            group = group.without(error.client)
    return None


def _trained(plan: Plan, engine: str, sent: Sent, round: int, group: Group) -> Outcome:
    try:
        return train(plan, engine, round, sent, group)
    except ClientError:
        raise
    except Exception as error:
        text = str(error) if isinstance(error, MusterError) else traceback.format_exc()
        raise ClientError(round, group.clients[0], "train", text) from error


def _blocks(outcome: Outcome, blocks: list[int], *, fold: bool) -> list[Reply]:
    """The weighted sum of each run of clients that share a block, or (`fold`) of all of them."""
    edges = [i for i in range(len(blocks)) if i == 0 or blocks[i] != blocks[i - 1]]
    weighted = outcome.buffers * outcome.weights[:, None].astype(outcome.buffers.dtype)
    names = tuple(outcome.metrics)
    table = np.stack([outcome.weights, *outcome.metrics.values()], axis=1)
    payload = {name: _runs(value, edges) for name, value in outcome.payload.items()}
    buffers, table, ends = _runs(weighted, edges), _runs(table, edges), [*edges[1:], len(blocks)]
    if fold:
        payload = {name: in_order(value)[None] for name, value in payload.items()}
        buffers, table, edges, ends = in_order(buffers)[None], in_order(table)[None], [0], ends[-1:]
    return [
        Reply(
            outcome.clients[first:end],
            {name: value[i] for name, value in payload.items()},
            float(table[i, 0]),
            dict(zip(names, table[i, 1:].tolist(), strict=True)),
            buffers[i],
        )
        for i, (first, end) in enumerate(zip(edges, ends, strict=True))
    ]


def _runs(rows: Any, edges: list[int]) -> Any:
    """Rows `(k, d)` summed in order over each run that begins at an edge: `(runs, d)`."""
    k, runs = len(rows), len(edges)
    if runs == k:
        return rows
    size = edges[1] if runs > 1 else k
    whole = k // size  # runs of equal size come first, unless clients are absent
    if edges[:whole] != list(range(0, whole * size, size)) or runs > whole + 1:
        ends = [*edges[1:], k]
        return np.stack([in_order(rows[a:b]) for a, b in zip(edges, ends, strict=True)])
    even = in_order(rows[: whole * size].reshape(whole, size, -1).swapaxes(0, 1))
    if runs == whole:
        return even
    return np.concatenate([even, in_order(rows[whole * size :])[None]])


def measure(
    plan: Plan, population: Population, sent: Sent, client: ClientId, memory: Memory | None
) -> dict[str, float]:
    """Metric sums of the shared model, with the client's private part, on its own rows.

    The client's test rows if it has any, else its training rows.
    """
    x, y = population.test(client) or population[client]
    w, buffers = sent.algorithm.x, sent.buffers
    if memory is not None and not plan.sharing.everything:
        w = plan.sharing.merge(w, memory.private)
        buffers = plan.sharing.merge(buffers, memory.buffers, buffers=True)
    return plan.task.evaluate(w, buffers, x, y)
