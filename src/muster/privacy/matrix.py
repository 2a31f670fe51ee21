# SPDX-License-Identifier: Apache-2.0
"""The banded matrix mechanism: noise correlated over rounds, which running sums cancel.

A model after t rounds is a sum of t updates. With A = B C (A lower-triangular ones), the server
releases B (C X + Z) = A X + B Z: each round's sum of updates gets one row of C⁻¹ Z. C is
Toeplitz and lower-banded, column t holding c_0 … c_{b−1} from row t on, with Σ c² = 1.

Source: Choquette-Choo et al. 2023 (arXiv 2306.08153); Kalinin and Lampert 2024 (arXiv
2405.13763). No sampling is needed, so it fits fleets where Poisson sampling cannot be enforced.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from muster.errors import PlanError

__all__ = ["correlated", "mean_error", "optimal", "sensitivity", "square_root"]


@lru_cache(maxsize=64)
def square_root(bands: int) -> tuple[float, ...]:
    """Return c_0 … c_{b−1} of the square root of A, cut to b bands and scaled to Σ c² = 1.

    Source: Fichtenberger, Henzinger and Upadhyay 2023 (arXiv 2202.11205): c_k = c_{k−1}(2k−1)/(2k).

    >>> [round(c / square_root(4)[0], 4) for c in square_root(4)]
    [1.0, 0.5, 0.375, 0.3125]
    """
    _check_bands(bands)
    factors = [1.0, *((2 * k - 1) / (2 * k) for k in range(1, bands))]
    return _unit(np.array([math.prod(factors[: k + 1]) for k in range(bands)]))


@lru_cache(maxsize=64)
def optimal(rounds: int, bands: int) -> tuple[float, ...]:
    """Return the b coefficients with the least mean squared error over so many running sums.

    Minimises ‖B‖²_F · Σ c² by Newton's method with the Gauss-Newton matrix (each client takes
    part at most once in b rounds, so Σ c² = 1 is the sensitivity of one participation).

    >>> [round(c, 3) for c in optimal(256, 16)[:4]]
    [0.573, 0.339, 0.282, 0.253]
    """
    _check_bands(bands)
    if bands == 1:
        return (1.0,)
    if bands > rounds:  # what is never reached is not there
        return (*optimal(rounds, rounds), *(0.0,) * (bands - rounds))
    tried, value = np.array(square_root(bands)) / square_root(bands)[0], math.inf
    while (after := _objective(tried, rounds)) < value - 1e-10:
        c, value = tried, after
        gradient, curvature = _slope(c, rounds)
        tried = np.concatenate([[1.0], c[1:] - np.linalg.solve(curvature, gradient)])
    return _unit(c)


def mean_error(coefficients: tuple[float, ...], rounds: int) -> float:
    """Return the mean variance of so many running sums, for noise of one times the sensitivity.

    >>> round(mean_error((1.0,), 9), 6)
    5.0
    """
    return math.exp(_objective(np.array(coefficients), rounds))


def sensitivity(coefficients: tuple[float, ...], rounds: int, separation: int) -> float:
    """Return the L2 norm of all that one client of unit updates adds to C X in so many rounds.

    Its participations lie at least `separation` rounds apart. With non-negative falling
    coefficients the worst are the earliest, equally spaced (Kalinin and Lampert 2024, theorem
    2); √k for k participations at least b apart.

    >>> round(sensitivity(square_root(4), 16, 4) ** 2, 12)
    4.0
    """
    c = np.array(coefficients)
    if (c < 0).any() or (np.diff(c) > 1e-12).any():
        raise PlanError(
            f"matrix mechanism with coefficients {coefficients}: they must fall from the first "
            f"on and stay at least 0; use square_root(bands) or optimal(rounds, bands)"
        )
    # From where all bands overlap on, a column repeats itself at every turn.
    settled = -(-len(c) // separation) * separation
    column = _column(c, min(rounds, settled + separation), separation)
    if rounds <= settled + separation:
        return float(np.sqrt(column @ column))
    head, turn = column[:settled], column[settled:]
    whole, rest = divmod(rounds - settled, separation)
    return float(np.sqrt(head @ head + whole * (turn @ turn) + turn[:rest] @ turn[:rest]))


def _column(c: NDArray[np.float64], rounds: int, separation: int) -> NDArray[np.float64]:
    """Return C times the turns of one client, `(rounds,)`."""
    column = np.zeros(rounds)
    for start in range(0, rounds, separation):
        length = min(len(c), rounds - start)
        column[start : start + length] += c[:length]
    return column


def correlated(
    fresh: NDArray[np.float64], past: NDArray[np.float64], coefficients: tuple[float, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return this round's row of C⁻¹ Z `(d,)` and the rows to keep `(b − 1, d)`, newest first.

    ẑ_t = (z_t − Σ_{j=1}^{b−1} c_j ẑ_{t−j}) / c_0 (Choquette-Choo et al. 2023, algorithm 9), so
    the noise is a function of the fresh draws and the kept rows alone.

    >>> row, kept = correlated(np.ones(2), np.zeros((1, 2)), (0.8, 0.6))
    >>> row.tolist(), kept.tolist()
    ([1.25, 1.25], [[1.25, 1.25]])
    """
    c = np.array(coefficients)
    row = fresh if len(c) == 1 else fresh - c[1:] @ past
    row = row if c[0] == 1 else row / c[0]
    return row, np.concatenate([row[None], past])[: len(c) - 1]


def _check_bands(bands: int) -> None:
    if not isinstance(bands, int) or bands < 1:
        raise PlanError(f"bands={bands!r}: a whole number of rounds, at least 1, is needed")


def _unit(c: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(x) for x in c / np.sqrt(c @ c))


def _solve(c: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return C⁻¹ right, for right `(T,)`."""
    out: NDArray[np.float64] = np.zeros_like(right)
    back = c[:0:-1]
    for t in range(len(right)):
        known = out[max(0, t - len(back)) : t]
        out[t] = (right[t] - back[len(back) - len(known) :] @ known) / c[0]
    return out


def _objective(c: NDArray[np.float64], rounds: int) -> float:
    """Return the logarithm of the mean error: B = A C⁻¹ is Toeplitz, its first column b = C⁻¹ 1."""
    b = _solve(c, np.ones(rounds))
    times = np.arange(rounds, 0, -1) / rounds
    return math.log((times * b) @ b) + math.log(c @ c)


def _slope(c: NDArray[np.float64], rounds: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return gradient and Gauss-Newton matrix of the objective in c_1 … c_{b−1}; c_0 stays 1."""
    b = _solve(c, np.ones(rounds))
    u = _solve(c, b)  # ∂b/∂c_k = −(u shifted by k)
    weight = np.sqrt(np.arange(rounds, 0, -1) / rounds)
    jacobian = np.zeros((rounds, len(c) - 1))
    for k in range(1, len(c)):
        jacobian[k:, k - 1] = -u[: rounds - k]
    jacobian *= weight[:, None]
    residual, square = weight * b, float((weight * b) @ (weight * b))
    gradient = 2 * jacobian.T @ residual / square + 2 * c[1:] / (c @ c)
    curvature = 2 * jacobian.T @ jacobian / square + 2 * np.eye(len(c) - 1) / (c @ c)
    return gradient, curvature
