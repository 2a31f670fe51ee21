# SPDX-License-Identifier: Apache-2.0
"""The integers modulo 2^b: wide enough for the sum, packed for the wire, filled from fields.

A vector is packed in planes: it is cut into as many runs as a word has bits, and the k-th numbers
of all runs share b words. So packing is a few shifts over whole runs, not a loop over numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muster.errors import PlanError

__all__ = ["Frame", "IntegerRing", "Span", "Words"]

Words = NDArray[np.uint32] | NDArray[np.uint64]


@dataclass(frozen=True)
class IntegerRing:
    """The ring of integers modulo 2^bits, held in uint32 up to 32 bits, in uint64 above.

    >>> ring = IntegerRing(5)
    >>> ring.unpack(ring.pack(np.array([1, 31, 7], "uint32")), 3)
    array([ 1, 31,  7], dtype=uint32)
    """

    bits: int

    @classmethod
    def of(cls, count: int, most: int) -> IntegerRing:
        """Return the narrowest ring in which `count` values of at most `most` cannot overflow.

        count · most < 2^bits, proven here once for all vectors; raises `PlanError` where no word
        has so many bits (or there is nothing to sum).
        """
        bits = (count * most).bit_length()
        if count < 1 or most < 1 or bits > 64:
            raise PlanError(
                f"{count} values of at most {most} need {bits} bits; secure aggregation sums in "
                f"1 to 64: use fewer bits in Quantize, a smaller cap or a smaller cohort"
            )
        return cls(bits)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The word, little-endian as on the wire."""
        return np.dtype("<u4" if self.bits <= 32 else "<u8")

    def zeros(self, size: int) -> Words:
        """Return a vector of zeros `(size,)`."""
        return np.zeros(size, self.dtype)

    def nbytes(self, size: int) -> int:
        """Count the bytes of a packed vector `(size,)`."""
        return self.bits * self._run(size) * self.dtype.itemsize

    def reduce(self, vector: Words) -> None:
        """Bring a vector into [0, 2^bits), in place; words wrap at a multiple of 2^bits."""
        vector &= self.dtype.type((1 << self.bits) - 1)

    def pack(self, vector: Words) -> bytes:
        """Return a reduced vector `(size,)` as bytes."""
        lanes, run = self._lanes, self._run(len(vector))
        rows = self.zeros(lanes * run)
        rows[: len(vector)] = vector
        rows = rows.reshape(lanes, run)
        words = self.zeros(self.bits * run).reshape(self.bits, run)
        spare = np.empty(run, self.dtype)
        for lane in range(lanes):
            word, shift = divmod(lane * self.bits, lanes)
            words[word] |= np.left_shift(rows[lane], shift, out=spare)
            if shift + self.bits > lanes:
                words[word + 1] |= np.right_shift(rows[lane], lanes - shift, out=spare)
        return words.tobytes()

    def unpack(self, data: bytes, size: int, out: Words | None = None) -> Words:
        """Unpack a vector `(size,)`; `out` may lend `buffer(size)` to be reused."""
        lanes, run = self._lanes, self._run(size)
        words = np.frombuffer(data, self.dtype).reshape(self.bits, run)
        rows = (self.buffer(size) if out is None else out).reshape(lanes, run)
        most, spare = self.dtype.type((1 << self.bits) - 1), np.empty(run, self.dtype)
        for lane in range(lanes):
            word, shift = divmod(lane * self.bits, lanes)
            row = np.right_shift(words[word], shift, out=rows[lane])
            if shift + self.bits > lanes:
                row |= np.left_shift(words[word + 1], lanes - shift, out=spare)
            row &= most
        return rows.reshape(-1)[:size]

    def buffer(self, size: int) -> Words:
        """Return room for `unpack`."""
        return np.empty(self._lanes * self._run(size), self.dtype)

    @property
    def _lanes(self) -> int:
        return 8 * self.dtype.itemsize

    def _run(self, size: int) -> int:
        return -(-size // self._lanes)


@dataclass(frozen=True)
class Span:
    """One field of a payload: `size` integers between `low` and `high`, both included."""

    name: str
    size: int
    low: int
    high: int


@dataclass(frozen=True)
class Frame:
    """A frame: fields of integers, and one weight of at most `cap`, in one vector without a sign.

    Each field is shifted by its lowest value. The weight is exact: it is cut into digits no wider
    than the widest field, each a coordinate of its own, so that it never widens the ring.
    `Quantize(bits)` gives fields with high = -low = 2^(bits-1) - 1.

    >>> frame = Frame((Span("delta", 2, -7, 7),), cap=100)
    >>> vector = frame.flatten({"delta": np.array([-7, 3])}, weight=40)
    >>> frame.restore(vector, count=1)
    ({'delta': array([-7,  3])}, 40)
    """

    spans: tuple[Span, ...]
    cap: int = 1

    def __post_init__(self) -> None:
        names = [span.name for span in self.spans]
        if not names or len(set(names)) < len(names) or self.cap < 1:
            raise PlanError(
                f"fields {names} and cap={self.cap!r}; give at least one field, each name once, "
                f"and a cap of at least 1"
            )
        for span in self.spans:
            if not -(1 << 62) <= span.low < span.high <= 1 << 62 or span.size < 1:
                raise PlanError(
                    f"{span} is no field; give size ≥ 1 and low < high, such as -127 and 127"
                )

    @property
    def width(self) -> int:
        """Bits of one digit of the weight, at most what the widest field needs anyway."""
        widest = max(span.high - span.low for span in self.spans)
        return max((widest + 1).bit_length() - 1, 1)

    @property
    def digits(self) -> int:
        """Coordinates of the weight."""
        return -(-self.cap.bit_length() // self.width)

    @property
    def size(self) -> int:
        """Coordinates in all."""
        return sum(span.size for span in self.spans) + self.digits

    @property
    def most(self) -> int:
        """The largest value of any coordinate."""
        digit = (1 << min(self.width, self.cap.bit_length())) - 1
        return max(*(span.high - span.low for span in self.spans), digit)

    def flatten(self, fields: Mapping[str, NDArray[Any]], weight: int = 1) -> NDArray[np.uint64]:
        """Return one client's fields, `(size,)` or `(1, size)` integers each, as one vector.

        Raises `PlanError` for a field that is missing, no integer, of another size or out of its
        range, or a weight above the cap.
        """
        if {span.name for span in self.spans} != set(fields) or not 0 <= weight <= self.cap:
            raise PlanError(
                f"fields {sorted(fields)} of weight {weight!r}; {[s.name for s in self.spans]} "
                f"and a weight of 0 to {self.cap} are required"
            )
        digits = [weight >> self.width * i & (1 << self.width) - 1 for i in range(self.digits)]
        parts = [_shifted(span, np.asarray(fields[span.name])) for span in self.spans]
        return np.concatenate([*parts, np.array(digits, np.uint64)])

    def restore(self, total: Words, count: int) -> tuple[dict[str, NDArray[np.int64]], int]:
        """Return the sums of the fields of `count` clients, and the sum of their weights."""
        sums, at = {}, 0
        for span in self.spans:
            part = total[at : at + span.size].astype(np.int64)
            sums[span.name], at = part + count * span.low, at + span.size
        return sums, sum(int(digit) << self.width * i for i, digit in enumerate(total[at:]))


def _shifted(span: Span, values: NDArray[Any]) -> NDArray[np.uint64]:
    fits = values.dtype.kind in "iu" and values.shape in ((span.size,), (1, span.size))
    if not fits or values.min() < span.low or values.max() > span.high:
        raise PlanError(
            f"the field {span.name!r} holds {values.dtype} of shape {values.shape}; {span.size} "
            f"integers between {span.low} and {span.high} are required: put Quantize before it"
        )
    return (values.reshape(-1).astype(np.int64) - span.low).astype(np.uint64)
