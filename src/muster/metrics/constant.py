# SPDX-License-Identifier: Apache-2.0
"""The best answer that does not look at the rows: what a model that learned something must beat."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from muster.metrics.head import OutputHead

__all__ = ["beaten", "constant", "guess"]

EDGE = 1e-3  # a loss this much, relatively, below that of the constant answer has learned nothing


def constant(head: OutputHead, y: Any) -> dict[str, float]:
    """Return accuracy and loss of the best constant answer to these targets, where known.

    The share of the commonest class, and the entropy of the classes; the variance of numbers.

    >>> found = constant(OutputHead("softmax", 2, plain=True), np.array([0, 0, 0, 1]))
    >>> found["accuracy"], round(found["loss"], 4)
    (0.75, 0.5623)
    """
    y, found = np.asarray(y), {}
    if head.rows_of == "classes":
        shares = np.unique(y, return_counts=True)[1] / y.size
        found = {"accuracy": float(shares.max()), "loss": float(-(shares * np.log(shares)).sum())}
    elif head.rows_of == "numbers":
        found = {"loss": float(np.var(y.reshape(len(y), -1).astype(float), 0).mean())}
    return found if head.plain else {k: v for k, v in found.items() if k != "loss"}


def guess(head: OutputHead, rows: int) -> dict[str, float]:
    """Return the score of guessing at random among the classes, on rows of unknown labels.

    The accuracy is three standard deviations above its mean, the loss the logarithm of how many
    classes there are; nothing where that, or the loss, is not known.

    >>> found = guess(OutputHead("softmax", 10, plain=True), 900)
    >>> {name: round(value, 3) for name, value in found.items()}
    {'accuracy': 0.13, 'loss': 2.303}
    """
    count = 2 if head.kind == "sigmoid" else head.width or 0
    if head.rows_of != "classes" or not head.plain or count < 2 or not rows:
        return {}
    share = 1 / count
    accuracy = share + 3 * math.sqrt(share * (1 - share) / rows)
    return {"accuracy": accuracy, "loss": math.log(count)}


def beaten(found: Mapping[str, float], least: Mapping[str, float]) -> bool:
    """Return whether a model does better than the constant answer, in one of the two or both.

    Where neither is known of both, nothing is said against the model. The same of a guess.

    >>> beaten({"accuracy": 0.1, "loss": 2.31}, {"accuracy": 0.11, "loss": 2.303})
    False
    """
    known = [name for name in ("accuracy", "loss") if name in least and name in found]
    better = {
        "accuracy": found.get("accuracy", math.nan) > least.get("accuracy", math.nan),
        "loss": found.get("loss", math.nan) < (1 - EDGE) * least.get("loss", math.nan),
    }
    return not known or any(better[name] for name in known)
