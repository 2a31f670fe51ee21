# SPDX-License-Identifier: Apache-2.0
"""Sums of a fixed shape, so that partial sums may be taken in any process without changing a bit.

A client's block is its index among the invited divided by the block size. Clients add up in
order within a block, blocks in order; absent clients leave holes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from itertools import groupby
from typing import Any

from muster.types import Reply
from muster.vectors import tree_map

__all__ = ["add", "block_size", "fold_blocks"]


def block_size(invited: int) -> int:
    """Clients a block: one up to 32 invited, then so many that there are at most 32 blocks.

    >>> block_size(10), block_size(100)
    (1, 4)
    """
    return max(1, -(-invited // 32))


def add(replies: Sequence[Reply]) -> Reply:
    """The sum of at least one reply, from first to last.

    >>> add([Reply(("a",), {"delta": 1.0}, 2.0), Reply(("b",), {"delta": 2.0}, 3.0)]).weight
    5.0
    """
    return reduce(_plus, replies)


def fold_blocks(replies: Iterable[Reply], block: Callable[[Reply], int]) -> Iterator[Reply]:
    """Replies of one block become one; a reply that covers several blocks passes as it is."""
    for _, members in groupby(replies, block):
        yield reduce(_plus, members)


def _plus(a: Reply, b: Reply) -> Reply:
    def plus(p: Any, q: Any) -> Any:
        return p + q

    return Reply(
        a.clients + b.clients,
        tree_map(plus, a.payload, b.payload),
        a.weight + b.weight,
        {name: a.metrics[name] + b.metrics[name] for name in a.metrics},
        tree_map(plus, a.buffers, b.buffers),
    )
