# SPDX-License-Identifier: Apache-2.0
"""Sources of noise: the plan's key in a simulation, a secret in production.

Every draw of every mechanism passes through `words` or `normal`, so what stands behind a key is
decided in this one file. A `muster.keys.Key` is a seed that many people hold: good for a
simulation, never for privacy. A `Secret` walks by the same paths, but its words are AES-CTR of
bytes that only its holder has.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muster.errors import MusterError
from muster.extras import require
from muster.keys import Keys, RandomSource, number

__all__ = ["Secret", "clients_of", "normal", "words"]


@dataclass(frozen=True)
class Secret:
    """A secret of 32 bytes and a path: `at` walks down, `words` and `uniform` draw.

    Words are AES-256 in counter mode under HMAC-SHA-256(seed, path), from counter zero (NIST SP
    800-38A; one key a path, so no counter is used twice). It has no `generator`: no draw can
    fall back on a generator that is not cryptographic. The seed is never printed.

    >>> Secret(bytes(32)).at("decode", 3)
    Secret(path=(17716151337975298673, 3))
    """

    seed: bytes = field(repr=False)
    path: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.seed) != 32:
            raise MusterError(
                f"Secret of {len(self.seed)} bytes: 32 are needed; draw them with os.urandom(32)"
            )

    def at(self, *parts: int | str) -> Secret:
        """Return the secret below this one named by `parts`."""
        return Secret(self.seed, self.path + tuple(number(part) for part in parts))

    def words(self, size: int) -> NDArray[np.uint64]:
        """Return `(size,)` words of 64 uniform bits."""
        ciphers = require("cryptography.hazmat.primitives.ciphers", extra="site")
        path = b"".join(part.to_bytes(8, "little") for part in self.path)
        key = hmac.digest(self.seed, path, "sha256")
        cipher = ciphers.Cipher(ciphers.algorithms.AES(key), ciphers.modes.CTR(bytes(16)))
        return np.frombuffer(cipher.encryptor().update(bytes(8 * size)), np.uint64)

    def uniform(self, size: int) -> NDArray[np.float64]:
        """Return `(size,)` numbers uniform on [0, 1), in steps of 2⁻⁵³."""
        drawn = self.words(size) >> np.uint64(11)
        return drawn.astype(np.float64) * 2.0**-53

    def choice(self, count: int, size: int) -> NDArray[np.int64]:
        """Return `size` of the numbers 0 … count − 1 without replacement, sorted.

        Those with the least of `count` words of 64 bits, of which no two are expected to be equal.
        """
        return np.sort(np.argsort(self.words(count), kind="stable")[:size])

    def integer(self) -> int:
        """Return one integer in [0, 2⁶³)."""
        return int(self.words(1)[0] >> np.uint64(1))


def words(source: RandomSource, size: int) -> NDArray[np.uint64]:
    """Return `(size,)` uniform words of 64 bits, a function of the source.

    >>> from muster.keys import key
    >>> words(key(0), 2).dtype
    dtype('uint64')
    """
    if isinstance(source, Secret):
        return source.words(size)
    return _generator(source).integers(0, 2**64 - 1, size, np.uint64, endpoint=True)


def normal(source: RandomSource, size: int) -> NDArray[np.float64]:
    """Draw `(size,)` standard normal numbers in floating point.

    From a secret by Box and Muller (1958), which ends at 8.5 standard deviations; from a key by
    NumPy's ziggurat. Deviation from an ideal Gaussian: floats have gaps (Mironov 2012), so a
    production run prefers the integers of `muster.privacy.discrete`.

    >>> from muster.keys import key
    >>> normal(key(0), 3).shape
    (3,)
    """
    if not isinstance(source, Secret):
        return _generator(source).standard_normal(size)
    half = -(-size // 2)
    drawn = source.words(2 * half) >> np.uint64(11)
    radius = np.sqrt(-2 * np.log((drawn[:half] + np.uint64(1)) * 2.0**-53))
    angle = drawn[half:] * (2 * np.pi * 2.0**-53)
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:size]


def _generator(source: Any) -> np.random.Generator:
    found: np.random.Generator = source.generator()
    return found


def clients_of(keys: Keys, *parts: int | str) -> Iterator[Any]:
    """Yield the source of each client of a cohort, below `parts`.

    >>> from muster.keys import key
    >>> [source == key(0).at("noise", c) for c, source in zip("ab", clients_of(
    ...     Keys(key(0), ("a", "b")), "noise"))]
    [True, True]
    """
    return (keys.key.at(*parts).at(client) for client in keys.clients)
