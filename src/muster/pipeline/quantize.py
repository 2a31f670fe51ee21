# SPDX-License-Identifier: Apache-2.0
"""Quantize: updates travel as integers whose sum is exact."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from muster.errors import PlanError
from muster.keys import Keys, RandomSource
from muster.pipeline.stage import Contract, Field, Stage, is_length
from muster.types import Reply, State, Tree

__all__ = ["Quantize"]


@dataclass(frozen=True)
class Quantize(Stage):
    """Stochastic rounding to signed integers of `bits` bits on a range common to all clients.

    Unbiased, variance ≤ step²/4 a coordinate, step = range·cap/(2^(bits−1) − 1). The range is
    the clip bound before it unless given (values beyond it saturate); cap is the largest weight.
    `feedback` keeps what rounding lost in the client's memory and adds it next time (Stich et
    al. 2018, arXiv 1809.07599). A per-client scalar has its own bound for a range; one that
    nothing bounds travels unrounded. Rounding d coordinates lengthens a vector by up to √d steps,
    and the bound it hands on says so; with feedback there is none.

    >>> Quantize(bits=8).bits
    8
    """

    bits: int = 16
    range: float | None = None
    feedback: bool = False
    needs_sum: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.bits, int) or not 2 <= self.bits <= 32:
            raise PlanError(f"Quantize(bits={self.bits!r}): bits must lie in 2 to 32, such as 8")
        if self.range is not None and not is_length(self.range):
            raise PlanError(
                f"Quantize(range={self.range!r:.40}): range must be finite and above 0, from 1e-30 "
                f"to 1e30"
            )

    def accept(self, contract: Contract) -> Contract:
        """Require a range and a cap; hand on integers."""
        if contract.integer:
            raise PlanError(f"{self} stands after another Quantize; one is enough")
        if self.range is None and (contract.bound is None or contract.moving):
            raise PlanError(
                f"{self} needs a fixed range common to all clients; put Clip(bound) before it, "
                f"or give Quantize(range=...)"
            )
        if contract.cap is None:
            raise PlanError(
                f"{self} needs to know the largest weight; give Plan(cap=rows) with "
                f"weighting='examples', or use weighting='equal'"
            )
        step, bound = self.step(contract), None
        unrounded = None if self.feedback else contract.bound
        if unrounded is not None:
            bound = unrounded + step * math.sqrt(contract.dimension) / contract.cap
        elif contract.moving and not self.feedback:
            unrounded = math.inf  # known in each round: see `Pipeline.now`
        fields = tuple(self._rounded(f, contract.cap) for f in contract.fields)
        return replace(contract, fields=fields, bound=bound, step=step, unrounded=unrounded)

    def _rounded(self, field: Field, cap: float) -> Field:
        """Return a field as it travels; a scalar's bound is then in levels, as its values are."""
        if not field.scalar:
            return field._replace(integer=True, bits=self.bits)
        if field.bound is None:
            return field
        return field._replace(integer=True, bits=self.bits, bound=self._most / cap)

    @property
    def _most(self) -> int:
        """The highest level."""
        return (1 << self.bits - 1) - 1

    def memory(self, contract: Contract) -> Tree:
        """Return, with feedback, what rounding has lost so far, per vector field."""
        if not self.feedback:
            return None
        dtype = {32: "float32", 64: "float64"}[contract.fields[0].bits]
        return {f.name: np.zeros(f.size, dtype) for f in contract.fields if not f.scalar}

    def step(self, contract: Contract) -> float:
        """Return the distance between two levels."""
        reach = (self.range or contract.bound or 0.0) * (contract.cap or 1.0)
        return reach / self._most

    def _steps(self, contract: Contract) -> dict[str, float]:
        """Return the distance between two levels of each field that is rounded, vectors first."""
        step, scale = self.step(contract), (contract.cap or 1.0) / self._most
        return {f.name: step for f in contract.fields if not f.scalar} | {
            f.name: f.bound * scale for f in contract.fields if f.scalar and f.bound is not None
        }

    def encode(
        self, payload: dict[str, Any], contract: Contract, sent: Tree, memory: Tree, key: Keys
    ) -> tuple[dict[str, Any], Tree]:
        """Round each coordinate up or down at random, so that the mean is kept."""
        most, levels, lost = self._most, {}, {}
        for i, (name, step) in enumerate(self._steps(contract).items()):
            value = payload[name]
            kept = memory is not None and name in memory
            wanted = value + memory[name] if kept else value
            draw = key.at(i).uniform(value.shape[-1])
            level = np.floor(wanted / step + draw).clip(-most, most).astype(np.int64)
            levels[name] = level
            if kept:
                lost[name] = (wanted - level * step).astype(value.dtype)
        return payload | levels, lost if self.feedback else memory

    def decode(
        self, total: Reply, contract: Contract, state: State, key: RandomSource
    ) -> tuple[Reply, State]:
        """Return integers times the step."""
        dtype = {32: np.float32, 64: np.float64}[contract.fields[0].bits]
        levels = total.payload
        real = {k: (levels[k] * s).astype(dtype) for k, s in self._steps(contract).items()}
        return replace(total, payload=total.payload | real), state
