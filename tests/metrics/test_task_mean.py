# SPDX-License-Identifier: Apache-2.0
"""Measures of a task by itself have no sums of their own."""

import pytest

from muster.errors import PlanError
from muster.metrics import Loss, TaskMean


@pytest.mark.parametrize("metric", [Loss(), TaskMean("accuracy", lower_is_better=False)])
def test_the_sums_are_those_of_the_task(metric):
    assert metric.value({"sum": 6.0, "rows": 4}) == 1.5
    with pytest.raises(PlanError, match="are those of its task"):
        metric.sums(None, None)
