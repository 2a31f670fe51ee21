# SPDX-License-Identifier: Apache-2.0
"""Metrics: objects with a name, a direction, and sums over rows that become a value."""

from muster.metrics.accuracy import Accuracy
from muster.metrics.auc import AUC
from muster.metrics.brier import Brier
from muster.metrics.by_row import ByRow
from muster.metrics.error import MAE, RMSE
from muster.metrics.f1 import F1
from muster.metrics.metric import Metric
from muster.metrics.perplexity import Perplexity
from muster.metrics.r2 import R2
from muster.metrics.task_mean import Loss, TaskMean
from muster.metrics.top_k import TopK

__all__ = [
    "AUC",
    "Accuracy",
    "Brier",
    "ByRow",
    "F1",
    "Loss",
    "MAE",
    "Metric",
    "Perplexity",
    "R2",
    "RMSE",
    "TaskMean",
    "TopK",
]
