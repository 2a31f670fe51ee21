# SPDX-License-Identifier: Apache-2.0
"""Noise: the server's sum gets Gaussian noise measured by what one client can add to it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from muster.errors import PlanError
from muster.keys import RandomSource
from muster.pipeline.stage import Contract, Stage
from muster.privacy.gaussian import (
    LEAST,
    MOST,
    check_multiplier,
    gaussian,
    is_number,
    remaining,
)
from muster.privacy.release import Release
from muster.types import Reply, State

__all__ = ["Noise", "refuse_multiplier", "refuse_spread", "refuse_unbounded"]

SPREADS = 1e-30, 1e30  # float32 reaches from 1e-45 to 3e38


@dataclass(frozen=True, repr=False)
class Noise(Stage):
    """Σ w_i D_i + N(0, (multiplier · bound · cap)² I), on the server, on what is really summed.

    Source: McMahan et al. 2018 (arXiv 1710.06963). After AdaptiveClip the budget is split as in
    Andrew et al. 2021 (arXiv 1905.03871, section 2.2): the sum of bits gets noise of standard
    deviation σ_b = `bit` clients (5 · multiplier unless given), the vectors the multiplier
    (multiplier⁻² − (2σ_b)⁻²)^(−1/2). Divide by a fixed number: Mean(denominator="expected").

    >>> Noise(0.8)
    Noise(multiplier=0.8)
    """

    multiplier: float
    bit: float | None = None
    needs_sum: ClassVar[bool] = True

    def __post_init__(self) -> None:
        refuse_multiplier(self, self.multiplier)
        bit = self.multiplier if self.bit is None else self.bit
        if not (is_number(bit) and self.multiplier < 2 * bit <= 2 * MOST):
            raise PlanError(
                f"{self}: the bit's noise must be finite and above multiplier/2, or it takes all "
                f"of the budget, and at most {MOST:g}; a twentieth of the expected cohort is usual"
            )

    def __repr__(self) -> str:
        bit = "" if self.bit is None else f", bit={self.bit!r}"
        return f"Noise(multiplier={self.multiplier!r}{bit})"

    def accept(self, contract: Contract) -> Contract:
        """Require a bound on every field and a cap on the weight; the sum is then settled."""
        refuse_unbounded(self, contract)
        if not contract.moving:
            refuse_spread(self, self.multiplier * (contract.sensitivity or 0.0))
        return replace(contract, noise=repr(self))

    def multipliers(self, contract: Contract) -> tuple[float, float]:
        """Return the multipliers of vectors and of each bounded scalar; together they are ours."""
        scalars = sum(field.scalar for field in contract.fields)
        if not scalars:
            return self.multiplier, math.inf
        scalar = 2 * (5 * self.multiplier if self.bit is None else self.bit)
        return remaining(self.multiplier, scalar, scalars), scalar

    def release(self, contract: Contract) -> Release:
        """Return one Gaussian of this multiplier."""
        fixed = None if contract.moving else contract.sensitivity
        return Release("gaussian", self.multiplier, fixed, contract.dimension)

    def decode(
        self, total: Reply, contract: Contract, state: State, key: RandomSource
    ) -> tuple[Reply, State]:
        """Return the sum with noise on every field; integers become reals here."""
        vector, scalar = self.multipliers(contract)
        reach, cap = contract.sensitivity or 0.0, contract.cap or 1.0
        payload = dict(total.payload)
        for i, field in enumerate(contract.fields):
            spread = scalar * (field.bound or 0.0) * cap if field.scalar else vector * reach
            value = payload[field.name]
            noisy = value + gaussian(key.at(i), field.size, spread)
            payload[field.name] = noisy if field.integer else noisy.astype(value.dtype)
        return replace(total, payload=payload), state


def refuse_multiplier(stage: Stage, multiplier: float) -> None:
    """Raise `PlanError` for a multiplier that adds no noise, or none that floats can hold."""
    try:
        check_multiplier(multiplier)
    except PlanError:
        raise PlanError(
            f"{stage}: the multiplier must be finite and above 0, from {LEAST:g} to {MOST:g}, such "
            f"as 1.0; without noise nothing is private: leave the stage out"
        ) from None


def refuse_spread(stage: Stage, deviation: float) -> None:
    """Raise `PlanError` for noise so narrow or so wide that float32 holds none of it."""
    narrowest, widest = SPREADS
    if not narrowest <= deviation <= widest:
        raise PlanError(
            f"{stage}: noise of standard deviation {deviation:g} is none that floats can hold, "
            f"which is from {narrowest:g} to {widest:g}; change the bound of Clip"
        )


def refuse_unbounded(stage: Stage, contract: Contract, scalars: bool = True) -> None:
    """Refuse what nothing bounds: no noise of any width can hide it."""
    loose = [f.name for f in contract.fields if f.scalar and (f.bound is None or not scalars)]
    if loose:
        raise PlanError(
            f"{stage} cannot hide {', '.join(loose)}, one number a client sent beside its vectors; "
            f"use an algorithm or a Clip that sends vectors alone, such as FedAvg with Clip(bound)"
        )
    if contract.bound is None and contract.integer:
        raise PlanError(
            f"{stage} needs a bounded payload to be private; put Clip(bound) before Quantize, and "
            f"leave its feedback off, which adds what nothing bounds"
        )
    if contract.bound is None and not contract.moving:
        raise PlanError(
            f"{stage} needs a bounded payload to be private; put Clip(bound) before it."
        )
    if contract.cap is None:
        raise PlanError(
            f"{stage} needs to know the largest weight; give Plan(cap=rows) with "
            f"weighting='examples', or use weighting='equal'"
        )
