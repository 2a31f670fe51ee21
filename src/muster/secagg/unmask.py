# SPDX-License-Identifier: Apache-2.0
"""Opening the sum: secrets from shares, masks from secrets, and the masks taken off.

Bonawitz et al. 2017, figure 4, round 4: the seed of each survivor, and the mask key of each
client that shared and then fell silent. Every secret is compared with its public half before it
is used. Where it does not match, the wrong shares are found (`shamir.wrong`) and the secret is
rebuilt without them, as long as t + 2 e shares came for e wrong ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from muster.secagg.agreement import Binding, Private, commitment
from muster.secagg.graph import Graph
from muster.secagg.mask import blend
from muster.secagg.messages import Entry
from muster.secagg.ring import Words
from muster.secagg.session import Aborted, Reason, Terms
from muster.secagg.shamir import LIMBS, PRIME, combine, joined, weights, wrong

__all__ = ["Cohort", "Set", "unmask"]

Set = NDArray[np.bool_]
Shares = NDArray[np.uint16]
Disputes = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Cohort:
    """The clients of a session, as the server sees them from the roster on.

    A pair is (client, one of its holders), numbered by client, then holder.
    """

    terms: Terms
    entries: tuple[Entry, ...]
    graph: Graph
    index: dict[str, int]
    binding: Binding

    @property
    def pairs(self) -> int:
        """How many pairs there are."""
        return self.graph.table.size

    def places(self, index: int) -> NDArray[np.int64]:
        """The numbers of the pairs (client, holder) of one client."""
        held = self.graph.table.shape[1]
        return np.arange(held * index, held * (index + 1))

    def mirror(self, index: int) -> NDArray[np.int64]:
        """The numbers of the pairs (holder, client) of one client, in the order of its holders."""
        found: NDArray[np.int64] = self._mirrors[index]
        return found

    def no_shares(self) -> Shares:
        """Room for a share for every pair, as if none had come."""
        return np.full((self.pairs, LIMBS), 65535, np.uint16)

    def check(self, sharing: Set, alive: Set) -> None:
        """Raise `Aborted` unless every secret that will be needed has t living holders."""
        short = (alive[self.graph.table].sum(1) < self.graph.threshold) & sharing
        if short.any():
            raise Aborted(
                Reason.THRESHOLD,
                f"fewer than {self.graph.threshold} holders are left of the secrets of "
                f"{short.sum()} clients: invite more clients or bear fewer dropouts",
            )

    def arrivals(self, index: int, sharing: Set) -> NDArray[np.int64]:
        """The pairs (sender, client) whose shares go to one client."""
        holders = self.graph.holders(index)
        found: NDArray[np.int64] = self.mirror(index)[sharing[holders] & (holders != index)]
        return found

    @cached_property
    def _mirrors(self) -> NDArray[np.int64]:
        table, count = self.graph.table, len(self.entries)
        rows = np.arange(count)[:, None]
        found: NDArray[np.int64] = np.searchsorted(
            (rows * count + table).reshape(-1), table * count + rows
        )
        return found


def unmask(cohort: Cohort, sets: tuple[Set, Set], shares: Shares, total: Words) -> Disputes:
    """Take all masks off the total, in place; the pairs (dealer, holder) of wrong shares.

    Raises `Aborted`, before anything is taken off, where a secret cannot be rebuilt.
    """
    sharing, alive = sets
    dealers = np.flatnonzero(sharing)
    secrets, disputes = _secrets(cohort, dealers, alive, shares)
    plus: list[bytes] = []
    minus: list[bytes] = []
    for i, secret in zip(dealers.tolist(), secrets, strict=True):
        if alive[i]:
            minus.append(cohort.binding.own(secret))
            continue
        private, near = Private(secret), cohort.graph.neighbours(i)
        for j in near[alive[near]].tolist():
            key = cohort.binding.mask(private.agree(cohort.entries[j].mask_key), i, j)
            (minus if i < j else plus).append(key)  # j added the masks of those before it
    blend(total, plus, minus)
    cohort.terms.ring.reduce(total)
    names = [entry.name for entry in cohort.entries]
    return tuple((names[dealer], names[holder]) for dealer, holder in disputes)


def _secrets(
    cohort: Cohort, dealers: NDArray[np.int64], alive: Set, shares: Shares
) -> tuple[list[bytes], list[tuple[int, int]]]:
    """The secret of every dealer; holders that were caught before are asked last."""
    found: dict[int, bytes] = {}
    disputes: list[tuple[int, int]] = []
    doubts = np.zeros(len(cohort.entries), np.int64)
    left = dealers.tolist()
    while left:
        rebuilt = zip(left, _rebuilt(cohort, left, doubts, shares), strict=True)
        found |= {i: s for i, s in rebuilt if _fits(cohort.entries[i], bool(alive[i]), s)}
        left = [i for i in left if i not in found]
        if left:  # one is decoded; whom it exposes, the next pass avoids
            liars, secret = _decoded(cohort, left[0], shares)
            if not _fits(cohort.entries[left[0]], bool(alive[left[0]]), secret):
                raise Aborted(
                    Reason.SHARES,
                    f"the shares of {cohort.entries[left[0]].name!r} do not give its secret, with "
                    f"or without any that were found wrong; leave that client out and try again",
                )
            found[left[0]] = secret
            disputes += [(left[0], j) for j in liars]
            doubts[liars] += 1
            del left[0]
    return [found[i] for i in dealers.tolist()], disputes


def _rebuilt(
    cohort: Cohort, dealers: Sequence[int], doubts: NDArray[np.int64], shares: Shares
) -> list[bytes]:
    """Secrets from t shares each; the coefficients once for every set of holders."""
    sets: dict[bytes, list[int]] = {}
    for i in dealers:
        holders = cohort.graph.table[i]
        came = (shares[cohort.mirror(i)] < PRIME).all(1)
        ranks = np.flatnonzero(came)[np.argsort(doubts[holders[came]], kind="stable")]
        chosen = np.sort(ranks[: cohort.graph.threshold])
        sets.setdefault(holders[chosen].tobytes(), []).append(i)
    return _combined(cohort, sets, dealers, shares)


def _combined(
    cohort: Cohort, sets: dict[bytes, list[int]], dealers: Sequence[int], shares: Shares
) -> list[bytes]:
    limbs: dict[int, NDArray[np.int64]] = {}
    whole = {key: np.frombuffer(key, np.int64) for key in sets}
    enough = [key for key in sets if len(whole[key]) == cohort.graph.threshold]
    rows = weights(np.stack([whole[key] for key in enough]) + 1) if enough else ()
    for key, row in zip(enough, rows, strict=True):
        for i in sets[key]:
            columns = np.searchsorted(cohort.graph.table[i], whole[key])
            limbs[i] = combine(shares[cohort.mirror(i)[columns]].astype(np.int64), row)
    empty = np.zeros(LIMBS, np.int64)  # too few came: decoding will say so
    return joined(np.stack([limbs.get(i, empty) for i in dealers]))


def _decoded(cohort: Cohort, dealer: int, shares: Shares) -> tuple[list[int], bytes]:
    """The holders whose share of a dealer's secret is wrong, and the secret from the others."""
    mine, holders = shares[cohort.mirror(dealer)].astype(np.int64), cohort.graph.table[dealer]
    came = (mine < PRIME).all(1)
    mine, points = mine[came], holders[came] + 1
    bad = wrong(points, mine, cohort.graph.threshold)
    if bad is None:
        return [], b""
    good = np.flatnonzero(~bad)[: cohort.graph.threshold]
    limbs = combine(mine[good], weights(points[good][None])[0])
    return (points[bad] - 1).tolist(), joined(limbs[None])[0]


def _fits(entry: Entry, alive: bool, secret: bytes) -> bool:
    """Whether a secret is the private half of what its owner signed."""
    if alive:
        return commitment(secret) == entry.commitment
    return len(secret) == 32 and Private(secret).public == entry.mask_key
