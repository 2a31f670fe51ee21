# SPDX-License-Identifier: Apache-2.0
"""Losses and metrics of torch models, as functions of output and target that answer by row."""

from __future__ import annotations

from typing import Any

from muster.extras import require

torch: Any = require("torch", "torch")
_functional = torch.nn.functional

__all__ = ["accuracy", "cross_entropy", "error", "mean_cross_entropy", "per_row", "squares"]


def cross_entropy(output: Any, y: Any) -> Any:
    """−log softmax(output)[y], like `y`: classes are the last axis of the output.

    >>> cross_entropy(torch.zeros(1, 2), torch.tensor([0]))
    tensor([0.6931])
    """
    flat_output, labels = output.flatten(0, -2), y.flatten()
    return _functional.cross_entropy(flat_output, labels, reduction="none").view(y.shape)


def accuracy(output: Any, y: Any) -> Any:
    """1 where the likeliest class is the label, else 0, like `y`."""
    return output.argmax(-1) == y


def squares(output: Any, y: Any) -> Any:
    """(output − y)² by row `(rows,)`, averaged over the outputs, as torch's `MSELoss`."""
    return (output.reshape(y.shape) - y).square().reshape(len(y), -1).mean(1)


def error(output: Any, y: Any) -> Any:
    """|output − y| by row `(rows,)`, averaged over the outputs."""
    return (output.reshape(y.shape) - y).abs().reshape(len(y), -1).mean(1)


def mean_cross_entropy(output: Any, y: Any) -> Any:
    """The mean of `cross_entropy` in one call."""
    if output.dim() > 2:
        output, y = output.flatten(0, -2), y.flatten()
    return _functional.cross_entropy(output, y)


def per_row(losses: Any) -> Any:
    """Losses `(rows,)` from losses by row and position `(rows, ...)`: the mean over positions.

    >>> per_row(torch.tensor([[1.0, 3.0]])).tolist()
    [2.0]
    """
    return losses if losses.dim() < 2 else losses.flatten(1).mean(1)
