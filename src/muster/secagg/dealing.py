# SPDX-License-Identifier: Apache-2.0
"""The shares of a session at the server: what was dealt, what each holder gets, who lied about it.

Everything is an array over pairs (dealer, one of its holders), numbered by dealer, then holder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from muster.secagg.agreement import Binding
from muster.secagg.answers import Set
from muster.secagg.commitments import (
    KINDS,
    LEAVES,
    ROWS,
    challenge,
    expected,
    leaf,
    lies_on,
    proof_size,
    root,
)
from muster.secagg.graph import Graph
from muster.secagg.messages import Complaint, PublicKeys, Shares
from muster.secagg.pieces import SEALED, Held, assembled, values_in
from muster.secagg.session import Aborted, Liar, SessionReason, SessionTerms
from muster.secagg.shamir import PRIME, vandermonde

__all__ = ["Dealing", "Pairs", "SessionMembers", "liars", "room_for_shares"]

Pairs = NDArray[np.int64]  # numbers of pairs


@dataclass(frozen=True)
class SessionMembers:
    """The clients of a session, as the server sees them from the roster on."""

    terms: SessionTerms
    entries: tuple[PublicKeys, ...]
    graph: Graph
    index: dict[str, int]
    binding: Binding

    @property
    def pairs(self) -> int:
        """The number of pairs."""
        return self.graph.table.size

    def places(self, index: int) -> Pairs:
        """Return the numbers of the pairs (client, holder) of one client."""
        held = self.graph.table.shape[1]
        return np.arange(held * index, held * (index + 1))

    def mirror(self, index: int) -> Pairs:
        """Return the numbers of the pairs (holder, client) of one client, in its holders' order."""
        found: Pairs = self._mirrors[index]
        return found

    def check(self, sharing: Set, alive: Set) -> None:
        """Raise `Aborted` unless the clients can be told that so many are left.

        Else each of them would refuse the story and leave, as if it had failed, for what others
        left out: it wants t holders around it, and in a ring no more gone than that is made for.
        """
        least = len(alive) - self.terms.losses
        if self.graph.order and alive.sum() < least:
            raise Aborted(
                SessionReason.THRESHOLD,
                f"{alive.sum()} clients are left, and the ring is made for {least} or more: invite "
                f"more clients or bear more dropouts",
            )
        self.check_holders(sharing, alive)

    def check_holders(self, sharing: Set, alive: Set) -> None:
        """Raise `Aborted` unless every secret that will be needed has t living holders."""
        short = (alive[self.graph.table].sum(1) < self.graph.threshold) & sharing
        if short.any():
            raise Aborted(
                SessionReason.THRESHOLD,
                f"fewer than {self.graph.threshold} holders are left of the secrets of "
                f"{short.sum()} clients: invite more clients or bear fewer dropouts",
            )

    def names(self, some: Iterable[int]) -> list[str]:
        """Return the names behind some indices."""
        return [self.entries[i].name for i in some]

    @cached_property
    def _mirrors(self) -> NDArray[np.int64]:
        table, count = self.graph.table, len(self.entries)
        rows = np.arange(count)[:, None]
        found: NDArray[np.int64] = np.searchsorted(
            (rows * count + table).reshape(-1), table * count + rows
        )
        return found


@dataclass
class Dealing:
    """The dealing of a session: sealed shares, leaves and proofs, by pair or by dealer.

    `wrong` are the complaints that came, by (dealer, holder), `opened` the shares `(2, 22)` of
    those that were answered.
    """

    cohort: SessionMembers
    sharing: Set = field(init=False)
    wrong: dict[tuple[int, int], Complaint] = field(default_factory=dict)
    opened: dict[tuple[int, int], Held] = field(default_factory=dict)

    def __post_init__(self) -> None:
        cohort = self.cohort
        count, threshold = len(cohort.entries), cohort.graph.threshold
        self.sharing = np.zeros(count, np.bool_)
        self._sealed = np.zeros((cohort.pairs, SEALED), np.uint8)
        self._leaves = np.zeros((cohort.pairs, LEAVES), np.uint8)
        self._roots = np.zeros((count, 32), np.uint8)
        self._proofs = np.zeros((count, proof_size(threshold) // 2), "<u2")

    def take(self, index: int, shares: Shares) -> SessionReason | None:
        """Take a dealer's message in, or say why it is none."""
        cohort = self.cohort
        holders, places = cohort.graph.holders(index), cohort.places(index)
        away = places[holders != index]
        proof = np.frombuffer(shares.proof, "<u2") if len(shares.proof) % 2 == 0 else None
        sizes = (len(shares.sealed), len(shares.leaves))
        if sizes != (SEALED * len(away), LEAVES * len(places)) or proof is None:
            return SessionReason.MALFORMED
        if len(proof) != self._proofs.shape[1] or (proof >= PRIME).any():
            return SessionReason.MALFORMED
        self._sealed[away] = np.frombuffer(shares.sealed, np.uint8).reshape(-1, SEALED)
        self._leaves[places] = np.frombuffer(shares.leaves, np.uint8).reshape(-1, LEAVES)
        self._roots[index] = np.frombuffer(root(shares.leaves), np.uint8)
        self._proofs[index] = proof
        self.sharing[index] = True
        return None

    def pieces(self, index: int) -> bytes:
        """Return the pieces for one holder, one from every dealer it has, in order."""
        pairs, dealers = self._given(index)
        return self._assembled(pairs, dealers, index).tobytes()

    def piece(self, dealer: int, holder: int) -> bytes:
        """Return the piece of one dealer for one holder."""
        place = int(np.searchsorted(self.cohort.graph.holders(dealer), holder))
        pair = self.cohort.places(dealer)[place : place + 1]
        return self._assembled(pair, np.array([dealer]), holder).tobytes()

    def complaints_by(self, index: int, dealers: Iterable[int]) -> bool:
        """Return whether these are dealers whose pieces this holder got, each once, in order."""
        given, said = set(self._given(index)[1].tolist()), list(dealers)
        return said == sorted(set(said)) and given >= set(said)

    def accused(self, out: Set) -> dict[int, list[Complaint]]:
        """Return the complaints to be answered, by dealer; those of and about `out` are void."""
        found: dict[int, list[Complaint]] = {}
        for (dealer, holder), one in sorted(self.wrong.items()):
            if not out[dealer] and not out[holder]:
                found.setdefault(dealer, []).append(one)
        return found

    def overdone(self) -> dict[int, str]:
        """Return those who complain about more than all colluders, or are complained about by more.

        No honest client is, while at most c = `colluders` lie. What an honest dealer sent fits, and
        an honest server hands it on unchanged, so an honest holder complains about liars alone,
        about c at most; and liars alone complain about an honest dealer, c at most. It needs c ≥ 1
        (`SessionTerms`): else one liar that deals nonsense makes each honest holder complain about
        one more than may lie. Those who complain too much are out first, and their complaints with
        them, which lowers the other counts alone. Whoever is left is complained about by c at most,
        as many as an honest client opens shares for (`answers.accused`).
        """
        most, out = self.cohort.terms.colluders, dict[int, str]()
        by = Counter(holder for _, holder in self.wrong)
        for index, count in sorted(by.items()):
            if count > most:
                out[index] = f"it complained about {count} others, and {most} may lie"
        about = Counter(dealer for dealer, holder in self.wrong if holder not in out)
        for index, count in sorted(about.items()):
            if count > most:
                out.setdefault(index, f"{count} others complained about it, and {most} may lie")
        return out

    def answered(self, dealer: int, complaints: Iterable[Complaint], shares: bytes) -> bool:
        """Return whether the shares that a dealer has opened are those it had bound itself to.

        Then they are kept here: whether dealer or holder lied about what was sealed cannot be told,
        but one of the two did, so the adversary knew these shares before.
        """
        rows = np.frombuffer(shares, "<u2").reshape(-1, KINDS, ROWS)
        rho = challenge(self.cohort.binding, dealer, self._roots[dealer].tobytes())
        found: dict[tuple[int, int], Held] = {}
        for one, share in zip(complaints, rows, strict=True):
            values = values_in(self.piece(dealer, one.holder))
            fits = all(self.fits(dealer, one.holder, kind, share[kind]) for kind in range(KINDS))
            if not (fits and (share < PRIME).all() and lies_on(share, rho, values)):
                return False
            found[dealer, one.holder] = share
        self.opened |= found
        return True

    def fits(self, dealer: int, holder: int, kind: int, share: NDArray[np.uint16]) -> bool:
        """Return whether a share `(22,)` of one secret is the one behind its leaf."""
        place = int(np.searchsorted(self.cohort.graph.holders(dealer), holder))
        leaves = self._leaves[self.cohort.places(dealer)[place]]
        mine = leaf(self.cohort.binding, dealer, holder, kind, share.astype("<u2").tobytes())
        return bool(leaves[32 * kind : 32 * (kind + 1)].tobytes() == mine)

    def digest(self, dealer: int, holder: int) -> bytes:
        """Return the hash of a piece, as a complaint about it signs it."""
        return sha256(self.piece(dealer, holder)).digest()

    def release(self) -> None:
        """Let go of the sealed shares, once nobody can ask for them or complain any more."""
        self._sealed = self._sealed[:0]

    def _given(self, index: int) -> tuple[Pairs, Pairs]:
        """Return the pairs whose pieces one holder is given, and their dealers."""
        holders = self.cohort.graph.holders(index)
        some = self.sharing[holders] & (holders != index)
        return self.cohort.mirror(index)[some], holders[some]

    def _assembled(self, pairs: Pairs, dealers: Pairs, holder: int) -> NDArray[np.uint8]:
        threshold = self.cohort.graph.threshold
        powers = vandermonde(np.array([holder + 1]), threshold)
        values = expected(self._proofs[dealers], powers)[:, 0]
        leaves = self._leaves[pairs]
        return assembled(self._sealed[pairs], self._roots[dealers], leaves, values)


def room_for_shares(cohort: SessionMembers) -> Held:
    """Return room for one opened share of every pair, as if none had come."""
    return np.full((cohort.pairs, ROWS), 65535, np.uint16)


def liars(cohort: SessionMembers, found: Mapping[int, str]) -> tuple[Liar, ...]:
    """Return those who lied, by name."""
    return tuple(Liar(cohort.entries[i].name, found[i]) for i in sorted(found))
