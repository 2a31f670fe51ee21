# SPDX-License-Identifier: Apache-2.0
"""The secure sums of a record, added up again without masks: a masked sum is the plain one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from muster.aggregation.sums import add
from muster.plan import Plan
from muster.types import Answer, ClientId, Cohort, Reply, Sent

__all__ = ["RecordedSums"]


@dataclass(frozen=True)
class RecordedSums:
    """For each round what its sums noted of themselves (`SecureSum.facts`), "clients" among it.

    Groups are drawn anew for each round of a federation and known from its record alone; here each
    of them is trained and summed again. Integers add up to the same bits in any order.
    """

    notes: Mapping[int, Sequence[Mapping[str, Any]]]

    def answers(
        self,
        plan: Plan,
        round: int,
        cohort: Cohort,
        sent: Sent,
        trained: Callable[[Cohort], Iterator[Answer]],
        gone: Set[ClientId] = frozenset(),
    ) -> Iterator[Answer]:
        """Yield one reply for each sum that was opened, of those in it."""
        for note in self.notes.get(round, ()):
            counted = set(note["clients"]) - gone
            part = Cohort(tuple(client for client in cohort.clients if client in counted))
            replies = []
            for answer in trained(part):
                if isinstance(answer, Reply):
                    replies.append(answer)
                else:
                    yield answer
            if replies:
                yield _summed(plan, replies, sent, note)


def _summed(plan: Plan, replies: Sequence[Reply], sent: Sent, note: Mapping[str, Any]) -> Reply:
    total = add(replies)
    assert plan.secure is not None
    payload = {
        name: np.asarray(part).reshape(-1).astype(np.int64) for name, part in total.payload.items()
    }
    metrics = total.metrics if plan.secure.metrics == "public" else {}
    none = np.zeros_like(sent.buffers)
    return Reply(total.clients, payload, total.weight, metrics, none, (note,))
