# SPDX-License-Identifier: Apache-2.0
"""BandedNoise: noise correlated over rounds, which later rounds take back in part."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from muster.errors import PlanError
from muster.keys import RandomSource
from muster.pipeline.noise import refuse_multiplier, refuse_spread, refuse_unbounded
from muster.pipeline.stage import Contract, Stage
from muster.privacy.gaussian import gaussian
from muster.privacy.matrix import correlated, optimal, square_root
from muster.privacy.release import Release
from muster.types import Reply, State

__all__ = ["BandedNoise"]


@dataclass(frozen=True)
class BandedNoise(Stage):
    """Each round's sum gets a row of C⁻¹ Z, Z ~ N(0, (multiplier · bound · cap)²), b bands.

    Source: DP-FTRL with a banded matrix, Choquette-Choo et al. 2023 (arXiv 2306.08153). A client
    may take part once in `separation` rounds (1: in every round), which whoever invites must
    enforce. With `rounds` C is optimal for so many, else the cut square root. Deviation: C is
    Toeplitz, so its last b − 1 columns are shorter than one. The last b − 1 rows of noise are
    state, committed with the model: whoever has them takes that noise off again. So where they
    are of secrets they are erased when the run has ended, and it cannot be extended then.

    >>> len(BandedNoise(1.0, bands=4, separation=4).coefficients)
    4
    """

    multiplier: float
    bands: int
    separation: int = 1
    rounds: int | None = None
    needs_sum: ClassVar[bool] = True

    def __post_init__(self) -> None:
        refuse_multiplier(self, self.multiplier)
        for name in ("bands", "separation", "rounds"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and value >= 1):
                raise PlanError(f"{self}: {name} must be a whole number, at least 1")

    @property
    def coefficients(self) -> tuple[float, ...]:
        """c_0 … c_{b−1}, with Σ c² = 1."""
        return optimal(self.rounds, self.bands) if self.rounds else square_root(self.bands)

    def accept(self, contract: Contract) -> Contract:
        """Require a bound that stays, since noise of one round is taken back in another."""
        if contract.moving:
            raise PlanError(
                f"{self} needs one bound for all rounds, as its noise spans them; put Clip(bound) "
                f"before it, or use Noise(multiplier) with AdaptiveClip"
            )
        refuse_unbounded(self, contract, scalars=False)
        refuse_spread(self, self.multiplier * (contract.sensitivity or 0.0))
        return replace(contract, noise=repr(self))

    def init(self, contract: Contract) -> State:
        """Return the last b − 1 rows of noise per field, the newest first; the server's own."""
        shapes = {field.name: (self.bands - 1, field.size) for field in contract.fields}
        return State(private={name: np.zeros(shape) for name, shape in shapes.items()})

    def release(self, contract: Contract) -> Release:
        """Return one row of the matrix mechanism."""
        return Release(
            "matrix",
            self.multiplier,
            contract.sensitivity,
            contract.dimension,
            coefficients=self.coefficients,
            separation=self.separation,
        )

    def decode(
        self, total: Reply, contract: Contract, state: State, key: RandomSource
    ) -> tuple[Reply, State]:
        """Return the sum with this round's row; integers become reals here."""
        spread = self.multiplier * (contract.sensitivity or 0.0)
        payload, kept = dict(total.payload), {}
        for i, field in enumerate(contract.fields):
            fresh, value = gaussian(key.at(i), field.size, spread), payload[field.name]
            past = state.private[field.name]
            row, kept[field.name] = correlated(fresh, past, self.coefficients)
            noisy = value + row
            payload[field.name] = noisy if field.integer else noisy.astype(value.dtype)
        return replace(total, payload=payload), State(private=kept)

    def ended(self, state: State) -> State:
        """Return zeros in place of the rows that no further round takes back."""
        if not any(rows.any() for rows in state.private.values()):
            return state
        return State(private={name: np.zeros_like(rows) for name, rows in state.private.items()})
