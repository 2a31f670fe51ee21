# SPDX-License-Identifier: Apache-2.0
"""The outputs of a task's model, and how probabilities and labels are read off them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from muster.metrics.metric import Metric, Needs

__all__ = ["OutputHead", "labels_of", "probabilities_of", "read"]


@dataclass(frozen=True)
class OutputHead:
    """The outputs of a model.

    `kind`: "softmax" (logits, or logarithms of probabilities, of classes that are numbered from 0),
    "sigmoid" (one logit of class 1), "numbers" (predicted targets), "own" (what the user's loss
    takes, and nobody else knows) or "none" (a task that shows no outputs). `width` is how many a
    row has, None where that is not known before rows are. `plain`: the loss is the cross-entropy of
    these classes in nats, or the squared error of these numbers, averaged over the outputs, so that
    the loss of the best constant answer is known. `means` are what a task with "none" measures by
    itself.
    """

    kind: Literal["softmax", "sigmoid", "numbers", "own", "none"]
    width: int | None = None
    plain: bool = False
    means: tuple[Metric, ...] = ()

    @property
    def rows_of(self) -> str | None:
        """The kind of its targets, "classes" or "numbers", where it is known."""
        if self.kind in ("softmax", "sigmoid"):
            return "classes"
        return "numbers" if self.kind == "numbers" else None


def read(needs: Needs, outputs: Any) -> Any:
    """Read what a metric needs off the outputs `(rows, outputs)` of a classifier."""
    if needs == "outputs":
        return outputs
    return labels_of(outputs) if needs == "labels" else probabilities_of(outputs)


def labels_of(outputs: Any) -> Any:
    """Return the likeliest class of each row `(rows,)`; of one logit, 1 where it is above 0.

    >>> labels_of(np.array([[0.1, 0.7], [0.4, 0.2]])), labels_of(np.array([[2.0], [-1.0]]))
    (array([1, 0]), array([1, 0]))
    """
    outputs = np.asarray(outputs)
    if outputs.shape[-1] == 1:
        return (outputs[..., 0] > 0).astype(np.intp)
    return outputs.argmax(-1)


def probabilities_of(outputs: Any) -> Any:
    """Return the softmax of logits `(rows, classes)` in float64; of one, both classes `(rows, 2)`.

    >>> probabilities_of(np.zeros((1, 1))).tolist()
    [[0.5, 0.5]]
    """
    z = np.asarray(outputs, np.float64)
    if z.shape[-1] == 1:
        z = np.concatenate([np.zeros_like(z), z], -1)
    grown = np.exp(z - z.max(-1, keepdims=True))
    return grown / grown.sum(-1, keepdims=True)
