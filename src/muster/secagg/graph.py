# SPDX-License-Identifier: Apache-2.0
"""Who shares masks and secrets with whom: a sparse random graph, or everybody with everybody.

Bell et al. 2020 ("Secure Single-Server Aggregation with (Poly)Logarithmic Overhead", CCS) replace
the complete graph of Bonawitz et al. 2017 by a random k-regular one: clients stand on a ring in
random order, each joined to the k/2 next on either side (a Harary graph). The finder chooses k
and the threshold t so that, but for a chance of 2^-sigma, nobody's neighbourhood holds t corrupt
clients, the honest survivors stay connected and (but for 2^-20) enough neighbours survive.

**Who chooses the graph.** The ring's order is drawn from the session's hash, which covers every
client's name and signed fresh keys, so the server alone does not choose it. It can still try:
it sees all keys before it closes the first step and may leave clients out, and a client in its
pay may choose its keys last. Each attempt is one hash, so against a server that makes 2^g of
them the chance grows to 2^(g-sigma); raise `Terms.security` by g to pay for it. A public beacon
or one more step of commitments would be the stronger remedies. The complete graph has no such
question.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import sha256
from math import ceil, lgamma, log

import numpy as np
from numpy.typing import NDArray

from muster.errors import PlanError

__all__ = ["Graph", "Odds", "find", "graph_of"]

ETA = 20  # bits: the chance that a neighbourhood loses too many clients is below 2^-ETA
SMALL = 30  # clients below which the complete graph costs next to nothing and bears more dropouts


@dataclass(frozen=True)
class Odds:
    """The fractions of corrupt clients and dropouts, who the server is, and bits of security."""

    corrupt: float
    dropout: float
    malicious: bool = False
    security: int = 40


@dataclass(frozen=True)
class Graph:
    """`count` clients, each with `degree` neighbours and a threshold for the shares of its secrets.

    `order` is the ring, or empty for the complete graph.

    >>> Graph(5, 2, 2, order=(3, 0, 4, 1, 2)).neighbours(0)
    array([3, 4])
    """

    count: int
    degree: int
    threshold: int
    order: tuple[int, ...] = ()

    def neighbours(self, index: int) -> NDArray[np.int64]:
        """The clients that share a mask with this one, sorted."""
        if not self.order:
            return np.delete(np.arange(self.count), index)
        steps = np.arange(1, self.degree // 2 + 1)
        ring, at = self._ring
        return np.sort(ring[(at[index] + np.concatenate([steps, -steps])) % self.count])

    def holders(self, index: int) -> NDArray[np.int64]:
        """The clients that hold a share of this one's secrets, sorted.

        Its neighbours in the sparse graph (Bell et al.); in the complete one (Bonawitz et al.)
        itself as well. Whoever holds mine, I hold theirs.
        """
        return self.neighbours(index) if self.order else np.arange(self.count)

    @cached_property
    def table(self) -> NDArray[np.int64]:
        """The holders of every client, `(count, holders)`."""
        return np.stack([self.holders(index) for index in range(self.count)])

    @cached_property
    def _ring(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        ring = np.array(self.order)
        return ring, np.argsort(ring)


@lru_cache(maxsize=8)
def graph_of(count: int, odds: Odds, seed: bytes) -> Graph:
    """The graph of a cohort: sparse where the finder has a solution, complete otherwise.

    The complete graph's threshold: more than half of all and more than the corrupt; against a
    malicious server also more than two thirds, and more than half of all and the corrupt, so that
    no two groups of honest clients can hold t shares each (Bonawitz et al. 2017, section 6).

    >>> graph_of(10, Odds(0.1, 0.1), bytes(32)).threshold
    6
    """
    found = find(count, odds) if count >= SMALL else None
    if found and found[0] < count - 1:
        ranks = sorted(range(count), key=lambda i: sha256(seed + i.to_bytes(4, "big")).digest())
        return Graph(count, *found, order=tuple(ranks))
    corrupt = int(odds.corrupt * count)
    threshold = max(count // 2, corrupt) + 1
    if odds.malicious:
        threshold = max(threshold, 2 * count // 3 + 1, (count + corrupt) // 2 + 1)
    return Graph(count, count - 1, min(threshold, count))


@lru_cache(maxsize=1024)
def find(count: int, odds: Odds) -> tuple[int, int] | None:
    """The smallest even degree k that will do, and its threshold t; None where there is none.

    Bell et al. 2020, theorem 3.10 with the exact hypergeometric tails; deviations: as in the
    parameter finder that Google published, k is even and a semi-malicious server needs 2 t > k +
    corrupt.

    >>> find(1000, Odds(corrupt=0.1, dropout=0.1))
    (48, 27)
    """
    if count < 2:
        raise PlanError(f"a cohort of {count} has no graph; invite at least 2 clients")
    corrupt, dropped = int(odds.corrupt * count), int(odds.dropout * count)
    reach = odds.corrupt + odds.dropout * (2 if odds.malicious else 1)
    if reach > 0.9 + 1e-9:
        return None
    table = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])
    unsafe, unlucky = 2.0 ** -(odds.security + 1) / count, 2.0**-ETA / count
    for degree in range(2, count, 2):
        if not _connected(count, degree, corrupt + dropped, odds.security):
            continue
        least = _least(_pmf(table, corrupt, degree), unsafe)
        most = _most(_pmf(table, count - dropped, degree), unlucky)
        if odds.malicious:
            least = ceil((least + degree - 1.25) / 2)
        if most > least:
            return degree, max(least + 1, 2)
    return None


def _connected(count: int, degree: int, lost: int, security: int) -> bool:
    """Whether the honest survivors hang together, but for a chance of 2^-(security + 1)."""
    if degree > lost:
        return True
    if count - degree - 1 < 1:
        return False
    chance = (
        log(count * (count - degree - 1) / 2)
        + lgamma(lost + 1) + lgamma(count - degree + 1)
        - lgamma(count + 1) - lgamma(lost - degree + 1)
    )  # fmt: skip
    return chance < -(security + 1) * log(2)


def _pmf(table: NDArray[np.float64], marked: int, draws: int) -> NDArray[np.float64]:
    """P[X = x], x = 0 … draws, when `draws` of all are drawn and `marked` of all are marked."""
    count = len(table) - 1
    x = np.arange(draws + 1)
    possible = (x <= marked) & (draws - x <= count - marked)
    x = x[possible]
    found = np.zeros(draws + 1)
    found[possible] = np.exp(
        table[marked] - table[x] - table[marked - x]
        + table[count - marked] - table[draws - x] - table[count - marked - draws + x]
        - table[count] + table[draws] + table[count - draws]
    )  # fmt: skip
    return found


def _least(pmf: NDArray[np.float64], chance: float) -> int:
    """The least t with P[X > t] ≤ chance."""
    above = np.append(np.cumsum(pmf[::-1])[::-1][1:], 0.0)
    return int(np.argmax(above <= chance))


def _most(pmf: NDArray[np.float64], chance: float) -> int:
    """The greatest t with P[X < t] ≤ chance."""
    below = np.append(0.0, np.cumsum(pmf))
    return int(np.flatnonzero(below <= chance)[-1])
