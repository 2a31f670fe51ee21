# SPDX-License-Identifier: Apache-2.0
"""Sums in fixed point: the same bits in any order, grouping and tree, for any finite numbers.

Integers add up to the same sum in any order; a float that is rounded to a multiple of a unit is
one. The unit must suit the largest number, which a stream does not know beforehand. So units lie
at fixed places, 40 bits apart, as in Demmel and Nguyen, "Parallel Reproducible Summation" (IEEE
Trans. Computers 64(7), 2015), whose words are floats with carries; here they are int64:

    units    … 2^-80, 2^-40, 1, 2^40 …
    a number    = a multiple of the first unit + one of the second (+ one of the third) + a rest

Every number is cut at these places, whatever else is in the sum. A block of coordinates keeps the
two uppermost units that its largest number needs (three for float64). When a larger one comes it
lets go of the lowest and begins the next above; of that one all numbers so far are zero multiples:
the first unit of a number is the least of which it is at most 2^39. So what is kept at the end is
a sum of integers that follow from the numbers alone, and from the largest of the block.

The sum is off by at most `n 2^-40 max|x|` (float64: `n 2^-80 max|x|`), with the largest of all n
numbers of each coordinate in the block, and by the rounding to the dtype. It cannot overflow: a
multiple is at most 2^39, and more than 2^23 replies are refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Self

import numpy as np

from muster.errors import SumError
from muster.mapped import forget

__all__ = ["BLOCK", "ExactFloat", "FixedPointSum", "LARGEST", "MOST"]

WIDTH = 40  # bits from one unit to the next
HALF = 1 << WIDTH - 1  # the largest multiple of a unit in one number
MOST = 1 << 23  # replies in a sum: MOST · HALF is 2^62, which int64 holds
BLOCK = 1 << 14  # coordinates that share their units
TOGETHER = 1 << 15  # numbers that are cut at once, so that they stay in the cache
LOWEST = -26  # 2^(40 LOWEST), the least unit: below any float32, and float64 from 2^-1040 on
HIGHEST = 24  # of the greatest, which float64 still can cut
LARGEST = 2.0 ** (WIDTH * HIGHEST + WIDTH - 1)  # the largest number that it has room for
_MASK = (1 << 64) - 1


class FixedPointSum:
    """The sum of vectors `(size,)` of a float dtype, a few words of 64 bits a coordinate.

    >>> total = FixedPointSum(2, "float32")
    >>> total.deposit(np.float32([[1e8, 1.0], [0.25, 2.0], [-1e8, 3.0]]))
    >>> total.value()
    array([0.25, 6.  ], dtype=float32)

    Added up in float32, the first would be 0; beside 1e30 it is 0 here, too, as the bound says.
    """

    def __init__(self, size: int, dtype: Any) -> None:
        self.size, self.dtype, self.replies = size, np.dtype(dtype), 0
        words = 2 if self.dtype.itemsize <= 4 else 3
        blocks = -(-size // BLOCK)
        # Words hold float bits as they come, with an exponent in each; `_offsets` sums those up.
        self._words = np.zeros((words, size), np.uint64)
        self._offsets = [[0] * words for _ in range(blocks)]
        self._tops = [LOWEST + words - 1] * blocks  # the place of each block's uppermost unit

    def deposit(self, rows: Any) -> None:
        """Add rows `(k, size)`, or one `(size,)`; they may be read-only and lie in a map.

        Raises `SumError` for more than `MOST` replies, and for numbers that are not finite or
        beyond `LARGEST`; the sum is then of no more use.
        """
        rows = np.asarray(rows)
        rows = rows[None] if rows.ndim == 1 else rows
        self._count(len(rows))
        most = min(self.size, BLOCK)
        scratch = np.empty((2, min(len(rows) * most, max(TOGETHER, most))))
        for block, cut in enumerate(self._blocks()):
            many = max(1, TOGETHER // (cut.stop - cut.start))
            for first in range(0, len(rows), many):
                self._put(block, cut, rows[first : first + many, cut], scratch)
            if len(rows) == 1:
                forget(rows[0, cut])

    def merge(self, other: FixedPointSum) -> None:
        """Add another sum of vectors of this size and dtype. Raises `SumError` beyond `MOST`."""
        self._count(other.replies)
        for block, cut in enumerate(self._blocks()):
            self._raise(block, cut, other._tops[block])
            down = self._tops[block] - other._tops[block]
            for place in range(down, len(self._words)):
                self._words[place, cut] += other._words[place - down, cut]
                self._shift(block, place, other._offsets[block][place - down])

    def value(self) -> Any:
        """Return the sum `(size,)` in its dtype. Raises `SumError` where that is infinite."""
        found = np.empty(self.size, self.dtype)
        with np.errstate(over="ignore"):
            for block, cut in enumerate(self._blocks()):
                found[cut] = self._float(block, cut)
        if not np.isfinite(found).all():
            raise SumError(
                f"a sum of {self.replies} replies is beyond {np.finfo(self.dtype).max:.3g}, the "
                f"largest {self.dtype}; train with smaller rates, or clip the updates"
            )
        return found

    @property
    def units(self) -> list[float]:
        """The least unit of each block: what a number is rounded to a multiple of."""
        return [2.0 ** (WIDTH * (top - len(self._words) + 1)) for top in self._tops]

    def _blocks(self) -> Iterator[slice]:
        return (slice(a, min(a + BLOCK, self.size)) for a in range(0, self.size, BLOCK))

    def _count(self, replies: int) -> None:
        if self.replies + replies > MOST:
            raise SumError(
                f"a sum in fixed point has room for {MOST} replies, and {self.replies + replies} "
                f"came; invite fewer, or use Mean(sum='float')"
            )
        self.replies += replies
        if not self._words.flags.writeable:  # it came from another process
            self._words = self._words.copy()

    def _put(self, block: int, cut: slice, part: Any, scratch: Any) -> None:
        """Cut the numbers `(k, width)` at the block's units, and add up the multiples."""
        high = max(float(part.max(initial=0)), -float(part.min(initial=0)))
        if high == 0:
            return
        if not high <= LARGEST:  # NaN is not, either
            raise SumError(
                f"{high} is no number that a sum in fixed point has room for (at most "
                f"{LARGEST:.3g}); replies are checked before they are added up"
            )
        own = _top(high, len(self._words))
        self._raise(block, cut, own)
        rest, cast = scratch[:, : part.size].reshape(2, *part.shape)
        rest[...] = part
        last = len(self._words) - 1
        for place in range(self._tops[block] - own, last + 1):  # of those above it has none
            # 1.5 · 2^52 units and a number are a float whose last bit is one unit: the addition
            # rounds to it (to even), and the float's bits, read as an integer, count the units.
            magic = 1.5 * 2.0 ** (52 + WIDTH * (self._tops[block] - place))
            np.add(rest, magic, out=cast)
            bits = cast.view(np.uint64)
            word = self._words[place, cut]
            np.add(word, bits[0] if len(bits) == 1 else np.add.reduce(bits, axis=0), out=word)
            self._shift(block, place, len(bits) * int(np.float64(magic).view(np.uint64)))
            if place < last:
                cast -= magic
                rest -= cast

    def _shift(self, block: int, place: int, offset: int) -> None:
        self._offsets[block][place] = (self._offsets[block][place] + offset) & _MASK

    def _raise(self, block: int, cut: slice, top: int) -> None:
        """Let a block's uppermost unit be at least at this place."""
        up = top - self._tops[block]
        if up <= 0:
            return
        offsets, words = self._offsets[block], len(self._words)
        self._tops[block] = top
        if not any(offsets):
            return  # nothing is in it yet
        for place in reversed(range(words)):
            kept = place - up
            self._words[place, cut] = self._words[kept, cut] if kept >= 0 else 0
            offsets[place] = offsets[kept] if kept >= 0 else 0

    def _float(self, block: int, cut: slice) -> Any:
        """Return a block's sum in float64, off by at most 2^-51 of it."""
        words = [
            (self._words[place, cut] - np.uint64(offset)).view(np.int64)
            for place, offset in enumerate(self._offsets[block])
        ]
        for place in reversed(range(1, len(words))):  # at most half a unit of the next is left
            carry = (words[place] + HALF) >> WIDTH
            words[place] -= carry << WIDTH
            words[place - 1] += carry
        total = np.zeros(cut.stop - cut.start)
        for place in reversed(range(len(words))):
            total += words[place] * 2.0 ** (WIDTH * (self._tops[block] - place))
        return total


def _top(high: float, words: int) -> int:
    """Find the place of the least unit of which `high` is at most `HALF`; as many fit below it."""
    mantissa, exponent = math.frexp(high)
    exponent -= mantissa == 0.5  # the least power of two that is not below
    return max(LOWEST + words - 1, -(-(exponent - WIDTH + 1) // WIDTH))


class ExactFloat(float):
    """A float that knows the exact sum of which it is the nearest, so that any order gives it.

    >>> ExactFloat(1e100) + 1.0 + ExactFloat(-1e100)
    1.0
    """

    __slots__ = ("units",)
    units: int | None  # multiples of 2^-1074; None for what is not finite

    def __new__(cls, value: float) -> Self:
        """Begin a sum."""
        if isinstance(value, ExactFloat):
            return cls._of(value.units, float(value))
        if not math.isfinite(value):
            return cls._of(None, value)
        top, bottom = float(value).as_integer_ratio()
        return cls._of(top << 1075 - bottom.bit_length(), value)

    @classmethod
    def _of(cls, units: int | None, value: float) -> Self:
        made = super().__new__(cls, value)
        made.units = units
        return made

    def __add__(self, other: float) -> Self:
        """Return the exact sum."""
        more = ExactFloat(other)
        if self.units is None or more.units is None:
            odd = [float(one) for one in (self, more) if one.units is None]
            return self._of(None, sum(odd))  # infinities that meet make a NaN in any order
        total = self.units + more.units
        try:
            return self._of(total, total / (1 << 1074))
        except OverflowError:
            return self._of(total, math.inf if total > 0 else -math.inf)

    __radd__ = __add__

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel whole."""
        return type(self)._of, (self.units, float(self))
