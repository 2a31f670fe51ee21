# SPDX-License-Identifier: Apache-2.0
"""Exact confidence bounds for a rate, without a statistics package."""

from __future__ import annotations

import math

from muster.errors import MusterError

__all__ = ["clopper_pearson", "one_run_epsilon"]


def clopper_pearson(hits: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval of rates under which neither so few nor so many hits are a surprise.

    Source: Clopper and Pearson 1934; each side errs with probability (1 − confidence)/2.

    >>> [round(p, 4) for p in clopper_pearson(3, 10)]
    [0.0667, 0.6525]
    """
    if not (0 <= hits <= trials and trials > 0 and 0 < confidence < 1):
        raise MusterError(
            f"{hits} hits in {trials} trials at confidence {confidence}: 0 <= hits <= trials, at "
            f"least one trial and a confidence in (0, 1) are needed"
        )
    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else _quantile(tail, hits, trials - hits + 1)
    high = 1.0 if hits == trials else _quantile(1 - tail, hits + 1, trials - hits)
    return low, high


def one_run_epsilon(right: int, guesses: int, confidence: float = 0.95) -> float:
    """Return the ε that so many right guesses of secret coins refute, from one run; δ = 0.

    Source: Steinke, Nasr and Jagielski 2023 (arXiv 2305.08846), theorem 5.2: under ε-DP the
    right guesses are below a binomial number of rate e^ε/(1 + e^ε). One-sided.

    >>> round(one_run_epsilon(95, 100), 2)
    2.17
    """
    low, _ = clopper_pearson(right, guesses, 2 * confidence - 1)
    return max(0.0, math.log(low / (1 - low))) if low > 0 else 0.0


def _quantile(p: float, a: float, b: float) -> float:
    """Return the x with I_x(a, b) = p, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _beta(middle, a, b) < p else (low, middle)
    return (low + high) / 2


def _beta(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function by its continued fraction (DLMF 8.17.22)."""
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(1 - x, b, a)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front = math.exp(front + a * math.log(x) + b * math.log1p(-x)) / a
    # Lentz's evaluation: the value is a product of ratios of neighbouring convergents.
    tiny, c, d, value, ratio, i = 1e-300, 1.0, 0.0, 1.0, 2.0, 0
    while abs(ratio - 1) > 1e-14:
        m = i // 2
        if i == 0:
            numerator = 1.0
        elif i % 2 == 0:
            numerator = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            numerator = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 / (1 + numerator * d or tiny)
        c = 1 + numerator / c or tiny
        ratio, i = c * d, i + 1
        value *= ratio
    return front * (value - 1)
