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

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LIMBS",
    "PRIME",
    "combine",
    "cut",
    "evaluated",
    "joined",
    "polynomials",
    "uniform",
    "vandermonde",
    "weights",
]

PRIME = 65521
LIMBS = 18
WIDTH = 15

Integers = NDArray[np.int64]


def cut(secrets: Sequence[bytes]) -> Integers:
    """Cut secrets of 32 bytes into limbs `(secrets, 18)`.

    >>> joined(cut([bytes(range(32))])) == [bytes(range(32))]
    True
    """
    flat = np.frombuffer(b"".join(secrets), np.uint8).reshape(len(secrets), 32)
    bits = np.unpackbits(flat, axis=1, bitorder="little")
    bits = np.pad(bits, ((0, 0), (0, LIMBS * WIDTH - 256))).reshape(-1, LIMBS, WIDTH)
    limbs: Integers = bits @ (1 << np.arange(WIDTH))
    return limbs


def joined(limbs: Integers) -> list[bytes]:
    """Join limbs `(secrets, 18)` to secrets of 32 bytes; bits beyond a limb's are dropped."""
    bits = (limbs[..., None] >> np.arange(WIDTH) & 1).astype(np.uint8)
    flat = np.packbits(bits.reshape(len(limbs), -1)[:, :256], axis=1, bitorder="little")
    return [row.tobytes() for row in flat]


def polynomials(
    secrets: Integers, threshold: int, entropy: Callable[[int], bytes], prime: int = PRIME
) -> Integers:
    """Draw the coefficients `(rows, threshold)` of a polynomial for each secret; f(0) is first.

    >>> polynomials(np.array([7]), 3, lambda count: bytes(count))
    array([[7, 0, 0]])
    """
    draws = uniform(len(secrets) * (threshold - 1), entropy, prime)
    return np.hstack([secrets[:, None], draws.reshape(len(secrets), threshold - 1)])


def evaluated(coefficients: Integers, points: Integers, prime: int = PRIME) -> Integers:
    """Return the polynomials' values `(rows, points)`; a share is a column, at a point not 0.

    Any `threshold` columns give the secrets back, fewer say nothing about them.

    >>> evaluated(np.array([[7, 2]]), np.array([1, 2]))
    array([[ 9, 11]])
    """
    powers = vandermonde(points, coefficients.shape[1], prime)
    return _product(coefficients.astype(np.float64), powers, prime)


def vandermonde(points: Integers, count: int, prime: int = PRIME) -> NDArray[np.float64]:
    """Return x^0 … x^(count − 1) modulo p for each point, `(count, points)`, for a product."""
    rows = np.ones((count, len(points)), np.int64)
    for i in range(1, count):
        rows[i] = rows[i - 1] * points % prime
    return rows.astype(np.float64)


def weights(points: Integers, at: int = 0, prime: int = PRIME) -> Integers:
    """Return Lagrange's coefficients `(sets, t)`: what each share of a set counts for f(at).

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
    """Return f(at) for each column of shares `(t, columns)`, with one row `(t,)` of weights."""
    found: Integers = _product(weight.astype(np.float64), shares.astype(np.float64), prime)
    return found


def uniform(count: int, entropy: Callable[[int], bytes], prime: int = PRIME) -> Integers:
    """Draw numbers uniform on [0, p): 16-bit words, those above p's last multiple thrown away."""
    limit = 65536 - 65536 % prime
    found = np.empty(0, np.int64)
    while len(found) < count:
        words = np.frombuffer(entropy(2 * (count - len(found)) + 16), "<u2").astype(np.int64)
        found = np.append(found, words[words < limit])
    return found[:count] % prime


def _product(left: NDArray[np.float64], right: NDArray[np.float64], prime: int) -> Integers:
    """Multiply exactly, while the inner length times p² is below 2^53."""
    return (left @ right).astype(np.int64) % prime


def _inverse(values: Integers, prime: int) -> Integers:
    """Return 1/v = v^(p-2) (Fermat)."""
    result, square, power = np.ones_like(values), values % prime, prime - 2
    while power:
        if power & 1:
            result = result * square % prime
        square, power = square * square % prime, power >> 1
    return result
