# SPDX-License-Identifier: Apache-2.0
"""The graph of who shares masks and secrets with whom; how many shares open a secret.

**The threshold.** A server that lies can tell some clients that a client is alive, so that they
give shares of its seed, and others that it is gone, so that they give shares of its mask key.
With both secrets it opens that client's vector. An honest holder gives at most one of the two
kinds for ever, a colluding one gives both. So of h holders with c colluders among them, both kinds
reach t only if 2t ≤ h + c; the least safe threshold is floor((h + c)/2) + 1, whether or not the
clients sign whom they were told of, since each story collects its own t signatures.

**The complete graph** (Bonawitz et al. 2017) has h = n. It is used for up to `FULL` clients, where
it costs little and bears far more dropouts and shows far larger sums than a sparse one.

**The ring** (Bell et al. 2020, "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead",
CCS): clients stand in random order, each joined to the k/2 next on either side (a Harary graph),
and h = k, as a client holds no share of its own. The finder takes the least k whose threshold is
safe and bears the losses, by exact hypergeometric tails. Against a server that picks who drops
out, a ring promises that a client hides among at least t − x + 1 honest ones (x: the most
colluders that a neighbourhood has), not among all, as long as no more than the stated number of
clients are gone: each client checks that itself.

**Who chooses the ring.** Its order is drawn from the session's hash, which covers every client's
name and fresh keys, so the server alone does not choose it. It can still try: it sees all keys
before it closes the first step, and each other roster has another order. It may leave clients out;
have a client that works for it draw its keys again, as often as it likes and at no price; or add
entries that it made up, as a client verifies the signatures of its neighbours alone. Those are the
dearest: the honest neighbours of such an entry refuse, and are gone like any others, of whom a ring
bears `losses`; and no client has more colluders around it, or fewer honest ones in its part of the
sum, than in a draw without them. Each try takes the hashes of one order and has the chance of one
draw, so against a server that makes 2^g of them in each session 2^-40 grows to 2^(g - 40). The
complete graph has no such question.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from muster.errors import PlanError

__all__ = [
    "FULL",
    "Graph",
    "Odds",
    "RingParameters",
    "apart",
    "find_ring",
    "full_threshold",
    "graph_of",
]

SECURITY, CORRECTNESS = 40.0, 30.0  # bits, over all sessions of a run
FULL = 300  # clients up to which everybody shares with everybody


@dataclass(frozen=True)
class Odds:
    """The odds that a session must bear: colluders and losses of its clients, over sessions.

    Over `sessions` together the chance that a colluding server opens a vector is at most 2^-40,
    and that honest losses end a session at most 2^-30.
    """

    colluders: int
    losses: int
    sessions: int = 10_000


@dataclass(frozen=True)
class Graph:
    """`count` clients, each with `degree` neighbours and a threshold for the shares of its secrets.

    `order` is the ring, or empty for the complete graph; `honest` the fewest honest clients that
    any opened sum holds (in a ring: that each part of it holds which can be told apart).

    >>> Graph(5, 2, 2, order=(3, 0, 4, 1, 2)).neighbours(0)
    array([3, 4])
    """

    count: int
    degree: int
    threshold: int
    order: tuple[int, ...] = ()
    honest: int = 1

    def neighbours(self, index: int) -> NDArray[np.int64]:
        """Return the clients that share a mask with this one, sorted."""
        if not self.order:
            return np.delete(np.arange(self.count), index)
        steps = np.arange(1, self.degree // 2 + 1)
        ring, at = self._ring
        return np.sort(ring[(at[index] + np.concatenate([steps, -steps])) % self.count])

    def holders(self, index: int) -> NDArray[np.int64]:
        """Return the clients that hold a share of this one's secrets, sorted.

        Its neighbours in the ring (Bell et al.); in the complete graph (Bonawitz et al.) itself as
        well. Whoever holds mine, I hold theirs.
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


@dataclass(frozen=True)
class RingParameters:
    """A ring as found: degree k, threshold t, and x, the most colluders of a neighbourhood.

    >>> find_ring(1000, Odds(colluders=100, losses=100, sessions=1))
    RingParameters(degree=114, threshold=78, colluders=40)
    """

    degree: int
    threshold: int
    colluders: int

    @property
    def honest(self) -> int:
        """The fewest honest clients of a part of the sum that can be told apart."""
        return self.threshold - self.colluders + 1


def full_threshold(count: int, colluders: int) -> int:
    """Return the least t at which no two quorums of a complete graph fit: 2t > count + colluders.

    >>> [full_threshold(n, n // 3) for n in (3, 4, 5, 20)]
    [3, 3, 4, 14]
    """
    return (count + colluders) // 2 + 1


@lru_cache(maxsize=8)
def graph_of(count: int, odds: Odds, seed: bytes, cohort: int = 0) -> Graph:
    """Return the graph of the clients whose keys came, drawn from the session's id.

    `cohort`: how many were invited, if more. All colluders of these may be among those who came, so
    the threshold of the complete graph is that of the cohort: whoever sends no keys counts as lost,
    and a server gains nothing by a roster that is short. Raises `PlanError` where too few came, or
    no threshold is safe from so many colluders.

    >>> graph_of(10, Odds(colluders=3, losses=1), bytes(32))
    Graph(count=10, degree=9, threshold=7, order=(), honest=4)
    """
    ring = find_ring(count, odds) if count > FULL else None
    if ring is not None and 2 * ring.degree <= count:  # denser, it costs as much and hides less
        ranks = sorted(range(count), key=lambda i: sha256(seed + i.to_bytes(4, "big")).digest())
        return Graph(count, ring.degree, ring.threshold, tuple(ranks), ring.honest)
    threshold = full_threshold(max(count, cohort), odds.colluders)
    if threshold > count or threshold - odds.colluders < 2:
        came = f" of {cohort} that were invited" if cohort > count else ""
        raise PlanError(
            f"{count} clients{came}, {odds.colluders} of whom may work with the server, hide "
            f"nobody; invite more clients, or trust more of them"
        )
    return Graph(count, count - 1, threshold, honest=threshold - odds.colluders)


@lru_cache(maxsize=1024)
def find_ring(count: int, odds: Odds) -> RingParameters | None:
    """Return the ring of least degree that is safe and bears the losses; None where there is none.

    Deviation from Bell et al. 2020, theorem 3.10, and from the parameter finder that Google
    published: tails are exact, also that of the ring falling apart; the server is always taken to
    deviate from the protocol; both chances are those of all sessions of a run together.

    >>> find_ring(100, Odds(colluders=10, losses=10)).degree
    32
    """
    more = math.log2(odds.sessions)
    unsafe, unlucky = 2.0 ** -(SECURITY + more + 1), 2.0 ** -(CORRECTNESS + more)
    table = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count)))])  # log of x!
    for degree in range(2, count - 1, 2):
        corrupt = _exceeding(table, odds.colluders, degree) * (count - odds.colluders)
        colluders = int(np.argmax(corrupt <= unsafe))
        threshold = (degree + colluders) // 2 + 1
        if threshold > degree:
            continue
        lost = _exceeding(table, odds.losses, degree)[degree - threshold] * count
        if lost <= unlucky and apart(count, degree, odds.colluders + odds.losses) <= unsafe:
            return RingParameters(degree, threshold, colluders)
    return None


def apart(count: int, degree: int, gone: int) -> float:
    """Return the chance that the honest survivors of a ring fall into two parts, exact to rounding.

    m = count − gone survivors in random places of the ring fall apart when two gaps between them
    are at least K = degree/2 long: inclusion and exclusion over the number of such gaps.

    >>> f"{apart(40, 6, 16):.5f}"
    '0.47363'
    """
    left, reach = count - gone, degree // 2
    if left < 2 or gone < 2 * reach:
        return 0.0
    total = 0
    for gaps in range(2, min(left, gone // reach) + 1):
        ways = math.comb(left, gaps) * math.comb(gone - gaps * reach + left - 1, left - 1)
        total += (-1) ** gaps * (gaps - 1) * ways
    return float(Fraction(total, math.comb(gone + left - 1, left - 1)))


def _exceeding(table: NDArray[np.float64], marked: int, draws: int) -> NDArray[np.float64]:
    """Return P[X > x], x = 0 … draws: so many others are drawn, so many of all are marked."""
    others = len(table) - 1
    x = np.arange(draws + 1)
    possible = (x <= marked) & (draws - x <= others - marked)
    x = x[possible]
    found = np.zeros(draws + 1)
    logs = table[marked] - table[x] - table[marked - x] - table[others] + table[draws]
    logs += table[others - marked] - table[draws - x] - table[others - marked - draws + x]
    found[possible] = np.exp(logs + table[others - draws])
    return np.append(np.cumsum(found[::-1])[::-1][1:], 0.0)
