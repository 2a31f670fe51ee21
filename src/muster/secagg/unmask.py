# SPDX-License-Identifier: Apache-2.0
"""Opening the sum: secrets from shares, masks from secrets, and the masks taken off.

Bonawitz et al. 2017, figure 4, round 4: the seed of each survivor, and the mask key of each
member that fell silent. Every secret is compared with its public half before it is used. Where it
does not match, each share is compared with the leaf that its dealer published: those that do not
fit were changed by their holders, who are named, and the secret is rebuilt from others. Where all
fit, the dealer shared another secret than its own: it is named, and the session is lost.

A holder that spoke and opened no share of a member is named as well, whether or not the share was
needed. An honest one holds a share of each member: what it was given and found no fault with it has
kept, and where it complained, the dealer has opened that share, or is no member. So, as t holders
of every member have spoken when this begins, no session ends here without a name.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from muster.secagg.agreement import PrivateKey, commitment
from muster.secagg.dealing import Dealing, SessionMembers, liars
from muster.secagg.mask import blend
from muster.secagg.messages import PublicKeys
from muster.secagg.ring import Words
from muster.secagg.session import Aborted, Liar, SessionReason
from muster.secagg.shamir import LIMBS, PRIME, combine, joined, weights

__all__ = ["Set", "unmask"]

Set = NDArray[np.bool_]
Shares = NDArray[np.uint16]


def unmask(
    dealing: Dealing, sets: tuple[Set, Set, Set], shares: Shares, total: Words
) -> tuple[Liar, ...]:
    """Take all masks off the total, in place; who was caught with a wrong share, or with none.

    `sets` are the members, those who survived, and those who spoke in the last step; `shares` the
    opened ones `(pairs, 22)`. Raises `Aborted`, before anything is taken off, where a secret cannot
    be rebuilt.
    """
    cohort, (members, alive, spoke) = dealing.cohort, sets
    dealers = np.flatnonzero(members)
    for (dealer, holder), share in dealing.opened.items():  # in answer to a complaint
        place = int(np.searchsorted(cohort.graph.table[dealer], holder))
        shares[cohort.mirror(dealer)[place]] = share[int(alive[dealer])]
    good = np.asarray((shares < PRIME).all(1), np.bool_)
    lied = _kept_back(cohort, good, members, spoke)
    secrets = _secrets(dealing, dealers, alive, (shares, good), lied)
    plus: list[bytes] = []
    minus: list[bytes] = []
    for i, secret in zip(dealers.tolist(), secrets, strict=True):
        if alive[i]:
            minus.append(cohort.binding.own(secret))
            continue
        private, near = PrivateKey(secret), cohort.graph.neighbours(i)
        for j in near[alive[near]].tolist():
            key = cohort.binding.mask(private.agree(cohort.entries[j].mask_key), i, j)
            (minus if i < j else plus).append(key)  # j added the masks of those before it
    blend(total, plus, minus)
    cohort.terms.ring.reduce(total)
    return liars(cohort, lied)


def _kept_back(cohort: SessionMembers, good: Set, members: Set, spoke: Set) -> dict[int, str]:
    """Return those who spoke, and opened no number where they hold a member's share."""
    table, lied = cohort.graph.table, dict[int, str]()
    none = ~good.reshape(table.shape) & members[table] & spoke[:, None]
    for holder in np.flatnonzero(none.any(1)).tolist():
        name = cohort.entries[table[holder, none[holder].argmax()]].name
        lied[holder] = f"it opened no share of {name!r}, and did not complain about the one it got"
    return lied


def _secrets(
    dealing: Dealing,
    dealers: NDArray[np.int64],
    alive: Set,
    opened: tuple[Shares, Set],
    lied: dict[int, str],
) -> list[bytes]:
    """Return the secret of every dealer; the holders whose shares were wrong go to those who lied.

    `opened` are the shares, and which of them are numbers of the field. All who can be caught are
    caught before the session is given up: a liar is left out of the next one, so liars cost no more
    sessions than there are of them.
    """
    cohort, (shares, good) = dealing.cohort, opened
    lost: dict[int, str] = {}
    found = dict(
        zip(dealers.tolist(), _rebuilt(cohort, dealers.tolist(), shares, good), strict=True)
    )
    for i in dealers.tolist():
        entry, living = cohort.entries[i], bool(alive[i])
        if _fits(entry, living, found[i]):
            continue
        lied |= _changed(dealing, i, int(living), shares, good)
        found[i] = _rebuilt(cohort, [i], shares, good)[0]
        if not _fits(entry, living, found[i]):
            enough = int(good[cohort.mirror(i)].sum()) >= cohort.graph.threshold
            lost[i] = (
                "all shares of its secret fit, and the secret is another one" if enough else ""
            )
    if lost:
        lied |= {i: why for i, why in lost.items() if why}
        names = ", ".join(map(repr, cohort.names(lost)))
        raise Aborted(
            SessionReason.SHARES,
            f"the shares of {names} do not give their secrets back; whoever lied is left out of "
            f"the next session",
            liars=liars(cohort, lied),
        )
    return [found[i] for i in dealers.tolist()]


def _changed(dealing: Dealing, dealer: int, kind: int, shares: Shares, good: Set) -> dict[int, str]:
    """Say who opened a share of this dealer that is not what it was given; `good` forgets those."""
    cohort, lied = dealing.cohort, dict[int, str]()
    pairs = cohort.mirror(dealer)
    for pair, holder in zip(pairs.tolist(), cohort.graph.table[dealer].tolist(), strict=True):
        if good[pair] and not dealing.fits(dealer, holder, kind, shares[pair]):
            good[pair] = False
            name = cohort.entries[dealer].name
            lied[holder] = f"it opened another share of {name!r} than it was given"
    return lied


def _rebuilt(
    cohort: SessionMembers, dealers: Sequence[int], shares: Shares, good: Set
) -> list[bytes]:
    """Rebuild secrets from t good shares each; the coefficients once for every set of holders."""
    sets: dict[bytes, list[int]] = {}
    for i in dealers:
        ranks = np.flatnonzero(good[cohort.mirror(i)])[: cohort.graph.threshold]
        sets.setdefault(cohort.graph.table[i][ranks].tobytes(), []).append(i)
    return _combined(cohort, sets, dealers, shares)


def _combined(
    cohort: SessionMembers, sets: dict[bytes, list[int]], dealers: Sequence[int], shares: Shares
) -> list[bytes]:
    limbs: dict[int, NDArray[np.int64]] = {}
    whole = {key: np.frombuffer(key, np.int64) for key in sets}
    enough = [key for key in sets if len(whole[key]) == cohort.graph.threshold]
    rows = weights(np.stack([whole[key] for key in enough]) + 1) if enough else ()
    for key, row in zip(enough, rows, strict=True):
        for i in sets[key]:
            columns = np.searchsorted(cohort.graph.table[i], whole[key])
            some = shares[cohort.mirror(i)[columns], :LIMBS].astype(np.int64)
            limbs[i] = combine(some, row)
    empty = np.zeros(LIMBS, np.int64)  # too few came: no secret is all zeros
    return joined(np.stack([limbs.get(i, empty) for i in dealers]))


def _fits(entry: PublicKeys, alive: bool, secret: bytes) -> bool:
    """Return whether a secret is the private half of what its owner signed."""
    if alive:
        return commitment(secret) == entry.commitment
    return PrivateKey(secret).public == entry.mask_key
