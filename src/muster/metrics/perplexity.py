# SPDX-License-Identifier: Apache-2.0
"""Perplexity: among how many equally likely classes a model is as unsure as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from muster.metrics.metric import Metric, Sums

__all__ = ["Perplexity"]


@dataclass(frozen=True)
class Perplexity(Metric):
    """exp of the mean of −log softmax(outputs)[y]; infinite where that overflows.

    Outputs are logits, or logarithms of probabilities, `(rows, classes)`; one logit alone is that
    of class 1. Each position of a text is a row, so it is the perplexity by token.

    >>> round(Perplexity().value(Perplexity().sums(np.zeros((1, 10)), np.array([3]))), 6)
    10.0
    """

    name = "perplexity"
    lower_is_better = True
    rows_of = "classes"

    def sums(self, outputs: Any, y: Any) -> Sums:
        """Sum nats and count rows."""
        z = np.asarray(outputs, np.float64)
        if z.shape[-1] == 1:
            z = np.concatenate([np.zeros_like(z), z], 1)
        top = z.max(1, keepdims=True)
        own = np.take_along_axis(z, np.asarray(y).astype(np.intp)[:, None], 1)
        nats = np.log(np.exp(z - top).sum(1)) + (top - own)[:, 0]
        return {"nats": float(nats.sum()), "rows": len(y)}

    def value(self, sums: Sums) -> float:
        """Return exp(nats / rows)."""
        return float(np.exp(np.float64(sums["nats"]) / sums["rows"]))
