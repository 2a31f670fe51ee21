# SPDX-License-Identifier: Apache-2.0
"""Randomness as a function: a key is a path of integers, and every draw is made from its path.

Nothing about a generator needs saving, because nothing of it lives longer than one draw:
`key(seed).at("train", round, client)` names the same numbers on every machine, in every
process and after every restart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray

__all__ = ["Key", "Keys", "RandomSource", "hashes", "key", "number", "numbers", "order"]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_ROUNDS = ((np.uint64(30), _MIX_1), (np.uint64(27), _MIX_2))
_LAST = np.uint64(0xFFFFFFFFFFFFFFFF)


@lru_cache(maxsize=65536)
def number(part: int | str) -> int:
    """Return a stable 64-bit number for one part of a path; an integer 0 ≤ i < 2⁶³ is itself.

    >>> number(7), number("train") == number("train")
    (7, True)
    """
    if not isinstance(part, str) and 0 <= part < 1 << 63:
        return int(part)
    return int.from_bytes(hashlib.sha256(str(part).encode()).digest()[:8], "little") | 1 << 63


def numbers(parts: Iterable[int | str]) -> NDArray[np.uint64]:
    """Return the `number` of each part, as one array `(parts,)`.

    >>> numbers([1, 2])
    array([1, 2], dtype=uint64)
    """
    parts = tuple(parts)
    array = np.asarray(parts)
    if array.dtype.kind == "i" and array.size and array.min() >= 0:
        return array.astype(np.uint64)
    return np.fromiter(map(number, parts), np.uint64, len(parts))


class _Words(ISeedSequence):
    """A seed that is the words themselves, so that no entropy is asked of the system."""

    def __init__(self, words: NDArray[np.uint64]) -> None:
        self._words = words

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> NDArray[Any]:
        """Return the words a Philox generator asks for: two of 64 bits."""
        return self._words


class RandomSource(Protocol):
    """A source of draws: a `Key` that a plan's seed fixes, or a secret that somebody holds."""

    def at(self, *parts: int | str) -> Any:
        """Return the source below this one named by `parts`."""

    def uniform(self, size: int) -> NDArray[np.float64]:
        """Return `(size,)` numbers uniform on [0, 1)."""

    def choice(self, count: int, size: int) -> NDArray[np.int64]:
        """Return `size` of the numbers 0 … count − 1 without replacement, sorted."""


@dataclass(frozen=True)
class Key:
    """One path; `at` walks down it, `generator`, `integer` and `uniform` draw from its end.

    >>> key(0).at("train", 3) == key(0).at("train").at(3)
    True
    """

    path: tuple[int, ...]

    def at(self, *parts: int | str) -> Key:
        """Return the key below this one named by `parts`."""
        return Key(self.path + tuple(number(part) for part in parts))

    @property
    def root(self) -> Key:
        """The key that this one's path begins with: that of the seed."""
        return Key(self.path[:1])

    def generator(self) -> np.random.Generator:
        """Return a fresh counter-based generator (Philox) that starts at this key."""
        return np.random.Generator(np.random.Philox(_Words(self._words())))  # type: ignore[arg-type]

    def integer(self) -> int:
        """Return one integer in [0, 2⁶³): a seed for another library."""
        return int(self._words()[0] >> np.uint64(1))

    def uniform(self, size: int) -> NDArray[np.float64]:
        """Return `(size,)` numbers uniform on [0, 1)."""
        return self.generator().random(size)

    def choice(self, count: int, size: int) -> NDArray[np.int64]:
        """Return `size` of the numbers 0 … count − 1 without replacement, sorted."""
        return np.sort(self.generator().choice(count, size, replace=False))

    def _words(self) -> NDArray[np.uint64]:
        data = b"".join(part.to_bytes(8, "little") for part in self.path)
        return np.frombuffer(hashlib.sha256(data).digest()[:16], np.uint64)


@dataclass(frozen=True)
class Keys:
    """One key per client of a cohort: draws get a leading axis of clients.

    >>> Keys(key(0), (4, 9)).uniform(3).shape
    (2, 3)
    """

    key: RandomSource
    clients: tuple[int | str, ...]

    def at(self, *parts: int | str) -> Keys:
        """Return the keys below these, named by `parts` before the client."""
        return Keys(self.key.at(*parts), self.clients)

    def uniform(self, size: int) -> NDArray[np.float64]:
        """Return `(clients, size)` numbers uniform on [0, 1), by row those of `key.at(client)`."""
        return np.stack([self.key.at(client).uniform(size) for client in self.clients])


def key(seed: int) -> Key:
    """Return the root of all keys of a run.

    >>> key(7).at("sample", 1).integer() == key(7).at("sample", 1).integer()
    True
    """
    return Key((number(seed),))


def order(
    key: Key, clients: NDArray[np.uint64], sizes: Sequence[int] | NDArray[np.int64], epochs: int
) -> NDArray[np.int64]:
    """Return the order in which each client walks its rows, for a whole cohort at once.

    `clients` are the key numbers `(k,)`, `sizes` their row counts `(k,)`. Returns
    `(k, epochs, max(sizes))`: row i holds a permutation of `range(sizes[i])` for each epoch,
    followed by the unused indices. A client's order depends on nothing but key, client, epoch
    and size, so a cohort drawn together or one by one reads its rows in the same order.

    Each position gets a 64-bit hash of its counter (the splitmix64 finaliser of Steele, Lea and
    Flood 2014, a bijection, so there are no ties), and the hashes are sorted.

    >>> order(key(0), numbers([3]), [5], 1)[0, 0].tolist() != [0, 1, 2, 3, 4]
    True
    """
    rows = np.asarray(sizes, np.int64)
    width = int(rows.max(initial=0))
    start = _mix(clients ^ key._words()[0])
    epoch = _mix(start[:, None] + np.arange(1, epochs + 1, dtype=np.uint64) * _MIX_2)
    hashes = _mix(epoch[:, :, None] + np.arange(1, width + 1, dtype=np.uint64) * _GOLDEN)
    if (rows != width).any():
        hashes[np.broadcast_to(np.arange(width) >= rows[:, None, None], hashes.shape)] = _LAST
    return hashes.argsort(axis=-1)


def hashes(key: Key, parts: Iterable[int | str]) -> NDArray[np.uint64]:
    """Return a 64-bit number for each part `(parts,)`, a function of the key and that part alone.

    >>> a, b = hashes(key(0), ["a", "b"]), hashes(key(0), ["b"])
    >>> bool(a[1] == b[0]), bool(a[0] == a[1])
    (True, False)
    """
    return _mix(_mix(numbers(parts) ^ key._words()[0]) + _GOLDEN)


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix fresh numbers, in place."""
    for shift, factor in _ROUNDS:
        z ^= z >> shift
        z *= factor
    z ^= z >> np.uint64(31)
    return z
