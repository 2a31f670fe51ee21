# SPDX-License-Identifier: Apache-2.0
"""A store that keeps, beside the last model, those that a plan's `keep` names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from muster.plan import Keep, Plan
from muster.store.facts import invited
from muster.types import ClientId, Store

__all__ = ["Keeping", "measured"]


class Keeping:
    """Commits rounds to a store, and says which versions stay beside each.

    What was removed does not come back: the best is the best of those that are there.
    """

    def __init__(self, plan: Plan, store: Store) -> None:
        self._keep, self._store = plan.keep, store
        name = plan.keep.best
        self._lower = name is not None and plan.directions[name]
        self._values = measured(store.history(), name) if name is not None else {}
        self._reached: set[ClientId] | None = None  # until somebody asks

    def reached(self) -> Set[ClientId]:
        """Return who was invited in a round that is committed."""
        if self._reached is None:
            self._reached = invited(self._store.history())
        return self._reached

    def commit(
        self,
        round: int,
        arrays: Mapping[str, Any],
        record: Mapping[str, Any],
        accepted: Sequence[ClientId],
    ) -> None:
        """Make a round durable, and remove the versions that no longer count."""
        values, stays = dict(self._values), frozenset[int]()
        if self._keep.best is not None:
            values |= measured([record], self._keep.best)
        if self._keep != Keep():
            there = {*self._store.versions(), round}
            stays = frozenset(self._keep.stays(there, values, lower=self._lower)) - {round}
        self._store.commit(round, arrays, record, accepted, stays)
        self._values = values
        if self._reached is not None:
            self._reached |= invited([record])


def measured(history: Iterable[Mapping[str, Any]], metric: str) -> dict[int, float]:
    """Return the values of a metric by version, as they were recorded.

    >>> measured([{"round": 0, "metrics": {"loss": 2.0}}, {"round": 1}], "loss")
    {0: 2.0}
    """
    return {
        int(record["round"]): float(record["metrics"][metric])
        for record in history
        if (record.get("metrics") or {}).get(metric) is not None
    }
