# SPDX-License-Identifier: Apache-2.0
"""DiscreteNoise: each client adds its share of integer noise, so that only the sum is hidden."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from muster.errors import PlanError
from muster.keys import Keys
from muster.pipeline.noise import refuse_multiplier, refuse_unbounded
from muster.pipeline.stage import Contract, Stage
from muster.privacy.discrete import check_variance, discrete_gaussian, skellam
from muster.privacy.distributed import limited, rounded_norm, share_variance, survivors
from muster.privacy.randomness import clients_of
from muster.privacy.release import Release
from muster.types import Tree

__all__ = ["DiscreteNoise"]

LAWS = {"skellam": skellam, "gaussian": discrete_gaussian}


@dataclass(frozen=True)
class DiscreteNoise(Stage):
    """Levels + integer noise of variance (multiplier · norm)²/survivors on each client.

    Sources: Skellam, Agarwal et al. 2021 (arXiv 2110.04995); discrete Gaussian, Kairouz et al.
    2021 (arXiv 2102.06387). `clients` are expected, at most the fraction `dropout` may be lost:
    the noise of the rest suffices, and a round with fewer must be given up (`Plan(minimum=...)`).
    Put a mask after it: whoever sees one reply sees it under one share of the noise. What it hides
    is whether a client's update is what it is, or zero; a client that left would take its share
    along. Shares of those who work together hide nothing of others, so a mask opens a sum only
    where enough honest ones are surely in it. Deviations: no random rotation; levels longer than
    rounding makes them once in 10⁶ are cut back.

    >>> DiscreteNoise(1.0, clients=100, dropout=0.1).survivors
    90
    """

    multiplier: float
    clients: int
    dropout: float = 0.0
    law: Literal["skellam", "gaussian"] = "skellam"
    needs_sum: ClassVar[bool] = True

    def __post_init__(self) -> None:
        refuse_multiplier(self, self.multiplier)
        survivors(self.clients, self.dropout)
        if self.law not in LAWS:
            raise PlanError(f"{self}: law must be 'skellam' or 'gaussian'")

    @property
    def survivors(self) -> int:
        """The fewest replies that hide one another."""
        return survivors(self.clients, self.dropout)

    def accept(self, contract: Contract) -> Contract:
        """Require bounded integers, which noise widens; only a mask may follow."""
        if not contract.integer:
            raise PlanError(f"{self} adds integers to integers; put Quantize(bits) before it")
        refuse_unbounded(self, contract, scalars=False)
        check_variance(self.variance(contract))
        reach = 10 * math.sqrt(self.variance(contract))
        fields = tuple(
            f._replace(bits=1 + math.ceil(math.log2(2 ** (f.bits - 1) + reach)))
            for f in contract.fields
        )
        return replace(contract, fields=fields, noise=repr(self))

    def norm(self, contract: Contract) -> float:
        """Return the L2 norm in levels that no client's reply passes, before noise."""
        root = math.sqrt(contract.dimension)  # Quantize allows for √d, the worst that can be
        return rounded_norm((contract.sensitivity or 0.0) - root, contract.dimension)

    def variance(self, contract: Contract) -> float:
        """Return the variance of one client's share, in levels squared."""
        return share_variance(self.multiplier, self.norm(contract), self.survivors)

    def share_variance(self, contract: Contract) -> float:
        """Return the same as `variance`: every client adds its share."""
        return self.variance(contract)

    def release(self, contract: Contract) -> Release:
        """Return the sum of the survivors' shares."""
        mechanism: Any = "skellam" if self.law == "skellam" else "discrete gaussian"
        norm, size = self.norm(contract), contract.dimension
        return Release(mechanism, self.multiplier, norm, size, self.survivors)

    def encode(
        self, payload: dict[str, Any], contract: Contract, sent: Tree, memory: Tree, key: Keys
    ) -> tuple[dict[str, Any], Tree]:
        """Return integer rows with each client's share of the noise."""
        levels = limited(contract.vectors(payload), self.norm(contract))
        variance, draw = self.variance(contract), LAWS[self.law]
        for i, (name, rows) in enumerate(levels.items()):
            shares = [draw(one, rows.shape[-1], variance) for one in clients_of(key, i)]
            levels[name] = rows + np.stack(shares)
        return payload | levels, memory
