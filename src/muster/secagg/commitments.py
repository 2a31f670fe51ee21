# SPDX-License-Identifier: Apache-2.0
"""Commitments of a dealer when it shares its secrets, so that a lie has a name.

For each holder and each of the two secrets a dealer publishes a *leaf*, the hash of that share. A
holder compares its share with the leaf when it comes, and the share that it opens at the end is
compared again: one that does not fit its leaf was changed by its holder, and where all that were
opened fit and the secret is still another one, the dealer lied. A share has 256 bits of entropy,
so its hash says nothing about it.

Leaves alone would let a dealer hand out shares that lie on no polynomial of the right degree, which
shows only when it is too late. So it shares four more random polynomials r with each secret and
publishes Z = r + Σ_m ρ_m f_m over the limbs f_m, with ρ hashed from its leaves (Fiat and Shamir
1986): Z has degree t − 1, and a holder whose share does not lie on it says so. A dealer passes with
inconsistent shares by chance 65521^-4 = 2^-64; r is uniform, so Z says nothing about the limbs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256, shake_256

import numpy as np
from numpy.typing import NDArray

from muster.secagg.agreement import LABEL, Binding
from muster.secagg.shamir import LIMBS, PRIME, Integers, cut, evaluated, polynomials, uniform

__all__ = [
    "Dealt",
    "KINDS",
    "LEAVES",
    "ROWS",
    "SHARE",
    "VALUES",
    "challenge",
    "deal",
    "expected",
    "leaf",
    "lies_on",
    "proof_size",
    "root",
]

KINDS = 2  # of secrets that are shared: the private mask key, then the self seed
PROOFS = 4  # polynomials in proof of the degree
ROWS = LIMBS + PROOFS  # numbers of one share
SHARE = 2 * ROWS  # bytes of one share
LEAVES = 32 * KINDS  # bytes of the leaves of one holder
VALUES = 2 * PROOFS * KINDS  # bytes of the values that Z takes at one holder's point


@dataclass(frozen=True)
class Dealt:
    """One dealer's work: shares `(holders, 2, 22)`, the leaves and the proof as they travel."""

    shares: NDArray[np.uint16]
    leaves: bytes
    proof: bytes


def deal(
    binding: Binding,
    dealer: int,
    secrets: Sequence[bytes],
    holders: Integers,
    threshold: int,
    entropy: Callable[[int], bytes],
) -> Dealt:
    """Share a client's two secrets, 32 bytes each, among holders at the points index + 1.

    `binding` is what the session's keys are bound to, `threshold` the shares that open a secret.
    """
    random = uniform(KINDS * PROOFS, entropy).reshape(KINDS, PROOFS)
    rows = np.concatenate([cut(secrets), random], 1).reshape(-1)
    made = polynomials(rows, threshold, entropy).reshape(KINDS, ROWS, threshold)
    values = evaluated(made.reshape(-1, threshold), holders + 1)
    shares = np.ascontiguousarray(values.T.reshape(-1, KINDS, ROWS)).astype("<u2")
    leaves = b"".join(
        leaf(binding, dealer, holder, kind, shares[place, kind].tobytes())
        for place, holder in enumerate(holders.tolist())
        for kind in range(KINDS)
    )
    rho = challenge(binding, dealer, root(leaves))
    proof = (made[:, LIMBS:] + rho @ made[:, :LIMBS]) % PRIME
    return Dealt(shares, leaves, proof.astype("<u2").tobytes())


def leaf(binding: Binding, dealer: int, holder: int, kind: int, share: bytes) -> bytes:
    """Return the hash of one share, 32 bytes."""
    place = bytes((kind,)) + dealer.to_bytes(4, "big") + holder.to_bytes(4, "big")
    return sha256(LABEL + b"leaf" + binding.session + binding.context + place + share).digest()


def root(leaves: bytes) -> bytes:
    """Return the hash of all leaves of a dealer, which it signs.

    >>> len(root(bytes(128)))
    32
    """
    return sha256(LABEL + b"leaves" + leaves).digest()


def challenge(binding: Binding, dealer: int, root: bytes) -> Integers:
    """Return ρ `(2, 4, 18)`: what each limb of a secret counts in each of the four proofs."""
    head = LABEL + b"degree" + binding.session + binding.context + dealer.to_bytes(4, "big")
    data = shake_256(head + root).digest(8 * KINDS * PROOFS * LIMBS)
    words = np.frombuffer(data, "<u8") % PRIME
    return words.astype(np.int64).reshape(KINDS, PROOFS, LIMBS)


def proof_size(threshold: int) -> int:
    """Count the bytes of a proof.

    >>> proof_size(67)
    1072
    """
    return 2 * KINDS * PROOFS * threshold


def expected(proofs: NDArray[np.uint16], powers: NDArray[np.float64]) -> NDArray[np.uint16]:
    """Return the values that proofs `(dealers, 2 · 4 · t)` take at points: `(dealers, points, 8)`.

    `powers` are those of the points, `(t, points)`; see `shamir.vandermonde`.
    """
    count, threshold = len(proofs), len(powers)
    rows = proofs.reshape(-1, threshold).astype(np.float64)
    values = ((rows @ powers) % PRIME).astype("<u2")
    return np.ascontiguousarray(values.reshape(count, KINDS * PROOFS, -1).swapaxes(1, 2))


def lies_on(share: NDArray[np.uint16], rho: Integers, values: bytes) -> bool:
    """Return whether a dealer's share `(2, 22)` has its proof's values at this holder."""
    rows = share.astype(np.int64)
    found = (rows[:, LIMBS:] + (rho @ rows[:, :LIMBS, None])[..., 0]) % PRIME
    return found.astype("<u2").tobytes() == values
