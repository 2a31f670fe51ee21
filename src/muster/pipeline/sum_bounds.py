# SPDX-License-Identifier: Apache-2.0
"""Bounds on the masked sum of honest clients: nothing else bounds a liar under a mask.

A clip binds nobody who does not run it. Behind a mask the server sees the sum alone, so before it
is decoded the sum is compared with what honest clients could have made of it: its weight within
their weights, each coordinate within their levels, and its norm within their bound times that
weight and what rounding (and noise in shares) adds. The coordinates alone would let one liar of
twenty move the mean by √d/2 times as much; with the norm the mean stays in the ball of the clip,
so that one liar is still worth all clients together, and no more. Groups with a rule across them
do better; proofs of input would (Bell et al. 2023, "ACORN").

Rounding to levels, d coordinates of n clients, each independent and by less than one: its norm is
above √(nd)/2 + 2√(n ln(4/β)) with a chance below β (Talagrand 1995), and never above n√d. Noise in
shares with variance v a coordinate in the sum S + N: ‖S + N‖² is above ‖S‖² + 2‖S‖√(2vx) +
v(d + 2√(dx) + 2x) with a chance below 2e^-x (Laurent and Massart 2000, lemma 1, and the tail of a
normal variable; integer noise has its variance plus one for its longer tail). Both chances are
2^-40: an honest round is given up for its size about never.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from muster.pipeline.stage import Contract

__all__ = ["SumBounds", "rounding_norm"]

BITS = 40
TAIL = BITS * math.log(2)


@dataclass(frozen=True)
class SumBounds:
    """The sums of `count` honest clients under a contract, as integers.

    `equal` says that each counts once; `variance` is that of one client's share of noise, in levels
    squared.

    >>> from muster.pipeline import Clip, Quantize
    >>> from muster.pipeline.stage import Field, Pipeline
    >>> plain = Contract((Field("delta", 3),), cap=1.0)
    >>> contract = Pipeline.build((Clip(1.0), Quantize(8)), plain).contracts[-1]
    >>> bounds = SumBounds(contract, count=4, equal=True)
    >>> bounds.refusal({"delta": np.array([254, 0, 0])}, 4)
    ''
    >>> bounds.refusal({"delta": np.array([0, 0, 0])}, 3)
    'its weight is 3, where 4 clients weigh 4'
    """

    contract: Contract
    count: int
    equal: bool
    variance: float = 0.0

    def refusal(self, sums: Mapping[str, Any], weight: int) -> str:
        """Say why honest clients cannot have made these sums `(size,)` by field; "" if they can."""
        most = self.count if self.equal else self.count * int(self.contract.cap or 1)
        if not self.count <= weight <= most:
            wanted = f"{self.count}" if self.equal else f"{self.count} to {most}"
            return f"its weight is {weight}, where {self.count} clients weigh {wanted}"
        return self.sizes(sums, weight)

    def sizes(self, sums: Mapping[str, Any], weight: float) -> str:
        """Say the same of coordinates and norm alone, for a weight that is known."""
        for field in self.contract.fields:
            found = sums[field.name]  # whose absolute value may be beyond its own dtype
            high = max(int(found.max(initial=0)), -int(found.min(initial=0)))
            limit = self.coordinate(field.bits, math.inf if field.scalar else weight)
            if high > limit:
                return (
                    f"a number of {field.name} in it is {high}, where {self.count} clients that "
                    f"weigh {weight:g} reach {limit:.0f}"
                )
        limit = self.norm(weight)
        vectors = self.contract.vectors(dict(sums))
        square = sum(float(np.square(v.astype(np.float64)).sum()) for v in vectors.values())
        if square > limit**2:
            return (
                f"its norm is {math.sqrt(square):.0f} levels, where {self.count} clients that "
                f"weigh {weight:g} reach {limit:.0f}"
            )
        return ""

    def coordinate(self, bits: int, weight: float) -> float:
        """Return the largest number that a coordinate of such clients has."""
        contract = self.contract
        most = self.count * (2 ** (bits - 1) - 1)  # levels that fields hold, noise included
        if self.variance or contract.unrounded is None or contract.step is None:
            return float(most)
        return float(min(most, weight * contract.unrounded / contract.step + self.count))

    def norm(self, weight: float) -> float:
        """Return the largest norm of all vectors together; infinite where a client has no bound."""
        contract, d = self.contract, self.contract.dimension
        if contract.unrounded is None or contract.step is None:
            return math.inf
        reach = weight * contract.unrounded / contract.step + rounding_norm(self.count, d)
        if not self.variance:
            return reach
        spread = self.count * (self.variance + 1)
        square = reach**2 + 2 * reach * math.sqrt(2 * spread * TAIL)
        return math.sqrt(square + spread * (d + 2 * math.sqrt(d * TAIL) + 2 * TAIL))


def rounding_norm(count: int, dimension: int) -> float:
    """Return the norm, in levels, that rounding adds to the sum of so many vectors `(d,)`.

    >>> round(rounding_norm(20, 1000) / 20 / 127, 3)
    0.047
    """
    likely = math.sqrt(count * dimension) / 2 + 2 * math.sqrt(count * (TAIL + math.log(4)))
    return min(likely, count * math.sqrt(dimension))
