# SPDX-License-Identifier: Apache-2.0
"""Suspicion, when masked sums that honest clients cannot have made come round after round.

A member that lies under a mask can stop the rounds it is drawn for; it cannot poison the model,
and it cannot do the one or the other unseen: after a few such rounds in a row the run stands still
until somebody has looked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["IN_A_ROW", "Suspicion"]

IN_A_ROW = 3  # rounds, each given up for a sum that cannot be


class Suspicion:
    """Counts such rounds, from the records of those that are committed.

    >>> rejected = [{"clients": ["a"], "reason": "its weight is 0"}]
    >>> given_up = {"abandoned": True, "rejected": rejected}
    >>> suspicion = Suspicion([given_up, given_up])
    >>> suspicion.seen(given_up)[:43]
    '3 rounds in a row were given up, since the '
    """

    def __init__(self, history: Iterable[Mapping[str, Any]] = ()) -> None:
        self._count = 0
        for record in history:
            self.seen(record)

    def seen(self, record: Mapping[str, Any]) -> str:
        """Take a record in; why the run should stand still, or ""."""
        rejected = record.get("rejected")
        self._count = self._count + 1 if rejected and record.get("abandoned") else 0
        if not rejected or self._count < IN_A_ROW:
            return ""
        count, self._count = self._count, 0
        clients = sorted({str(client) for part in rejected for client in part["clients"]})
        return (
            f"{count} rounds in a row were given up, since the masked sum is none that honest "
            f"clients make ({rejected[-1]['reason']}); one of these lied: "
            f"{', '.join(clients[:20])}{' …' if len(clients) > 20 else ''}; find out which, then "
            f"resume"
        )
