# SPDX-License-Identifier: Apache-2.0
"""One-shot canaries: how private one run was, measured with clients made up for it.

A canary's update is the clip bound times a random direction. In d dimensions a direction that
was never seen has a cosine near N(0, 1/d) with anything; how far the cosines of the canaries
that took part lie from that tells how much the release reveals.

Source: Andrew et al. 2023 (arXiv 2302.03098).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from muster.errors import MusterError
from muster.keys import RandomSource
from muster.privacy.randomness import normal

__all__ = ["Normal", "canary", "canary_epsilon", "cosine", "fitted", "hockey_stick"]


class Normal(NamedTuple):
    """A normal law by mean and standard deviation."""

    mean: float
    deviation: float


def canary(source: RandomSource, size: int) -> NDArray[np.float64]:
    """Return a direction uniform on the unit sphere, `(d,)`.

    >>> from muster.keys import key
    >>> round(float(np.linalg.norm(canary(key(0), 50))), 6)
    1.0
    """
    drawn = normal(source, size)
    direction: NDArray[np.float64] = drawn / np.linalg.norm(drawn)
    return direction


def cosine(direction: NDArray[np.float64], moved: NDArray[np.float64]) -> float:
    """Return the cosine of a canary with what was released: the model's move, or one round's sum.

    >>> cosine(np.array([1.0, 0.0]), np.array([3.0, 4.0]))
    0.6
    """
    return float(direction @ moved / np.linalg.norm(moved))


def fitted(cosines: NDArray[np.float64]) -> Normal:
    """Return the normal law of a sample.

    >>> fitted(np.array([0.0, 1.0, 2.0]))
    Normal(mean=1.0, deviation=1.0)
    """
    if len(cosines) < 2 or not np.isfinite(cosines).all():
        raise MusterError(
            f"{len(cosines)} cosines: at least two finite ones are needed; use hundreds"
        )
    return Normal(float(np.mean(cosines)), float(np.std(cosines, ddof=1)))


def canary_epsilon(
    seen: NDArray[np.float64], unseen: NDArray[np.float64] | int, delta: float
) -> float:
    """Return an estimate of ε at δ from the cosines of canaries (algorithms 1 and 2 of the paper).

    `unseen` is the dimension d, where the final model alone is seen, or the statistics of
    canaries that took no part: for all rounds visible, give the largest cosine over the rounds
    of each canary. An estimate, not a bound: it assumes that both laws are normal.

    >>> canary_epsilon(np.array([-0.1, 0.0, 0.1]), 100, 0.1)
    0.0
    """
    null = Normal(0.0, unseen**-0.5) if isinstance(unseen, int) else fitted(unseen)
    law = fitted(seen)

    def revealed(epsilon: float) -> float:
        return max(hockey_stick(epsilon, law, null), hockey_stick(epsilon, null, law))

    if revealed(0.0) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while revealed(high) > delta:
        low, high = high, high * 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if revealed(middle) <= delta else (middle, high)
    return high


def hockey_stick(epsilon: float, p: Normal, q: Normal) -> float:
    """Return the largest over sets S of P(S) − e^ε Q(S), for two normal laws of any deviations.

    >>> round(hockey_stick(1.0, Normal(1 / 3.730632, 1.0), Normal(0.0, 1.0)), 8)
    1e-05
    """
    # ln p(x) − ln q(x) − ε is the quadratic a x² + b x + c; S is where it is above 0.
    a = 0.5 / q.deviation**2 - 0.5 / p.deviation**2
    b = p.mean / p.deviation**2 - q.mean / q.deviation**2
    c = 0.5 * (q.mean / q.deviation) ** 2 - 0.5 * (p.mean / p.deviation) ** 2
    c += math.log(q.deviation / p.deviation) - epsilon
    if abs(a) * q.deviation**2 < 1e-12:
        if b == 0:
            return max(0.0, 1 - math.exp(epsilon)) if c > 0 else 0.0
        edge = -c / b
        ends = (edge, math.inf) if b > 0 else (-math.inf, edge)
        return _between(ends, epsilon, p, q)
    root = b * b - 4 * a * c
    if root <= 0:
        return 0.0 if a < 0 else 1 - math.exp(epsilon)
    first, second = sorted(((-b - math.sqrt(root)) / (2 * a), (-b + math.sqrt(root)) / (2 * a)))
    if a < 0:
        return _between((first, second), epsilon, p, q)
    sides = ((-math.inf, first), (second, math.inf))
    return sum(_between(side, epsilon, p, q) for side in sides)


def _between(ends: tuple[float, float], epsilon: float, p: Normal, q: Normal) -> float:
    def mass(law: Normal) -> float:
        low, high = ((end - law.mean) / law.deviation for end in ends)
        if low > 0:  # the upper tail, taken as a lower one, keeps its digits
            low, high = -high, -low
        return (math.erfc(-high / math.sqrt(2)) - math.erfc(-low / math.sqrt(2))) / 2

    # Where e^ε is beyond all floats, Q's mass on the set is as far below them.
    scaled = math.exp(epsilon + math.log(mass(q))) if mass(q) > 0 else 0.0
    return mass(p) - scaled
