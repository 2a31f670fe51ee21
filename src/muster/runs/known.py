# SPDX-License-Identifier: Apache-2.0
"""A roster with its memory: the enrolled, and what a run's records say of each.

Nothing else remembers it: after a resume or a rollback it is read from the records again, so that
a sampler is shown the same as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from muster.types import Answer, ClientId, Clients, Cohort, Roster, Sent

__all__ = ["KnownClients"]


class KnownClients:
    """The clients of a run; `known()` also has who was seen last, when, and with what loss.

    `missing` are answers without a reply that are known beforehand, by round (a replay's).
    """

    def __init__(
        self,
        clients: Clients,
        history: Iterable[Mapping[str, Any]],
        missing: Mapping[int, Sequence[Answer]] | None = None,
    ) -> None:
        self._clients, self._missing = clients, missing or {}
        self._round = 0
        self._seen: dict[ClientId, int] = {}
        self._losses: dict[ClientId, float] = {}
        for record in history:
            self.note(record)

    def note(self, record: Mapping[str, Any]) -> None:
        """Take in the record of one more committed round."""
        self._seen |= dict.fromkeys(record["accepted"], int(record["round"]))
        for told in ("candidates", "losses"):  # those of training are the newer ones
            self._losses |= {c: loss for c, loss in record.get(told, ()) if loss is not None}

    def known(self) -> Roster:
        """Return the enrolled, with what is known of each."""
        seen, losses = MappingProxyType(self._seen), MappingProxyType(self._losses)
        return replace(self._clients.known(), seen=seen, losses=losses)

    def send(self, cohort: Cohort, sent: Sent, round: int) -> None:
        """Begin training this cohort on what was sent."""
        self._round = round
        self._clients.send(cohort, sent, round)

    def replies(self) -> Iterator[Answer]:
        """Yield answers as they come."""
        yield from self._missing.get(self._round, ())
        yield from self._clients.replies()

    def evaluate(
        self, cohort: Sequence[ClientId], sent: Sent, round: int
    ) -> Iterator[tuple[ClientId, dict[str, float]]]:
        """Yield metric sums of what was sent on the rows that each client trains on."""
        return self._clients.evaluate(cohort, sent, round)

    def settle(self, round: int, accepted: Sequence[ClientId]) -> None:
        """Tell the clients whose replies counted."""
        self._clients.settle(round, accepted)
