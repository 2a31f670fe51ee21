# SPDX-License-Identifier: Apache-2.0
"""The Gaussian mechanism: its noise, its exact privacy, and the noise for a wanted privacy.

Nothing here needs an extra: one Gaussian release, and so any number of releases to people who
take part in all of them, has a closed form.
"""

from __future__ import annotations

import math
from numbers import Real

import numpy as np
from numpy.typing import NDArray

from muster.errors import PlanError
from muster.keys import RandomSource
from muster.privacy.randomness import normal

__all__ = [
    "LEAST",
    "MOST",
    "check_multiplier",
    "check_target",
    "gaussian",
    "gaussian_delta",
    "gaussian_deviation",
    "gaussian_epsilon",
    "is_number",
    "remaining",
]

# Beyond these no noise means anything, and a double would overflow on the way: the multiplier of
# one release; of many together; an epsilon; a delta.
LEAST, MOST = 1e-9, 1e9
THINNEST = 1e-11
TARGETS, RAREST = (1e-9, 1e9), 1e-100


def gaussian(source: RandomSource, size: int, deviation: float) -> NDArray[np.float64]:
    """Draw `(size,)` numbers of mean zero and this standard deviation.

    >>> from muster.keys import key
    >>> gaussian(key(1), 4, 2.0).shape
    (4,)
    """
    return normal(source, size) * deviation


def gaussian_delta(epsilon: float, multiplier: float) -> float:
    """Return the least δ for which noise of `multiplier` times the sensitivity is (ε, δ)-DP.

    Source: Balle and Wang 2018 (arXiv 1805.06530), theorem 8: with μ = 1/multiplier,
    δ = Φ(μ/2 − ε/μ) − e^ε Φ(−μ/2 − ε/μ).

    >>> round(gaussian_delta(1.0, 3.730632), 9)
    1e-05
    """
    check_multiplier(multiplier, least=THINNEST, most=1 / THINNEST)
    if not (is_number(epsilon) and 0 <= epsilon < 1e60):
        raise PlanError(f"epsilon={epsilon!r}: a finite number from 0 up is needed")
    mu = 1 / multiplier
    lower = _log_normal(-mu / 2 - epsilon / mu) + epsilon
    upper = _log_normal(mu / 2 - epsilon / mu)
    # e^upper − e^lower; the difference of logarithms keeps it exact where both are tiny.
    return math.exp(upper) * -math.expm1(min(0.0, lower - upper))


def gaussian_epsilon(delta: float, multiplier: float) -> float:
    """Return the least ε for which noise of `multiplier` times the sensitivity is (ε, δ)-DP.

    >>> round(gaussian_epsilon(1e-5, 1.0), 4)
    4.3772
    """
    check_target(1.0, delta)
    check_multiplier(multiplier, least=THINNEST, most=1 / THINNEST)
    if gaussian_delta(0.0, multiplier) <= delta:
        return 0.0
    high = 1.0
    while gaussian_delta(high, multiplier) > delta:
        high *= 2
    low = 0.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (low, middle) if gaussian_delta(middle, multiplier) <= delta else (middle, high)
    return high


def gaussian_deviation(epsilon: float, delta: float, sensitivity: float = 1.0) -> float:
    """Return the least standard deviation with which a Gaussian release is (ε, δ)-DP, for any ε.

    Source: the analytic Gaussian mechanism of Balle and Wang 2018 (arXiv 1805.06530, algorithm
    1), solved by bisection. The classical √(2 ln(1.25/δ))/ε holds for ε ≤ 1 only.

    >>> round(gaussian_deviation(1.0, 1e-5), 6)
    3.730632
    """
    check_target(epsilon, delta)
    low, high = 0.0, 1.0
    while gaussian_delta(epsilon, high) > delta:
        low, high = high, high * 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (low, middle) if gaussian_delta(epsilon, middle) <= delta else (middle, high)
    return high * sensitivity


def remaining(multiplier: float, others: float, count: int) -> float:
    """Return the multiplier left for one release when `count` of multiplier `others` go with it.

    Together they are one Gaussian of `multiplier` (Andrew et al. 2021, arXiv 1905.03871, theorem
    1). Raises `PlanError` where the others spend it all.

    >>> round(remaining(1.0, 10.0, 1), 5)
    1.00504
    """
    rest = multiplier**-2 - count * others**-2
    if rest <= 0:
        raise PlanError(
            f"noise multiplier {multiplier!r} is spent by {count} scalars of multiplier "
            f"{others!r}; give the scalars more noise"
        )
    left: float = rest**-0.5
    return left


def check_target(epsilon: float, delta: float) -> None:
    """Raise `PlanError` for an ε or δ that promises nothing, or that no accountant can reach."""
    least, most = TARGETS
    if not (is_number(epsilon) and least <= epsilon <= most):
        raise PlanError(
            f"epsilon={epsilon!r}: a finite number above 0 is needed, such as 2.0, from {least:g} "
            f"to {most:g}"
        )
    if not (is_number(delta) and RAREST <= delta < 1):
        raise PlanError(
            f"delta={delta!r}: a number in (0, 1) is needed, below one over the clients and not "
            f"below {RAREST:g}"
        )


def check_multiplier(multiplier: float, *, least: float = LEAST, most: float = MOST) -> None:
    """Raise `PlanError` for a noise multiplier that floats cannot tell from none, or from all.

    >>> check_multiplier(1.0)
    """
    if not (is_number(multiplier) and 0 < multiplier < math.inf):
        raise PlanError(
            f"noise multiplier {multiplier!r}: a finite number above 0 is needed; without noise "
            f"nothing is private"
        )
    if not least <= multiplier <= most:
        raise PlanError(
            f"noise multiplier {multiplier!r}: a number from {least:g} to {most:g} is needed; "
            f"beyond that it promises nothing, or leaves nothing of the sum"
        )


def is_number(value: object) -> bool:
    """Return whether it is a real number, also an infinite one or NaN.

    >>> is_number(2), is_number(True), is_number("2")
    (True, False, False)
    """
    return isinstance(value, Real) and not isinstance(value, bool)


def _log_normal(x: float) -> float:
    """Return the logarithm of Φ(x), also below the smallest float (A&S 26.2.12)."""
    if x > -36:
        return math.log(math.erfc(-x / math.sqrt(2)) / 2)
    correction = math.log1p(-1 / x**2 + 3 / x**4)
    return -x * x / 2 - math.log(-x * math.sqrt(2 * math.pi)) + correction
