# SPDX-License-Identifier: Apache-2.0
"""LocalNoise: each client hides its update before anyone sees it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from muster.errors import MusterError, PlanError
from muster.keys import Keys
from muster.pipeline.noise import refuse_spread, refuse_unbounded
from muster.pipeline.stage import Contract, Stage
from muster.privacy.gaussian import check_multiplier, check_target, gaussian, gaussian_deviation
from muster.privacy.randomness import clients_of
from muster.privacy.release import Release
from muster.types import Tree

__all__ = ["LocalNoise"]


@dataclass(frozen=True)
class LocalNoise(Stage):
    """A clipped update + N(0, σ² I) on the client: (epsilon, delta) for each round it takes part.

    Source: the analytic Gaussian mechanism, Balle and Wang 2018 (arXiv 1805.06530), right for any
    epsilon. Any two updates may be told apart by at most that, so the sensitivity is twice the
    bound. The weight is not hidden: use weighting="equal" where row counts are secret.

    >>> LocalNoise(8.0, 1e-6).epsilon
    8.0
    """

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        check_target(self.epsilon, self.delta)
        check_multiplier(gaussian_deviation(self.epsilon, self.delta))

    def accept(self, contract: Contract) -> Contract:
        """Require a fixed bound on real vectors; what it hands on has none."""
        if contract.weighted or contract.integer:
            raise PlanError(
                f"{self} adds real noise to one client's own update; put it before "
                f"Quantize, or use DiscreteNoise after it"
            )
        if contract.moving:
            raise PlanError(f"{self} needs a fixed bound; put Clip(bound) before it")
        refuse_unbounded(self, replace(contract, cap=1.0), scalars=False)
        refuse_spread(self, self.deviation(contract))
        return replace(contract, bound=None)

    def deviation(self, contract: Contract) -> float:
        """Return σ, for updates as far apart as twice the bound."""
        return gaussian_deviation(self.epsilon, self.delta, 2 * (contract.bound or 0.0))

    def release(self, contract: Contract) -> Release:
        """Return one Gaussian for each client that takes part."""
        reach = 2 * (contract.bound or 0.0)
        multiplier = gaussian_deviation(self.epsilon, self.delta)
        return Release("local gaussian", multiplier, reach, contract.dimension)

    def encode(
        self, payload: dict[str, Any], contract: Contract, sent: Tree, memory: Tree, key: Keys
    ) -> tuple[dict[str, Any], Tree]:
        """Return rows with their own client's noise; raises `MusterError` for one not finite."""
        spread, noisy = self.deviation(contract), {}
        for i, (name, rows) in enumerate(contract.vectors(payload).items()):
            if not np.isfinite(rows).all():
                raise MusterError(
                    f"{self} was given {name} with NaN or Inf, which no bound holds; lower the "
                    f"local rate, or clean this client's data"
                )
            sources = clients_of(key, i)
            noise = np.stack([gaussian(one, rows.shape[-1], spread) for one in sources])
            noisy[name] = (rows + noise).astype(rows.dtype)
        return payload | noisy, memory
