# SPDX-License-Identifier: Apache-2.0
"""Quantize: updates travel as integers whose sum is exact."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from muster.errors import PlanError
from muster.keys import Key, Keys
from muster.pipeline.stage import Contract, Stage
from muster.types import Reply, State, Tree

__all__ = ["Quantize"]


@dataclass(frozen=True)
class Quantize(Stage):
    """Stochastic rounding to signed integers of `bits` bits on a range common to all clients.

    Unbiased, variance ≤ step²/4 a coordinate, step = range·cap/(2^(bits−1) − 1). The range is
    the clip bound before it unless given (values beyond it saturate); cap is the largest weight.
    `feedback` keeps what rounding lost in the client's memory and adds it next time (Stich et
    al. 2018, arXiv 1809.07599). Per-client scalars travel unrounded. Rounding d coordinates
    lengthens a vector by up to √d steps, and the bound it hands on says so; with feedback there
    is none.

    >>> Quantize(bits=8).bits
    8
    """

    bits: int = 16
    range: float | None = None
    feedback: bool = False
    needs_sum: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 32:
            raise PlanError(f"Quantize(bits={self.bits!r}): bits must lie in 2 to 32, such as 8")
        if self.range is not None and not 0 < self.range < float("inf"):
            raise PlanError(f"Quantize(range={self.range!r}): range must be finite and above 0")

    def accept(self, contract: Contract) -> Contract:
        """Needs a range and a cap; hands on integers."""
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
        fields = tuple(
            f if f.scalar else f._replace(integer=True, bits=self.bits) for f in contract.fields
        )
        step, bound = self.step(contract), None
        if contract.bound is not None and not self.feedback:
            bound = contract.bound + step * math.sqrt(contract.dimension) / contract.cap
        return replace(contract, fields=fields, bound=bound, step=step)

    def memory(self, contract: Contract) -> Tree:
        """With feedback: what rounding has lost so far, per vector field."""
        if not self.feedback:
            return None
        dtype = {32: "float32", 64: "float64"}[contract.fields[0].bits]
        return {f.name: np.zeros(f.size, dtype) for f in contract.fields if not f.scalar}

    def step(self, contract: Contract) -> float:
        """The distance between two levels."""
        reach = (self.range or contract.bound or 0.0) * (contract.cap or 1.0)
        return reach / ((1 << self.bits - 1) - 1)

    def encode(
        self, payload: dict[str, Any], contract: Contract, sent: Tree, memory: Tree, key: Keys
    ) -> tuple[dict[str, Any], Tree]:
        """Round each coordinate up or down at random, so that the mean is kept."""
        step, most = self.step(contract), 2 ** (self.bits - 1) - 1
        levels, lost = {}, {}
        for i, (name, value) in enumerate(contract.vectors(payload).items()):
            wanted = value + memory[name] if memory else value
            draw = key.at(i).uniform(value.shape[-1])
            level = np.floor(wanted / step + draw).clip(-most, most).astype(np.int64)
            levels[name] = level
            lost[name] = (wanted - level * step).astype(value.dtype)
        return payload | levels, lost if self.feedback else memory

    def decode(
        self, total: Reply, contract: Contract, state: State, key: Key
    ) -> tuple[Reply, State]:
        """Integers times the step."""
        dtype = {32: np.float32, 64: np.float64}[contract.fields[0].bits]
        step = self.step(contract)
        real = {k: (v * step).astype(dtype) for k, v in contract.vectors(total.payload).items()}
        return replace(total, payload=total.payload | real), state
