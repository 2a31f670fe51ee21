# SPDX-License-Identifier: Apache-2.0
"""MemoryStore: the Store without a disk, for tests and for what need not outlive a process."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from muster.errors import RunError
from muster.store.facts import invited
from muster.types import ClientId

__all__ = ["MemoryStore"]


class MemoryStore:
    """Everything in dictionaries; the semantics of any other Store, without durability.

    >>> MemoryStore().history()
    []
    """

    def __init__(self) -> None:
        self._state: tuple[int, dict[str, Any]] | None = None
        self._records: list[dict[str, Any]] = []
        self._superseded: list[tuple[int, dict[str, Any]]] = []
        self._memory: dict[ClientId, dict[str, Any]] = {}
        self._versions: dict[int, tuple[dict[str, Any], dict[ClientId, dict[str, Any]]]] = {}
        self._staged: dict[tuple[int, ClientId], dict[str, Any]] = {}

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """Return the last committed round and its arrays."""
        return self._state

    def versions(self) -> list[int]:
        """Return the committed versions whose states are kept, in order."""
        return sorted(self._versions)

    def state(self, round: int) -> dict[str, Any] | None:
        """Return the arrays of a version that is kept, or None."""
        return self._versions[round][0] if round in self._versions else None

    def memory(
        self, clients: Iterable[ClientId], version: int | None = None
    ) -> dict[ClientId, dict[str, Any]]:
        """Return the committed memory of these clients, now or when a version was committed."""
        found = self._memory if version is None else self._versions[version][1]
        return {client: found[client] for client in clients if client in found}

    def staged(self, round: int, clients: Iterable[ClientId]) -> dict[ClientId, dict[str, Any]]:
        """Return the memory of these clients that waits for this round's commit."""
        wait = self._staged
        return {client: wait[round, client] for client in clients if (round, client) in wait}

    def remember(self, round: int, client: ClientId, arrays: Mapping[str, Any]) -> None:
        """Stage a client's new memory; for a round that is committed it comes too late."""
        if round > self._last():
            self._staged[round, client] = _copied(arrays)

    def commit(
        self,
        round: int,
        arrays: Mapping[str, Any],
        record: Mapping[str, Any],
        accepted: Sequence[ClientId],
        stays: Collection[int] = (),
    ) -> None:
        """Make the round count; of the versions that are kept, those in `stays` stay beside it."""
        if round <= self._last():
            raise RunError(
                f"round {round} was given to a run that has committed round {self._last()}; "
                f"go on with round {self._last() + 1}"
            )
        state = round, _copied(arrays)
        for client in accepted:
            if (round, client) in self._staged:
                self._memory[client] = self._staged[round, client]
        self._staged.clear()
        self._state = state
        kept = {one: self._versions[one] for one in self._versions if one in stays}
        self._versions = kept | {round: (state[1], dict(self._memory))}
        self._records.append(dict(record))

    def reached(self) -> set[ClientId]:
        """Return who was invited in a round that is committed."""
        return invited(self._records)

    def rollback(self) -> None:
        """Forget what was staged since the last commit."""
        self._staged.clear()

    def go_back(self, round: int, number: int) -> None:
        """Make a version that is kept the last; later records are superseded by this rollback."""
        if round not in self._versions:
            raise RunError(f"a run keeps no model of round {round}: {self.versions()} are kept")
        self._staged.clear()
        arrays, memory = self._versions[round]
        self._state, self._memory = (round, arrays), dict(memory)
        self._versions = {one: kept for one, kept in self._versions.items() if one <= round}
        later = [record for record in self._records if record["round"] > round]
        self._superseded += [(number, record) for record in later]
        self._records = self._records[: len(self._records) - len(later)]

    def superseded(self) -> list[tuple[int, dict[str, Any]]]:
        """Return the records that rollbacks went back before, each with the rollback's number."""
        return list(self._superseded)

    def history(self) -> list[dict[str, Any]]:
        """Return all records in order."""
        return list(self._records)

    def _last(self) -> int:
        return self._state[0] if self._state else -1


def _copied(arrays: Mapping[str, Any]) -> dict[str, Any]:
    return {name: np.array(array, order="C") for name, array in arrays.items()}
