# SPDX-License-Identifier: Apache-2.0
"""A piece: what a holder is given of one dealer, and what a complaint is about.

In order, the shares of both secrets, sealed for the holder; the root of the dealer's leaves, which
the dealer has signed; the two leaves that are the holder's; and the values that the dealer's proof
takes at the holder's point. The server assembles it from what the dealer said, the holder opens
it, and the dealer can tell what a holder was given if nobody changed it on its way.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from muster.secagg.agreement import Binding
from muster.secagg.commitments import (
    KINDS,
    LEAVES,
    ROWS,
    SHARE,
    VALUES,
    challenge,
    expected,
    leaf,
    lies_on,
    root,
)
from muster.secagg.messages import Shares
from muster.secagg.shamir import PRIME, Integers, vandermonde

__all__ = ["Held", "PIECE", "SEALED", "assembled", "opened", "sent", "values_in"]

Held = NDArray[np.uint16]  # shares of mask keys and seeds, (…, 2, 22)
Bytes = NDArray[np.uint8]
SEALED = KINDS * SHARE + 16  # bytes of the shares for one holder, on their way
PIECE = SEALED + 32 + LEAVES + VALUES  # bytes of all that a holder is given of one dealer


def assembled(sealed: Bytes, roots: Bytes, leaves: Bytes, values: NDArray[np.uint16]) -> Bytes:
    """Assemble pieces `(dealers, PIECE)` for one holder, of parts with a row for each dealer.

    >>> rows = [np.zeros((3, size), np.uint8) for size in (SEALED, 32, LEAVES)]
    >>> assembled(*rows, np.zeros((3, VALUES // 2), np.uint16)).shape == (3, PIECE)
    True
    """
    taken = np.ascontiguousarray(values, "<u2").view(np.uint8).reshape(len(values), VALUES)
    return np.concatenate((sealed, roots, leaves, taken), 1)


def sent(said: Shares, dealer: int, holders: Integers, place: int, threshold: int) -> bytes:
    """Return a dealer's piece for the holder at a place among its own, from what it said."""
    order = place - int((holders[:place] == dealer).sum())  # to itself it seals nothing
    powers = vandermonde(holders[place : place + 1] + 1, threshold)
    return assembled(
        _row(said.sealed, order, SEALED),
        _row(root(said.leaves), 0, 32),
        _row(said.leaves, place, LEAVES),
        expected(np.frombuffer(said.proof, "<u2")[None], powers)[:, 0],
    ).tobytes()


def opened(binding: Binding, secret: bytes, way: tuple[int, int], piece: bytes) -> Held | None:
    """Return the shares `(2, 22)` in a piece, where they are what their dealer bound itself to.

    `secret` is what dealer and holder agreed on for their channel, `way` their indices. None where
    the shares cannot be unsealed, are not those behind their leaves, or lie on no polynomial.
    """
    dealer, holder = way
    top, leaves = piece[SEALED : SEALED + 32], piece[SEALED + 32 : PIECE - VALUES]
    data = binding.unseal(secret, dealer, holder, piece[:SEALED])
    if data is None:
        return None
    share = np.frombuffer(data, "<u2").reshape(KINDS, ROWS)
    found = b"".join(
        leaf(binding, dealer, holder, kind, share[kind].tobytes()) for kind in range(KINDS)
    )
    if found != leaves or not (share < PRIME).all():
        return None
    return share if lies_on(share, challenge(binding, dealer, top), values_in(piece)) else None


def values_in(piece: bytes) -> bytes:
    """Return the values of the dealer's proof at the holder's point, as they lie in a piece."""
    return piece[PIECE - VALUES :]


def _row(data: bytes, place: int, size: int) -> Bytes:
    return np.frombuffer(data, np.uint8, size, size * place)[None]
