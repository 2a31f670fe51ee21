# SPDX-License-Identifier: Apache-2.0
"""DP-SGD on the examples of one client: clip each example's gradient, add noise, take the mean.

The unit of privacy is one example, another claim than the client's. Pure functions of gradients
`(rows, d)`; whoever trains brings the gradients.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from muster.errors import DataError, PlanError
from muster.privacy.accounting import Spent, spent
from muster.privacy.gaussian import gaussian
from muster.privacy.randomness import Source
from muster.privacy.release import Charge, Release, Selection

__all__ = ["clipped_rows", "dp_sgd_spent", "private_gradient"]


def clipped_rows(gradients: NDArray[np.float64], bound: float) -> NDArray[np.float64]:
    """Rows `(rows, d)` no longer than the bound; a row of zeros stays.

    Source: Abadi et al. 2016 (arXiv 1607.00133), algorithm 1. Raises `DataError` for a row
    that is not finite: NaN passes every comparison with a bound.

    >>> clipped_rows(np.array([[3.0, 4.0], [0.0, 0.0]]), 1.0).round(6).tolist()
    [[0.6, 0.8], [0.0, 0.0]]
    """
    if not 0 < bound < math.inf:
        raise PlanError(f"clip bound {bound!r}: a finite number above 0 is needed")
    rows = np.asarray(gradients, np.float64)
    bad = np.flatnonzero(~np.isfinite(rows).all(-1))
    if bad.size:
        raise DataError(
            f"the gradient of row {bad[0]} holds NaN or Inf, which no clip bounds; lower the rate, "
            f"or clean that row"
        )
    # The largest coordinate is taken out first, so that no square overflows.
    most = np.maximum(np.abs(rows).max(-1, initial=0, keepdims=True), bound)
    unit, limit = rows / most, bound / most
    norms = np.linalg.norm(unit, axis=-1, keepdims=True)
    return np.where(norms > limit, unit * (bound / np.maximum(norms, limit)), rows)


def private_gradient(
    gradients: NDArray[np.float64], bound: float, multiplier: float, expected: float, source: Source
) -> NDArray[np.float64]:
    """(Σ clipped rows + N(0, multiplier² bound² I)) / expected, `(d,)`.

    `expected` is the fixed batch size rate · rows, never the number that came.

    >>> from muster.keys import key
    >>> private_gradient(np.zeros((5, 3)), 1.0, 1.0, 5.0, key(0)).shape
    (3,)
    """
    if not 0 < multiplier < math.inf:
        raise PlanError(
            f"noise multiplier {multiplier!r}: a finite number above 0 is needed; without noise "
            f"nothing is private"
        )
    if not 0 < expected < math.inf:
        raise PlanError(f"expected batch {expected!r}: a finite number above 0 is needed")
    total = clipped_rows(gradients, bound).sum(0)
    noise = gaussian(source, total.shape[-1], multiplier * bound)
    drawn: NDArray[np.float64] = (total + noise) / expected
    return drawn


def dp_sgd_spent(multiplier: float, rate: float, steps: int, delta: float) -> Spent:
    """What so many steps reveal about one example, for batches drawn by Poisson's coins.

    Batches cut from a shuffled epoch are another mechanism (Chua et al. 2024, arXiv
    2403.17673) with less privacy: account them with rate 1.

    >>> round(dp_sgd_spent(1.1, 256 / 60000, 14062, 1e-5).epsilon, 4)
    2.3817
    """
    kind = "poisson" if rate < 1 else "all"
    release = Release("gaussian", multiplier, 1.0)
    return spent([Charge(release, Selection(kind, rate), steps)], delta)  # type: ignore[arg-type]
