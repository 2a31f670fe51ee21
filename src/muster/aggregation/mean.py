# SPDX-License-Identifier: Apache-2.0
"""Mean: the streaming weighted mean, with sums of a fixed shape or in fixed point."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from muster.aggregation.fixed_sums import fixed_sum, settled
from muster.aggregation.sums import add, block_size, fold_blocks, summed
from muster.errors import PlanError
from muster.spelling import Spelled
from muster.types import ClientId, Reply

__all__ = ["Mean"]


@dataclass(frozen=True)
class Mean(Spelled):
    """Σ weight·payload over the weight of those who replied, or over the weight expected.

    "replies" is the ratio estimator of every published table; "expected" divides by the fixed
    number q·(weight of the population), unbiased also when the cohort is random.

    `sum` is how replies are added up: "float" in their dtype and in a fixed order; "fixed" in fixed
    point (`aggregation.fixed_point`), which takes longer and more memory, is nearer to the exact
    sum, and has the same bits in any order and any tree.

    >>> Mean(sum="fixed").denominator
    'replies'
    """

    denominator: Literal["replies", "expected"] = "replies"
    sum: Literal["float", "fixed"] = field(default="float", metadata={"later": True})
    min_replies: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.denominator not in ("replies", "expected"):
            raise PlanError(f"Mean(denominator={self.denominator!r}): use 'replies' or 'expected'")
        if self.sum not in ("float", "fixed"):
            raise PlanError(f"Mean(sum={self.sum!r}): use 'float' or 'fixed'")

    def partial(self, replies: Iterable[Reply], invited: Sequence[ClientId]) -> Reply | None:
        """Return the sum of single replies as a reply that others may be added to, or None.

        In place, as they come: their arrays may be read-only, and are not needed once the next
        reply is asked for. Replies come in client order, or in any where the sum is in fixed point.
        """
        if self.sum == "fixed":
            return fixed_sum(replies)
        size = block_size(len(invited))
        place = {client: i // size for i, client in enumerate(invited)}
        return summed(replies, lambda reply: place[reply.clients[0]], alone=size == 1)

    def reduce(self, replies: Iterable[Reply], invited: tuple[ClientId, ...]) -> Reply | None:
        """Return the weighted sum of all replies, or None if there were none.

        Replies must come in client order; each is one client, a block, or a run of blocks from
        the first on (see `muster.aggregation.sums`). In fixed point each may be of any clients.
        """
        if self.sum == "fixed":
            whole = fixed_sum(replies)
            return None if whole is None else settled(whole)
        place = {client: i for i, client in enumerate(invited)}
        size = block_size(len(invited))
        total: Reply | None = None
        for block in fold_blocks(replies, lambda reply: place[reply.clients[0]] // size):
            total = block if total is None else add((total, block))
        return total
