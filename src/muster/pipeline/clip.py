# SPDX-License-Identifier: Apache-2.0
"""Clip: no client's update is longer than a bound."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from muster.errors import PlanError
from muster.keys import Keys
from muster.pipeline.stage import Contract, Stage, is_length
from muster.types import Tree

__all__ = ["Clip", "clipped", "refuse_after_weight"]


@dataclass(frozen=True)
class Clip(Stage):
    """Scale a client's vectors by min(1, bound/‖·‖), the norm taken jointly over all fields.

    Source: McMahan et al. 2018 (arXiv 1710.06963). An all-zero update keeps scale 1; per-client
    scalars are left alone. The norm of what leaves it, taken in float64, is at most the bound, in
    whatever dtype it travels.

    >>> Clip(1.0).bound
    1.0
    """

    bound: float

    def __post_init__(self) -> None:
        if not is_length(self.bound):
            raise PlanError(
                f"Clip({self.bound!r:.40}): the bound must be finite and above 0, from 1e-30 to "
                f"1e30"
            )

    def accept(self, contract: Contract) -> Contract:
        """Bounds the joint norm."""
        refuse_after_weight(self, contract)
        bound = self.bound if contract.bound is None else min(self.bound, contract.bound)
        return replace(contract, bound=bound, moving=False)

    def encode(
        self, payload: dict[str, Any], contract: Contract, sent: Tree, memory: Tree, key: Keys
    ) -> tuple[dict[str, Any], Tree]:
        """Rows no longer than the bound."""
        return clipped(payload, contract, self.bound)[0], memory


def clipped(
    payload: dict[str, Any], contract: Contract, bound: float
) -> tuple[dict[str, Any], Any]:
    """The payload with its vectors scaled to the bound, and their joint norms `(clients, 1)`.

    A row that rounding to its own dtype would leave beyond the bound is rounded towards zero.
    """
    vectors = contract.vectors(payload)
    norms = _norms(vectors)
    scale = bound / np.maximum(norms, bound)
    short = {name: (rows * scale).astype(rows.dtype) for name, rows in vectors.items()}
    beyond = np.flatnonzero((_norms(short) > bound) & (norms > bound))
    if beyond.size:
        for name, rows in vectors.items():
            short[name][beyond] = _towards_zero(rows[beyond] * scale[beyond], rows.dtype)
    return payload | short, norms


def _norms(vectors: dict[str, Any]) -> Any:
    """Joint norms `(clients, 1)`, in float64."""
    square: Any = sum(np.square(v, dtype=np.float64).sum(-1) for v in vectors.values())
    return np.sqrt(square)[:, None]


def _towards_zero(exact: Any, dtype: Any) -> Any:
    """No coordinate longer than it was, and all a hair shorter than the norm's own rounding."""
    exact = exact * (1 - 2.0**-40)
    near = exact.astype(dtype)
    return np.where(np.abs(near) > np.abs(exact), np.nextafter(near, dtype.type(0)), near)


def refuse_after_weight(stage: Stage, contract: Contract) -> None:
    """Clipping what is already weighted or quantized would bound the wrong thing."""
    if contract.weighted or contract.integer:
        raise PlanError(
            f"{stage} stands after a stage that sums weighted integers, where a clip is not "
            f"linear; put it before Quantize"
        )
