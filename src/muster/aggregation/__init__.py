# SPDX-License-Identifier: Apache-2.0
"""Aggregation: replies become one by the mean here; rules that need each are its siblings."""

from muster.aggregation.mean import Mean
from muster.aggregation.median import Median
from muster.aggregation.robust import RobustAggregator
from muster.aggregation.trimmed_mean import TrimmedMean

__all__ = ["Mean", "Median", "RobustAggregator", "TrimmedMean"]
