# SPDX-License-Identifier: Apache-2.0
"""Integer noise for sums over integers: the discrete Gaussian and the Skellam law.

A law is a table of its cumulative probabilities in 128-bit fixed point, and a draw is a search
in it: no float decides, every draw costs the same, and the total variation distance from the
law is below 2⁻¹⁰⁰. A variance too wide for one table is drawn as a sum of narrower draws.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal, localcontext
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from muster.errors import PlanError
from muster.keys import RandomSource
from muster.privacy.randomness import words

__all__ = ["check_variance", "discrete_gaussian", "skellam"]

ONE = 1 << 192  # fixed point of the probabilities while a table is made
LEAST = 1 << 40  # what is below is beyond the table: 2⁻¹⁵² of the mode
WIDEST = 2.0**26  # the largest variance of one table, of some 2²⁸ bits


class Table(NamedTuple):
    """P(X ≤ first + i) in 128-bit fixed point, its two halves `(n,)`."""

    first: int
    high: NDArray[np.uint64]
    low: NDArray[np.uint64]

    def draw(self, source: RandomSource, size: int) -> NDArray[np.int64]:
        """Return `(size,)` draws; the low halves are drawn where the high ones do not decide."""
        upper = words(source, size)
        index = np.searchsorted(self.high, upper, side="right")
        close = np.flatnonzero((index > 0) & (self.high[index - 1] == upper))
        for i, lower in zip(close, words(source.at("low"), len(close)), strict=True):
            start = int(np.searchsorted(self.high, upper[i], side="left"))
            index[i] = start + int((self.low[start : index[i]] <= lower).sum())
        return index + self.first


def discrete_gaussian(source: RandomSource, size: int, variance: float) -> NDArray[np.int64]:
    """Draw `(size,)` integers x with probability proportional to exp(−x²/(2 variance)).

    Source: Canonne, Kamath and Steinke 2020 (arXiv 2004.00010), definition 1. Deviation: by
    inversion, not by their rejection; a variance above 2²⁶ is a sum of narrower discrete
    Gaussians, whose law differs by less than exp(−2π²·2²⁴).

    >>> from muster.keys import key
    >>> int(np.abs(discrete_gaussian(key(0), 1000, 4.0)).max()) < 16
    True
    """
    check_variance(variance)
    parts = -(-variance // WIDEST)
    table = _gaussian_table(variance / parts)
    return _total(table.draw(source.at("gaussian", i), size) for i in range(int(parts)))


def skellam(source: RandomSource, size: int, variance: float) -> NDArray[np.int64]:
    """Draw `(size,)` differences of two Poisson numbers of mean variance/2 each.

    Source: Agarwal, Kairouz and Liu 2021 (arXiv 2110.04995). Sums of Skellam numbers are
    Skellam numbers exactly.

    >>> from muster.keys import key
    >>> skellam(key(0), 3, 9.0).dtype
    dtype('int64')
    """
    check_variance(variance)
    parts = -(-variance // (2 * WIDEST))
    table = _poisson_table(variance / parts / 2)
    up = _total(table.draw(source.at("up", i), size) for i in range(int(parts)))
    return up - _total(table.draw(source.at("down", i), size) for i in range(int(parts)))


def check_variance(variance: float) -> None:
    """Raise `PlanError` for a variance of integer noise that no table holds.

    >>> check_variance(9.0)
    """
    if not 0 < variance <= 2.0**40:
        raise PlanError(
            f"integer noise of variance {variance!r}: a number in (0, 2^40] is needed; "
            f"change the noise multiplier, or the bits of Quantize"
        )


def _total(draws: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
    first, *rest = draws
    for more in rest:
        first = first + more
    return first


@lru_cache(maxsize=4)
def _gaussian_table(variance: float) -> Table:
    """Tabulate from the mode outwards: neighbours' ratio shrinks by exp(−1/variance) a step."""
    with localcontext() as context:
        context.prec = 80
        exact = Decimal(variance)
        ratio = int((Decimal(-1) / (2 * exact)).exp() * ONE)
        shrink = int((Decimal(-1) / exact).exp() * ONE)
    tail, mass = [], ONE
    while (mass := mass * ratio // ONE) >= LEAST:
        tail.append(mass)
        ratio = ratio * shrink // ONE
    return _table(-len(tail), [*reversed(tail), ONE, *tail])


@lru_cache(maxsize=4)
def _poisson_table(mean: float) -> Table:
    """Tabulate from the mode outwards: p(k + 1) = p(k) mean/(k + 1), in exact fractions."""
    above, below = mean.as_integer_ratio()
    mode = int(mean)
    up, down, k, mass = [], [], mode, ONE
    while mass >= LEAST:
        up.append(mass)
        k += 1
        mass = mass * above // (below * k)
    k, mass = mode, ONE
    while k and (mass := mass * below * k // above) >= LEAST:
        down.append(mass)
        k -= 1
    return _table(mode - len(down), [*reversed(down), *up])


def _table(first: int, masses: list[int]) -> Table:
    total = sum(masses)
    sums = [(mass << 128) // total for mass in accumulate(masses[:-1])]
    high = np.array([cumulated >> 64 for cumulated in sums], np.uint64)
    low = np.array([cumulated & (2**64 - 1) for cumulated in sums], np.uint64)
    return Table(first, high, low)
