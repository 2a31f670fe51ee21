# SPDX-License-Identifier: Apache-2.0
"""AdaptiveClip: a clip bound that follows a quantile of the clients' norms."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from muster.errors import PlanError
from muster.keys import Keys, RandomSource
from muster.pipeline.clip import refuse_after_weight
from muster.pipeline.stage import Contract, Field, Stage
from muster.privacy.clipping import clipped
from muster.privacy.gaussian import is_number
from muster.types import Reply, State, Tree

__all__ = ["AdaptiveClip"]

FASTEST, REACH = 100.0, (1e-20, 1e20)


@dataclass(frozen=True)
class AdaptiveClip(Stage):
    """C ← C·exp(−rate (b − quantile)), b the share of clients within C.

    Source: Andrew et al. 2021 (arXiv 1905.03871); the noise of bit and vectors is that of a Noise
    after it. The bit travels centred, b_i − 1/2. Deviations: under weighting="examples" b is the
    weighted share, noise that drives b out of [0, 1] is cut off, and C stays where floats can hold
    it and its noise (`REACH`).

    >>> AdaptiveClip().start
    0.1
    """

    quantile: float = 0.5
    rate: float = 0.2
    start: float = 0.1

    def __post_init__(self) -> None:
        least, most = REACH
        numbers = all(map(is_number, (self.quantile, self.rate, self.start)))
        if not (
            numbers
            and 0 < self.quantile < 1
            and 0 < self.rate <= FASTEST
            and least <= self.start <= most
        ):
            raise PlanError(
                f"{self}: quantile must lie in (0, 1), rate and start above 0; rate up to "
                f"{FASTEST:g}, and start from {least:g} to {most:g}"
            )

    def accept(self, contract: Contract) -> Contract:
        """Bound the joint norm by a bound that moves, and append the bit."""
        refuse_after_weight(self, contract)
        if any(field.name == "inside" for field in contract.fields):
            raise PlanError(f"{self}: one AdaptiveClip is enough; remove the other")
        bit = Field("inside", 1, scalar=True, bound=0.5, bits=contract.fields[0].bits)
        return replace(contract, fields=(*contract.fields, bit), moving=True)

    def init(self, contract: Contract) -> State:
        """Return the state: the moving bound C, shared."""
        return State(shared=np.array([self.start]))

    def bound_for_round(self, contract: Contract, sent: Tree) -> float:
        """Return the bound that was sent, or a lower one that holds already."""
        return min(float(sent[0]), math.inf if contract.bound is None else contract.bound)

    def encode(
        self, payload: dict[str, Any], contract: Contract, sent: Tree, memory: Tree, key: Keys
    ) -> tuple[dict[str, Any], Tree]:
        """Clip to the current bound and say whether the norm was within it."""
        bound = float(sent[0])
        short, norms = clipped(contract.vectors(payload), bound)
        payload = payload | short
        dtype = payload[contract.fields[0].name].dtype
        return payload | {"inside": ((norms <= bound) - 0.5).astype(dtype)}, memory

    def decode(
        self, total: Reply, contract: Contract, state: State, key: RandomSource
    ) -> tuple[Reply, State]:
        """Take the bits off the sum and move the bound."""
        payload = dict(total.payload)
        share = float(payload.pop("inside")[0]) / total.weight + 0.5
        share = min(max(share, 0.0), 1.0)
        bound = state.shared * np.exp(-self.rate * (share - self.quantile))
        return replace(total, payload=payload), State(shared=np.clip(bound, *REACH))
