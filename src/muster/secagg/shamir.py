# SPDX-License-Identifier: Apache-2.0
"""Shamir's secret sharing of many secrets at once, as products of matrices.

Shamir 1979 ("How to share a secret", CACM 22). A secret of 32 bytes is cut into 18 limbs of 15
bits, each below p = 65521; limb m is f_m(0) for a random polynomial of degree t - 1 over GF(p),
and the share of the client at point x is (f_0(x), …, f_17(x)). In float64 one product of matrices
is exact while t p² < 2^53. Deviation: Shamir takes one prime above the secret; limbs give every
client 36 bytes instead of 33 and let the processor's own arithmetic do the work.

The prime is an argument, so that a test can walk through a whole small field.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import shake_256

import numpy as np
from numpy.typing import NDArray

__all__ = ["LIMBS", "PRIME", "combine", "cut", "joined", "split", "weights", "wrong"]

PRIME = 65521
LIMBS = 18
WIDTH = 15

Integers = NDArray[np.int64]


def cut(secrets: Sequence[bytes]) -> Integers:
    """Secrets of 32 bytes as limbs `(secrets, 18)`.

    >>> joined(cut([bytes(range(32))])) == [bytes(range(32))]
    True
    """
    flat = np.frombuffer(b"".join(secrets), np.uint8).reshape(len(secrets), 32)
    bits = np.unpackbits(flat, axis=1, bitorder="little")
    bits = np.pad(bits, ((0, 0), (0, LIMBS * WIDTH - 256))).reshape(-1, LIMBS, WIDTH)
    limbs: Integers = bits @ (1 << np.arange(WIDTH))
    return limbs


def joined(limbs: Integers) -> list[bytes]:
    """The secrets of 32 bytes behind limbs `(secrets, 18)`; bits beyond a limb's are dropped."""
    bits = (limbs[..., None] >> np.arange(WIDTH) & 1).astype(np.uint8)
    flat = np.packbits(bits.reshape(len(limbs), -1)[:, :256], axis=1, bitorder="little")
    return [row.tobytes() for row in flat]


def split(
    limbs: Integers,
    points: Integers,
    threshold: int,
    entropy: Callable[[int], bytes],
    prime: int = PRIME,
) -> Integers:
    """Shares `(limbs, points)` of each limb `(limbs,)` for each point (never 0).

    Any `threshold` of them give the limb back, fewer say nothing about it.
    """
    coefficients = np.empty((len(limbs), threshold))
    coefficients[:, 0] = limbs
    draws = _uniform(len(limbs) * (threshold - 1), entropy, prime)
    coefficients[:, 1:] = draws.reshape(len(limbs), threshold - 1)
    return _product(coefficients, _powers(points, threshold, prime).astype(np.float64), prime)


def weights(points: Integers, at: int = 0, prime: int = PRIME) -> Integers:
    """Lagrange's coefficients `(sets, t)`: what each share of a set counts for f(at).

    They depend on the points `(sets, t)` alone: one row serves all secrets shared among them.

    >>> weights(np.array([[1, 2]]))
    array([[    2, 65520]])
    """
    above, below = np.ones_like(points), np.ones_like(points)
    for column in range(points.shape[-1]):
        other = points[..., column, None]
        same = points == other
        above = above * np.where(same, 1, (other - at) % prime) % prime
        below = below * np.where(same, 1, (other - points) % prime) % prime
    found: Integers = above * _inverse(below, prime) % prime
    return found


def combine(shares: Integers, weight: Integers, prime: int = PRIME) -> Integers:
    """f(at) for each column of shares `(t, columns)`, with one row `(t,)` of weights."""
    found: Integers = _product(weight.astype(np.float64), shares.astype(np.float64), prime)
    return found


def wrong(
    points: Integers, shares: Integers, threshold: int, prime: int = PRIME
) -> NDArray[np.bool_] | None:
    """Which shares `(points, limbs)` lie on no common polynomials; None if too many are wrong.

    Berlekamp and Welch 1986 (US patent 4,633,470) find up to (points - t)/2 errors: with
    E(x) = 0 at the wrong points and Q = f E, Q(x_i) = y_i E(x_i) is linear in the coefficients.
    The limbs are decoded as one: a combination by coefficients hashed from all shares, which
    whoever forges one limb cannot foresee.
    """
    most = (len(points) - threshold) // 2
    if most < 1:
        return None
    digest = shake_256(np.ascontiguousarray(shares).tobytes()).digest(8 * shares.shape[1])
    mix = np.frombuffer(digest, "<u8") % (prime - 1) + 1
    values = (shares * mix.astype(np.int64) % prime).sum(1) % prime
    powers = _powers(points, threshold + most, prime)
    system = np.vstack([powers, -values * powers[:most] % prime, values * powers[most] % prime])
    solution = _solved(system.T.copy(), prime)
    if solution is None:
        return None
    locator = np.append(solution[threshold + most :], 1)
    good = (locator @ powers[: most + 1] % prime) != 0
    base = np.flatnonzero(good)[:threshold]
    found = np.zeros(len(points), np.bool_)
    for i in set(range(len(points))) - set(base.tolist()):
        row = weights(points[base][None], int(points[i]), prime)[0]
        found[i] = (combine(shares[base], row, prime) != shares[i]).any()
    return found if found.sum() <= most else None


def _uniform(count: int, entropy: Callable[[int], bytes], prime: int) -> Integers:
    """Numbers uniform on [0, p): 16-bit words, those above the last multiple of p thrown away."""
    limit = 65536 - 65536 % prime
    found = np.empty(0, np.int64)
    while len(found) < count:
        words = np.frombuffer(entropy(2 * (count - len(found)) + 16), "<u2").astype(np.int64)
        found = np.append(found, words[words < limit])
    return found[:count] % prime


def _powers(points: Integers, count: int, prime: int) -> Integers:
    """x^0 … x^(count-1) for each point, `(count, points)`."""
    rows = np.ones((count, len(points)), np.int64)
    for i in range(1, count):
        rows[i] = rows[i - 1] * points % prime
    return rows


def _product(left: NDArray[np.float64], right: NDArray[np.float64], prime: int) -> Integers:
    """Exact while the inner length times p² is below 2^53."""
    return (left @ right).astype(np.int64) % prime


def _inverse(values: Integers, prime: int) -> Integers:
    """1/v = v^(p-2) (Fermat)."""
    result, square, power = np.ones_like(values), values % prime, prime - 2
    while power:
        if power & 1:
            result = result * square % prime
        square, power = square * square % prime, power >> 1
    return result


def _solved(system: Integers, prime: int) -> Integers | None:
    """A solution of the rows (coefficients, right-hand side) modulo p; None if there is none.

    Gauss and Jordan; unknowns that nothing fixes are 0.
    """
    columns = system.shape[1] - 1
    pivots: list[int] = []
    for column in range(columns):
        row = len(pivots)
        candidates = np.flatnonzero(system[row:, column])
        if not len(candidates):
            continue
        swap = row + candidates[0]
        system[[row, swap]] = system[[swap, row]]
        system[row] = system[row] * _inverse(system[row, column : column + 1], prime) % prime
        factor = system[:, column].copy()
        factor[row] = 0
        system = (system - factor[:, None] * system[row]) % prime
        pivots.append(column)
    if system[len(pivots) :, -1].any():
        return None
    solution = np.zeros(columns, np.int64)
    solution[pivots] = system[: len(pivots), -1]
    return solution
