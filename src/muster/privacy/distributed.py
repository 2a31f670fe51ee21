# SPDX-License-Identifier: Apache-2.0
"""Noise inside the sum: each client adds its share, and nobody sees a reply with less than all.

Neighbours here differ in one client's update being replaced by zero: a client that leaves would
take its share of the noise with it. Shares are calibrated for the fewest survivors a round may
have; more survivors only add independent noise. Who adds a share knows it: of those who work
together against another, and of a client that only looks at what is released, no share hides it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from muster.errors import PlanError
from muster.privacy.release import Release

__all__ = ["bounds", "known_shares", "limited", "rounded_norm", "share_variance", "survivors"]

OVERRUN = 1e-6  # how often rounding may overrun the norm, to be cut back


def survivors(clients: int, dropout: float) -> int:
    """Return the fewest of so many clients whose noise must suffice.

    >>> survivors(100, 0.1)
    90
    """
    if not (isinstance(clients, int) and clients >= 1 and 0 <= dropout < 1):
        raise PlanError(
            f"noise shares of clients={clients!r} with dropout={dropout!r}: a whole number of "
            f"clients above 0 and a fraction in [0, 1) are needed"
        )
    least = math.floor(clients * (1 - dropout) + 1e-9)
    if least < 1:
        raise PlanError(
            f"dropout={dropout!r} of {clients} clients leaves nobody to add noise; lower it"
        )
    return least


def share_variance(multiplier: float, norm: float, least: int) -> float:
    """Return the variance of one client's noise, so that `least` shares reach multiplier · norm.

    >>> share_variance(2.0, 10.0, 4)
    100.0
    """
    return (multiplier * norm) ** 2 / least


def rounded_norm(norm: float, dimension: int) -> float:
    """Return the L2 norm that d stochastically rounded coordinates of L2 norm `norm` stay within.

    Source: Kairouz, Liu and Steinke 2021 (arXiv 2102.06387), proposition 22, in levels:
    √(c² + d/4 + √(2 ln(1/β)) (c + √d/2)), never more than c + √d. Deviation: β = 10⁻⁶ and a
    vector beyond the norm is cut back (`limited`), where they round again until it fits.

    >>> round(rounded_norm(127.0, 1_660_000))
    660
    """
    root = math.sqrt(dimension)
    spread = math.sqrt(2 * math.log(1 / OVERRUN)) * (norm + root / 2)
    return min(norm + root, math.sqrt(norm**2 + dimension / 4 + spread))


def limited(levels: Mapping[str, Any], norm: float) -> dict[str, Any]:
    """Shrink integer rows `(clients, d)` by field until their joint L2 norm fits exactly.

    >>> limited({"delta": np.array([[3, 4], [30, -40]])}, 5.0)["delta"].tolist()
    [[3, 4], [2, -3]]
    """
    square: Any = sum(np.square(v, dtype=np.float64).sum(-1) for v in levels.values())
    beyond = square > norm**2
    for i in np.flatnonzero(np.abs(square - norm**2) <= 1e-9 * norm**2):  # too close for floats
        exact = sum(int(level) ** 2 for v in levels.values() for level in v[i])
        beyond[i] = exact > Fraction(norm) ** 2
    if not beyond.any():
        return dict(levels)
    # The hair below the norm keeps the float product of an exact fit from rounding up.
    scale = np.where(beyond, norm * (1 - 1e-12) / np.sqrt(np.maximum(square, 1)), 1.0)[:, None]
    return {
        name: np.where(beyond[:, None], np.trunc(v * scale), v).astype(v.dtype)
        for name, v in levels.items()
    }


def bounds(release: Release) -> tuple[tuple[float, float], ...]:
    """Return lines (ρ, ξ) with RDP(α) ≤ ξ + ρα for integer α; each holds: the least ε counts.

    Discrete Gaussian: Kairouz, Liu and Steinke 2021, theorem 1, ξ = 0 and ρ = ε²/2. Skellam:
    Agarwal, Kairouz and Liu 2021 (arXiv 2110.04995), theorem 3.5, whose minimum of two terms is
    taken as two lines. Integer vectors of L2 norm D have an L1 norm of at most D² and √d·D. Only
    the shares that nobody else knows count: multiplier · √((n₀ − a)/n₀) for a of n₀ known.

    >>> bounds(Release("discrete gaussian", 1.0, 1000.0, 10, 10))
    ((0.5, 0.0),)
    """
    norm, d = float(release.sensitivity or 0.0), release.dimension
    hiding = release.survivors - release.known
    multiplier = release.multiplier * math.sqrt(hiding / release.survivors)
    total = (multiplier * norm) ** 2
    if release.mechanism == "discrete gaussian":
        share, k = total / hiding, np.arange(1, hiding)
        tau = 10 * float(np.exp(-2 * math.pi**2 * share * k / (k + 1)).sum())
        direct = math.sqrt(1 / multiplier**2 + tau * d / 2)
        epsilon = min(direct, 1 / multiplier + tau * math.sqrt(d))
        return ((epsilon**2 / 2, 0.0),)
    one = min(norm**2, math.sqrt(d) * norm)
    plain = norm**2 / (2 * total)
    # A negative constant is raised to zero, which no accountant of lines takes.
    tight = plain + norm**2 / (2 * total**2)
    return (tight, max(0.0, (6 * one - norm**2) / (4 * total**2))), (plain, 1.5 * one / total)


def known_shares(survivors: int, corrupt: float) -> int:
    """Count the survivors' shares that others know: the corrupt ones', at least a reader's own.

    >>> known_shares(36, 1 / 3), known_shares(36, 0.0)
    (12, 1)
    """
    return max(1, math.floor(survivors * corrupt + 1e-9))
