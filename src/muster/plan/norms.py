# SPDX-License-Identifier: Apache-2.0
"""The length of each client's update, where nothing hides it: one that stands out is named."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from muster.pipeline.stage import Contract

if TYPE_CHECKING:
    from muster.plan.plan import Plan

__all__ = ["norms_of", "shows_norms"]


def shows_norms(plan: Plan) -> bool:
    """Return whether a round's record may say how long each update was.

    Not where a mask or noise is to hide what one client sent, and not where metrics stay with the
    clients: a norm is a function of the very same rows.
    """
    return not plan.veiled and not plan.stages.releases() and plan.local.reports


def norms_of(contract: Contract, payload: Mapping[str, Any], weights: Any) -> list[float]:
    """Return the joint L2 norm of the vectors of each client, before weighting, in their own unit.

    `payload` has the weighted rows `(clients, size)` of each field, `weights` is `(clients,)`;
    `contract` is that of what travels.

    >>> from muster.pipeline.stage import Field
    >>> norms_of(Contract((Field("delta", 2),)), {"delta": np.array([[6.0, 8.0]])}, np.array([2.0]))
    [5.0]
    """
    rows = contract.vectors(dict(payload)).values()
    with np.errstate(all="ignore"):
        squares = sum(_squares(one) for one in rows)
        found = np.sqrt(squares) * (contract.step or 1.0) / np.asarray(weights, np.float64)
    return [value if math.isfinite(value) else math.inf for value in found.tolist()]


def _squares(rows: Any) -> Any:
    """Return sums of squares `(clients,)`, in float64 where the rows' dtype cannot hold them."""
    rows = np.asarray(rows)
    if rows.dtype.kind == "f":
        fast = np.vecdot(rows, rows).astype(np.float64)
        if np.isfinite(fast).all():
            return fast
    return np.array([float(np.square(row, dtype=np.float64).sum()) for row in rows])
