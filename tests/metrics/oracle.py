# SPDX-License-Identifier: Apache-2.0
"""Predictions to measure, and sums of parts: what every test of a metric shares."""

import numpy as np

from muster.metrics.head import read
from muster.metrics.sums import sums_of, value_of


def drawn(classes, rows=211, seed=0):
    """Logits `(rows, classes)` and labels that they have something to do with."""
    draw = np.random.default_rng(seed)
    y = draw.integers(0, classes, rows)
    return draw.normal(size=(rows, classes)) + np.eye(classes)[y], y


def numbers(outputs=1, rows=97, seed=1):
    """Predictions `(rows, outputs)` and targets."""
    draw = np.random.default_rng(seed)
    y = draw.normal(size=(rows, outputs)) * 3 + 1
    return y + draw.normal(size=y.shape), y[:, 0] if outputs == 1 else y


def measured(metric, outputs, y, cuts=(5, 90)):
    """The value, from sums over three parts of the rows that are added up."""
    total = {}
    for part in np.split(np.arange(len(y)), cuts):
        sums = sums_of(metric, read(metric.needs, outputs[part]), y[part])
        total = {name: total.get(name, 0) + value for name, value in sums.items()}
    return value_of(metric, total)
