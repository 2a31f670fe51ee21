# SPDX-License-Identifier: Apache-2.0
"""One round of secure aggregation to be played by several systems: its clients, vectors, sum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import median

import numpy as np
from numpy.typing import NDArray

from muster.secagg.graph import Graph, Odds, graph_of

__all__ = ["MOST", "Case", "Played"]

MOST = 65535


@dataclass(frozen=True)
class Case:
    """`count` clients with vectors of `size` integers of 16 bits; one in ten lost after sharing.

    Neighbours and threshold are those of muster's graph where the fraction `corrupt` may collude.
    """

    count: int
    size: int
    corrupt: float = 0.1

    @cached_property
    def lost(self) -> frozenset[int]:
        """The clients that share, and then fall silent."""
        chosen = np.random.default_rng(1).permutation(self.count)[: self.count // 10]
        return frozenset(chosen.tolist())

    @property
    def degree(self) -> int:
        """Neighbours of each client."""
        return self._graph.degree

    @property
    def threshold(self) -> int:
        """Shares that give a secret back."""
        return self._graph.threshold

    @property
    def colluders(self) -> int:
        """The number that may work with the server."""
        return int(self.corrupt * self.count)

    def vector(self, index: int) -> NDArray[np.uint32]:
        """Return one client's vector `(size,)`."""
        return np.random.default_rng(index).integers(0, MOST + 1, self.size, np.uint32)

    @cached_property
    def total(self) -> NDArray[np.int64]:
        """The plain sum of those who are not lost."""
        total = np.zeros(self.size, np.int64)
        for index in set(range(self.count)) - self.lost:
            total += self.vector(index)
        return total

    @cached_property
    def _graph(self) -> Graph:
        return graph_of(self.count, Odds(self.colluders, self.count // 10), bytes(32))


@dataclass(frozen=True)
class Played:
    """The sum that a system opened, processor seconds by party, bytes of one masked vector."""

    total: NDArray[np.int64]
    spent: Mapping[str, float]
    sent: int

    @property
    def server(self) -> float:
        """The server's seconds."""
        return self.spent["server"]

    def client(self, lost: int) -> float:
        """Return the median client's seconds, of those who stayed: the `lost` ones did less."""
        clients = sorted(s for who, s in self.spent.items() if who not in ("", "server"))
        return median(clients[lost:])
