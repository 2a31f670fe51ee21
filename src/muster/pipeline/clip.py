# SPDX-License-Identifier: Apache-2.0
"""Clip: no client's update is longer than a bound."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from muster.errors import PlanError
from muster.keys import Keys
from muster.pipeline.stage import Contract, Stage, is_length
from muster.privacy.clipping import clipped
from muster.types import Tree

__all__ = ["Clip", "refuse_after_weight"]


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
        """Bound the joint norm."""
        refuse_after_weight(self, contract)
        bound = self.bound if contract.bound is None else min(self.bound, contract.bound)
        return replace(contract, bound=bound, moving=False)

    def encode(
        self, payload: dict[str, Any], contract: Contract, sent: Tree, memory: Tree, key: Keys
    ) -> tuple[dict[str, Any], Tree]:
        """Return rows no longer than the bound."""
        short, _ = clipped(contract.vectors(payload), self.bound)
        return payload | short, memory


def refuse_after_weight(stage: Stage, contract: Contract) -> None:
    """Refuse to clip what is already weighted or quantized: it would bound the wrong thing."""
    if contract.weighted or contract.integer:
        raise PlanError(
            f"{stage} stands after a stage that sums weighted integers, where a clip is not "
            f"linear; put it before Quantize"
        )
