# SPDX-License-Identifier: Apache-2.0
"""MemoryStore: the Store without a disk, for tests and for what need not outlive a process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from muster.errors import RunError
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
        self._memory: dict[ClientId, dict[str, Any]] = {}
        self._staged: dict[tuple[int, ClientId], dict[str, Any]] = {}

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """The last committed round and its arrays."""
        return self._state

    def memory(self, clients: Iterable[ClientId]) -> dict[ClientId, dict[str, Any]]:
        """The committed memory of these clients."""
        return {client: self._memory[client] for client in clients if client in self._memory}

    def staged(self, round: int, clients: Iterable[ClientId]) -> dict[ClientId, dict[str, Any]]:
        """The memory of these clients that waits for this round's commit."""
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
    ) -> None:
        """Make the round count."""
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
        self._records.append(dict(record))

    def rollback(self) -> None:
        """Forget what was staged since the last commit."""
        self._staged.clear()

    def history(self) -> list[dict[str, Any]]:
        """All records in order."""
        return list(self._records)

    def _last(self) -> int:
        return self._state[0] if self._state else 0


def _copied(arrays: Mapping[str, Any]) -> dict[str, Any]:
    return {name: np.array(array, order="C") for name, array in arrays.items()}
