# SPDX-License-Identifier: Apache-2.0
"""Participation: how often each client took part in a run, from its records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from muster.types import ClientId

__all__ = ["Participation", "participation"]

SHOWN = 20  # clients that are printed one by one


@dataclass(frozen=True)
class Participation:
    """`clients` that were ever invited (or are recorded as enrolled), sorted, and their counts.

    `rounds` says in how many rounds the reply of each counted, `invited` how often it was asked,
    `never` how many more are enrolled of whom no record tells by name: none of them was invited.
    """

    clients: tuple[ClientId, ...]
    rounds: tuple[int, ...]
    invited: tuple[int, ...]
    never: int = 0

    @property
    def spread(self) -> dict[str, float]:
        """Least, mean, most and standard deviation of `rounds`, and their Gini coefficient.

        Over all who are enrolled, also those that were never invited. A Gini coefficient of 0 is
        everybody alike, one near 1 a single client alone; where nobody took part it is 0.

        >>> Participation(("a", "b"), (3, 1), (3, 3)).spread["gini"]
        0.25
        """
        counts = np.sort(np.concatenate([np.zeros(self.never), np.array(self.rounds, float)]))
        if not len(counts):
            return {"least": 0.0, "mean": 0.0, "most": 0.0, "deviation": 0.0, "gini": 0.0}
        n, total = len(counts), counts.sum()
        ranks = 2 * np.arange(1, n + 1) - n - 1
        return {
            "least": float(counts[0]),
            "mean": float(counts.mean()),
            "most": float(counts[-1]),
            "deviation": float(counts.std()),
            "gini": float(ranks @ counts / (n * total)) if total else 0.0,
        }

    def __str__(self) -> str:
        found = self.spread
        lines = [
            f"{len(self.clients) + self.never} clients took part in {found['mean']:.3g} rounds on "
            f"average, from {found['least']:g} to {found['most']:g} (Gini {found['gini']:.3g})"
        ]
        rows = zip(self.clients, self.rounds, self.invited, strict=True)
        lines += [f"{c}: {n} of {asked} invitations" for c, n, asked in list(rows)[:SHOWN]]
        rest = len(self.clients) - SHOWN
        return "\n".join(lines + ([f"and {rest} more"] if rest > 0 else []))


def participation(
    history: Iterable[Mapping[str, Any]], enrolled: Sequence[ClientId] = (), count: int = 0
) -> Participation:
    """Count who took part, by records; `enrolled` are known by name, of `count` in all.

    >>> one = {"round": 1, "invited": ["a", "b"], "accepted": ["b"]}
    >>> participation([one], count=3)
    Participation(clients=('a', 'b'), rounds=(0, 1), invited=(1, 1), never=1)
    """
    invited, accepted = Counter[ClientId](), Counter[ClientId]()
    for record in history:
        invited.update(record["invited"])
        accepted.update(record["accepted"])
    known = {*invited, *enrolled}
    clients = tuple(sorted(known, key=lambda client: (isinstance(client, str), client)))
    return Participation(
        clients,
        tuple(accepted[client] for client in clients),
        tuple(invited[client] for client in clients),
        max(0, count - len(clients)),
    )
