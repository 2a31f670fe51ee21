# SPDX-License-Identifier: Apache-2.0
"""Replies that are seen one by one: those that no honest client of the plan makes are left out.

A clip binds nobody who does not run it, so a reply is held to what the plan's own stages promise of
it: its norm to the bound of the clip, its integers to their levels. Where a plan has no bound, a
reply is left out only if a sum with it could overflow. Under masks replies are not seen, and the
sum is held to the same (`pipeline.sum_bounds`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from muster.mapped import forget
from muster.pipeline.sum_bounds import SumBounds
from muster.plan.norms import norms_of, shows_norms
from muster.plan.plan import Plan
from muster.types import Reply, Sent

__all__ = ["Outliers"]

CROWD = 2.0**32  # replies whose sum must be finite
ROUNDING = 1e-5  # of a norm, from weighting and from adding up in the dtype that travels
PIECE = 1 << 20  # coordinates that are looked at at once


@dataclass(frozen=True)
class Outliers:
    """The bounds on a reply in a round in which `sent` was sent."""

    plan: Plan
    sent: Sent

    def refusal(self, reply: Reply) -> str:
        """Say why no honest client sends this, in a sentence, or "".

        A sum of several clients, of this process or under a mask, is none of its business.
        """
        if len(reply.clients) != 1 or self.plan.secure is not None:
            return ""
        contract = self._contract
        if contract.integer:
            return self._sums.sizes(reply.payload, reply.weight) or _unbounded(reply.buffers)
        vectors = contract.vectors(dict(reply.payload))
        return next(
            filter(None, map(_unbounded, (*reply.payload.values(), reply.buffers))), ""
        ) or self._long(vectors, reply.weight)

    def measured(self, reply: Reply) -> Reply:
        """Return one client's reply with the length of its update, where nothing is to hide that.

        A client whose site keeps its metrics keeps this, too.
        """
        if len(reply.clients) != 1 or not reply.metrics or not shows_norms(self.plan):
            return reply
        rows = {name: np.asarray(value)[None] for name, value in dict(reply.payload).items()}
        (norm,) = norms_of(self._contract, rows, np.array([reply.weight]))
        return replace(reply, norms=((reply.clients[0], norm),))

    @cached_property
    def _contract(self) -> Any:
        return self.plan.stages.now(self.sent.stages)[-1]

    @cached_property
    def _sums(self) -> SumBounds:
        equal, variance = self.plan.weighting == "equal", self.plan.stages.share_variance()
        return SumBounds(self._contract, 1, equal, variance)

    def _long(self, vectors: dict[str, Any], weight: float) -> str:
        """Say that it is longer than the plan's clip lets an update be, or ""."""
        bound = self._contract.bound
        if bound is None:
            return ""
        limit = bound * weight * (1 + ROUNDING)
        if sum(map(_rough, vectors.values())) < 0.99 * limit**2:
            return ""  # far enough below for the rounding of float32
        square = sum(_square(part) for v in vectors.values() for part in _pieces(v))
        if square <= limit**2:
            return ""
        return (
            f"its norm is {square**0.5 / weight:.6g}, and the plan's pipeline lets none be above "
            f"{bound:.6g}; a client that runs the plan sends no such update"
        )


def _unbounded(values: Any) -> str:
    """Say that so many replies like this one could add up to infinity, or ""."""
    values = np.asarray(values)
    if values.dtype.kind != "f" or math.isfinite(_rough(values)):
        return ""
    most = float(np.finfo(values.dtype).max) / CROWD
    high = max((float(np.abs(part).max(initial=0)) for part in _pieces(values)), default=0.0)
    if high <= most:
        return ""
    return f"a number in it is {high:.3g}, beyond {most:.3g}, with which a sum could overflow"


def _rough(values: Any) -> float:
    """Return the sum of squares in its own dtype: fast, infinite from about 1e19 in float32."""
    total = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for part in _pieces(values):
            total += float(part @ part)
            forget(part)
    return total


def _pieces(values: Any) -> Iterator[Any]:
    return (values[i : i + PIECE] for i in range(0, len(values), PIECE))


def _square(part: Any) -> float:
    return float(np.square(part, dtype=np.float64).sum())
