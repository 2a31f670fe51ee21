# SPDX-License-Identifier: Apache-2.0
"""Data: who holds which rows, how to deal rows to clients, and a few well-known datasets."""

from __future__ import annotations

from muster.data.datasets import (
    Federation,
    digits,
    fashion_mnist,
    heart_disease,
    mnist,
    shakespeare,
    synthetic,
    synthetic_file,
)
from muster.data.partition import (
    by_column,
    dirichlet,
    feature_noise,
    iid,
    quantity,
    shards,
    split,
)
from muster.data.picture import picture
from muster.data.population import Population
from muster.data.rows import ClientId, Rows
from muster.data.shared import Handle
from muster.data.table import Statistics, statistics

__all__ = [
    "ClientId",
    "Federation",
    "Handle",
    "Population",
    "Rows",
    "Statistics",
    "by_column",
    "digits",
    "dirichlet",
    "fashion_mnist",
    "feature_noise",
    "heart_disease",
    "iid",
    "mnist",
    "picture",
    "quantity",
    "shakespeare",
    "shards",
    "split",
    "statistics",
    "synthetic",
    "synthetic_file",
]
