# SPDX-License-Identifier: Apache-2.0
"""A function of values by row: their mean, and what is none."""

from functools import partial

import numpy as np
import pytest
from tests.metrics.oracle import drawn, measured

from muster.errors import PlanError
from muster.metrics import ByRow


def right(outputs, y, shift=0):
    return outputs.argmax(1) == (y + shift)


class Named:
    def __call__(self, outputs, y):
        return np.ones(len(y))


@pytest.mark.parametrize(
    ("function", "name"),
    [(right, "right"), (partial(partial(right), shift=1), "right"), (Named(), "Named")],
)
def test_the_mean_over_rows_by_the_name_of_the_function(function, name):
    outputs, y = drawn(4)
    metric = ByRow(function, lower_is_better=False)
    assert metric.name == name
    assert measured(metric, outputs, y) == pytest.approx(function(outputs, y).mean(), rel=1e-12)
    assert ByRow(function, lower_is_better=True, called="mine").name == "mine"


def test_a_value_for_each_position_counts_each():
    outputs, y = np.zeros((3, 5, 2)), np.zeros((3, 5), int)
    metric = ByRow(lambda z, y: z.argmax(-1) == y, lower_is_better=False, called="hits")
    assert metric.sums(outputs, y) == {"sum": 15, "values": 15}


@pytest.mark.parametrize(
    ("function", "given"),
    [
        (lambda z, y: (z.argmax(1) == y).mean(), "float64"),
        (lambda z, y: 0.5, "float 0.5"),
        (lambda z, y: z, r"shape \(211, 4\)"),
        (lambda z, y: [1.0] * len(y), "list"),
        (lambda z, y: None, "None"),
    ],
)
def test_a_mean_a_float_and_another_shape_are_refused(function, given):
    metric = ByRow(function, lower_is_better=False, called="mine")
    with pytest.raises(PlanError, match=f"'mine' returned .*{given}.* one number for each row"):
        metric.sums(*drawn(4))


def test_what_is_no_function_is_refused():
    with pytest.raises(PlanError, match="give a function"):
        ByRow("accuracy", lower_is_better=False)
