# SPDX-License-Identifier: Apache-2.0
"""The seam is abstract, and whatever is shipped keeps its promises."""

import pytest

from muster import metrics
from muster.metrics import Metric
from muster.testing import check_metric

SHIPPED = [
    metrics.AUC(),
    metrics.AUC(7),
    metrics.Accuracy(),
    metrics.Brier(),
    metrics.F1(),
    metrics.F1("macro"),
    metrics.F1("weighted"),
    metrics.F1("micro"),
    metrics.MAE(),
    metrics.Perplexity(),
    metrics.R2(),
    metrics.RMSE(),
    metrics.TopK(1),
    metrics.TopK(5),
]


@pytest.mark.parametrize("metric", SHIPPED, ids=repr)
def test_what_is_shipped_keeps_its_promises(metric):
    check_metric(metric)


def test_nothing_shipped_is_left_out():
    abstract = {Metric, metrics.ByRow, metrics.Loss, metrics.TaskMean}
    kinds = {getattr(metrics, name) for name in metrics.__all__} - abstract
    assert kinds == {type(metric) for metric in SHIPPED}


@pytest.mark.parametrize("call", [lambda: Metric().sums(0, 0), lambda: Metric().value({})])
def test_the_seam_is_abstract(call):
    with pytest.raises(NotImplementedError):
        call()
