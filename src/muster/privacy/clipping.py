# SPDX-License-Identifier: Apache-2.0
"""Clipping: rows that are no longer than a bound, in the dtype in which they travel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["clipped"]


def clipped(vectors: Mapping[str, Any], bound: float) -> tuple[dict[str, Any], Any]:
    """Scale the vectors `(clients, size)` to the bound; return them and their joint norms before.

    Each client's row is scaled by min(1, bound/‖·‖), the norm `(clients, 1)` taken over all of its
    vectors in float64. A row that rounding to its own dtype would leave beyond the bound is rounded
    towards zero. Source: McMahan et al. 2018 (arXiv 1710.06963).

    >>> short, norms = clipped({"update": np.array([[3.0, 4.0]])}, 1.0)
    >>> short["update"].round(2).tolist(), norms.tolist()
    ([[0.6, 0.8]], [[5.0]])
    """
    norms = _norms(vectors)
    scale = bound / np.maximum(norms, bound)
    short = {name: (rows * scale).astype(rows.dtype) for name, rows in vectors.items()}
    beyond = np.flatnonzero((_norms(short) > bound) & (norms > bound))
    if beyond.size:
        for name, rows in vectors.items():
            short[name][beyond] = _towards_zero(rows[beyond] * scale[beyond], rows.dtype)
    return short, norms


def _norms(vectors: Mapping[str, Any]) -> Any:
    """Return joint norms `(clients, 1)`, in float64."""
    square: Any = sum(np.square(v, dtype=np.float64).sum(-1) for v in vectors.values())
    return np.sqrt(square)[:, None]


def _towards_zero(exact: Any, dtype: Any) -> Any:
    """Round every coordinate towards zero, all a hair shorter than the norm's own rounding."""
    exact = exact * (1 - 2.0**-40)
    near = exact.astype(dtype)
    return np.where(np.abs(near) > np.abs(exact), np.nextafter(near, dtype.type(0)), near)
