# SPDX-License-Identifier: Apache-2.0
"""Well-known datasets, each a function that returns a `Federation`: a population and test rows."""

from __future__ import annotations

from muster.data.datasets.federation import Federation
from muster.data.datasets.heart import heart_disease
from muster.data.datasets.images import digits, fashion_mnist, mnist
from muster.data.datasets.shakespeare import shakespeare
from muster.data.datasets.synthetic import synthetic, synthetic_file

__all__ = [
    "Federation",
    "digits",
    "fashion_mnist",
    "heart_disease",
    "mnist",
    "shakespeare",
    "synthetic",
    "synthetic_file",
]
