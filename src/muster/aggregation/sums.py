# SPDX-License-Identifier: Apache-2.0
"""Sums of a fixed shape, so that partial sums may be taken in any process without changing a bit.

A client's block is its index among the invited divided by the block size. Clients add up in
order within a block, blocks in order; absent clients leave holes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import reduce
from itertools import groupby
from typing import Any

from muster.mapped import add as added
from muster.mapped import own
from muster.types import Reply
from muster.vectors import tree_map

__all__ = ["add", "block_size", "fold_blocks", "merged", "summed"]


def block_size(invited: int) -> int:
    """Count the clients a block: one up to 32 invited, then as many as make 32 blocks at most.

    >>> block_size(10), block_size(100)
    (1, 4)
    """
    return max(1, -(-invited // 32))


def add(replies: Sequence[Reply]) -> Reply:
    """Return the sum of at least one reply, from first to last.

    >>> add([Reply(("a",), {"delta": 1.0}, 2.0), Reply(("b",), {"delta": 2.0}, 3.0)]).weight
    5.0
    """
    return reduce(_plus, replies)


def fold_blocks(replies: Iterable[Reply], block: Callable[[Reply], int]) -> Iterator[Reply]:
    """Yield the replies of each block as one; a reply over several blocks passes as it is."""
    for _, members in groupby(replies, block):
        yield reduce(_plus, members)


def _plus(a: Reply, b: Reply) -> Reply:
    def plus(p: Any, q: Any) -> Any:
        return p + q

    return merged(a, b, plus)


def merged(a: Reply, b: Reply, plus: Callable[[Any, Any], Any]) -> Reply:
    """Two replies as one; `plus(p, q)` adds up vectors, and may change the first."""
    # A sum of metrics is one of all clients, or none: where one keeps its own, there is none.
    told = a.metrics if a.metrics.keys() == b.metrics.keys() else {}
    return Reply(
        a.clients + b.clients,
        tree_map(plus, a.payload, b.payload),
        a.weight + b.weight,
        {name: a.metrics[name] + b.metrics[name] for name in told},
        tree_map(plus, a.buffers, b.buffers),
        a.secure + b.secure,
        norms=a.norms + b.norms,
        losses=a.losses + b.losses,
    )


def summed(
    replies: Iterable[Reply], block: Callable[[Reply], int], *, alone: bool = False
) -> Reply | None:
    """Sum replies in the fixed shape, in place: memory for two vectors, however many come.

    The same bits as adding up what `fold_blocks` yields. The replies' arrays may be read-only,
    and are not needed once the next reply is asked for. Where each is `alone` in its block, one
    vector is enough.
    """
    total: Reply | None = None
    if alone:  # no look at the next reply before this one is added
        for reply in replies:
            total = _owned(reply) if total is None else _into(total, reply)
        return total
    for _, members in groupby(replies, block):
        part: Reply | None = None
        for reply in members:
            part = _owned(reply) if part is None else _into(part, reply)
        assert part is not None
        total = part if total is None else _into(total, part)
    return total


def _owned(reply: Reply) -> Reply:
    payload, buffers = tree_map(own, (reply.payload, reply.buffers))
    return replace(reply, payload=payload, buffers=buffers)


def _into(total: Reply, reply: Reply) -> Reply:
    return merged(total, reply, added)
