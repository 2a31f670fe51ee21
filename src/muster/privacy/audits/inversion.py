# SPDX-License-Identifier: Apache-2.0
"""Gradient inversion: what one update shows of the rows behind it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muster.errors import MusterError

__all__ = ["best_match", "label", "linear_input", "matched", "psnr"]


def linear_input(weight: NDArray[np.float64], bias: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the one row behind a linear layer's gradient, x = (∂L/∂W_i)/(∂L/∂b_i) `(features,)`.

    Source: Phong et al. 2018 (section 3); exact for one row, a weighted mean of rows for more.
    `weight` is `(outputs, features)`, `bias` `(outputs,)`; the output with the largest bias
    gradient loses the fewest digits.

    >>> x, error = np.array([0.5, -2.0]), np.array([0.1, -0.3])
    >>> linear_input(np.outer(error, x), error).tolist()
    [0.5, -2.0]
    """
    row = int(np.abs(bias).argmax())
    if not bias[row]:
        raise MusterError("every bias gradient is 0, so this layer shows no input; try another")
    found: NDArray[np.float64] = weight[row] / bias[row]
    return found


def label(bias: NDArray[np.float64]) -> int:
    """Return the class of the one row behind a cross-entropy: the only negative last-bias gradient.

    Source: iDLG, Zhao, Mopuri and Bilen 2020 (arXiv 2001.02610).

    >>> label(np.array([0.2, -0.7, 0.5]))
    1
    """
    return int(bias.argmin())


def matched(
    gradient: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    seen: NDArray[np.float64],
    start: NDArray[np.float64],
    iterations: int = 100,
) -> NDArray[np.float64]:
    """Find the input `(d,)` whose gradient is closest to the one seen `(p,)`, from a start `(d,)`.

    Source: deep leakage from gradients, Zhu, Liu and Han 2019 (arXiv 1906.08935):
    min ‖∇(x) − g‖². Deviation: Levenberg-Marquardt with a Jacobian of central differences, not
    L-BFGS; for inputs of some hundred numbers. `gradient` takes rows `(k, d)` to rows `(k, p)`.

    >>> matched(lambda x: x**3, np.array([8.0]), np.array([1.0])).round(6).tolist()
    [2.0]
    """
    x, damping = np.array(start, float), 1e-2
    residual = gradient(x[None])[0] - seen
    for _ in range(iterations):
        jacobian = _jacobian(gradient, x)
        normal, slope = jacobian.T @ jacobian, jacobian.T @ residual
        while damping < 1e12:
            scale = damping * (np.diag(normal) + 1e-12)
            tried = x - np.linalg.solve(normal + np.diag(scale), slope)
            after = gradient(tried[None])[0] - seen
            if after @ after < residual @ residual:
                x, residual, damping = tried, after, damping / 5
                break
            damping *= 4
        if damping >= 1e12 or math.sqrt(residual @ residual) < 1e-13:
            break
    return x


def _jacobian(gradient: Callable[[Any], Any], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ∂gradient/∂x `(p, d)`, all coordinates in two calls."""
    steps = 1e-5 * np.maximum(1.0, np.abs(x))
    ahead, behind = gradient(x + np.diag(steps)), gradient(x - np.diag(steps))
    slope: NDArray[np.float64] = ((ahead - behind) / (2 * steps[:, None])).T
    return slope


def psnr(found: NDArray[np.float64], truth: NDArray[np.float64], peak: float = 1.0) -> float:
    """Return the peak signal-to-noise ratio in decibels; infinite for an exact copy.

    >>> psnr(np.zeros(4), np.full(4, 0.1))
    20.0
    """
    error = float(np.mean((found - truth) ** 2))
    return math.inf if error == 0 else 10 * math.log10(peak**2 / error)


def best_match(found: NDArray[np.float64], truths: NDArray[np.float64], peak: float = 1.0) -> float:
    """Return the PSNR with the nearest of several rows `(rows, d)`.

    >>> best_match(np.zeros(2), np.array([[1.0, 1.0], [0.1, 0.1]]))
    20.0
    """
    return max(psnr(found, truth, peak) for truth in truths)
