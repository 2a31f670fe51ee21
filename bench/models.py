# SPDX-License-Identifier: Apache-2.0
"""The workloads' models as torch modules, at the common start."""

from __future__ import annotations

import torch
from torch import nn

from bench.workloads import WORKLOADS, start_tensors

__all__ = ["cnn", "mlp", "softmax"]


def softmax() -> nn.Module:
    """Return the model 60 → 10."""
    return _started(nn.Linear(60, 10), "w1")


def mlp() -> nn.Module:
    """Return the model 784-200-200-10 with ReLU."""
    layers = (nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10))
    return _started(nn.Sequential(*layers), "w2")


def cnn() -> nn.Module:
    """Return two 5×5 convolutions (32, 64 channels), each pooled, and 512 dense."""
    return _started(
        nn.Sequential(
            nn.Unflatten(1, (1, 28, 28)),
            nn.Conv2d(1, 32, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(3136, 512),
            nn.ReLU(),
            nn.Linear(512, 10),
        ),
        "w3",
    )


def _started(model: nn.Module, workload: str) -> nn.Module:
    with torch.no_grad():
        for p, tensor in zip(model.parameters(), start_tensors(WORKLOADS[workload]), strict=True):
            p.copy_(torch.from_numpy(tensor))
    return model
