# SPDX-License-Identifier: Apache-2.0
"""Mean: the streaming weighted mean, with sums of a fixed shape."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

from muster.aggregation.sums import add, block_size, fold_blocks
from muster.errors import PlanError
from muster.spelling import Spelled
from muster.types import ClientId, Reply

__all__ = ["Mean"]


@dataclass(frozen=True)
class Mean(Spelled):
    """Σ weight·payload over the weight of those who replied, or over the weight expected.

    "replies" is the ratio estimator of every published table; "expected" divides by the fixed
    number q·(weight of the population), unbiased also when the cohort is random.

    >>> Mean().denominator
    'replies'
    """

    denominator: Literal["replies", "expected"] = "replies"
    min_replies: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.denominator not in ("replies", "expected"):
            raise PlanError(f"Mean(denominator={self.denominator!r}): use 'replies' or 'expected'")

    def reduce(self, replies: Iterable[Reply], invited: tuple[ClientId, ...]) -> Reply | None:
        """Return the weighted sum of all replies, or None if there were none.

        Replies must come in client order; each is one client, a block, or a run of blocks from
        the first on (see `muster.aggregation.sums`).
        """
        place = {client: i for i, client in enumerate(invited)}
        size = block_size(len(invited))
        total: Reply | None = None
        for block in fold_blocks(replies, lambda reply: place[reply.clients[0]] // size):
            total = block if total is None else add((total, block))
        return total
