# SPDX-License-Identifier: Apache-2.0
"""A rule that looks at every reply: some of them may be lies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar, Literal

from muster.aggregation.sums import add
from muster.spelling import Spelled
from muster.types import ClientId, Reply, Tree

__all__ = ["RobustAggregator"]


class RobustAggregator(Spelled):
    """Replies are kept apart, decoded one by one, and combined; a reply may be a group's sum.

    A subclass is a frozen dataclass of its settings with `combine`, and `least` where it needs
    more than one reply. Each counts once, whatever its weight: a weight is claimed, not known.
    """

    denominator: ClassVar[Literal["replies"]] = "replies"
    sum: ClassVar[Literal["float"]] = "float"

    @property
    def min_replies(self) -> int:
        """The fewest replies that it can judge."""
        return 1

    def aggregate(self, rows: Tree) -> Any:
        """Return the mean that is believed, of rows `(replies, size)` in every leaf.

        No row is changed.
        """
        raise NotImplementedError

    def reduce(self, replies: Iterable[Reply], invited: tuple[ClientId, ...]) -> Reply | None:
        """Return all replies as the parts of one, or None if there were none."""
        parts = tuple(replies)
        if not parts:
            return None
        return replace(add([replace(p, payload={}, buffers=None) for p in parts]), parts=parts)
