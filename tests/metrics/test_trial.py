# SPDX-License-Identifier: Apache-2.0
"""Metrics are tried on rows that are made up: sums that do not add up are found."""

from dataclasses import dataclass

import numpy as np
import pytest

from muster.errors import PlanError
from muster.metrics import F1, Accuracy, ByRow, Metric, TopK
from muster.metrics.head import OutputHead
from muster.metrics.trial import made_up, tried


@dataclass(frozen=True)
class Faulty(Metric):
    """Accuracy, with one fault."""

    fault: str
    name = "faulty"
    lower_is_better = False

    def sums(self, outputs, y):
        hits = outputs.argmax(1) == y
        found = {"hits": hits.mean() if self.fault == "mean" else hits.sum(), "rows": len(y)}
        if self.fault == "shape":
            found["hits"] = hits
        if self.fault == "names" and len(y) < 10:
            found["few"] = 1
            del found["rows"]
        return found

    def value(self, sums):
        if self.fault == "raises":
            raise KeyError("hits")
        return np.ones(2) if self.fault == "value" else sums["hits"] / sums["rows"]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("mean", "'hits' = .* for all rows, but .* for two halves together; .* not means"),
        ("shape", "in another shape for other rows"),
        ("names", "in another shape for other rows"),
        ("value", "has the value .*; give a number"),
        ("raises", r"raised KeyError: 'hits'; repair its value\(\)"),
    ],
)
def test_a_fault_is_found_before_there_are_rows(fault, message):
    for head in (OutputHead("softmax", 3), OutputHead("sigmoid", 1)):
        with pytest.raises(PlanError, match=message):
            tried([Faulty(fault)], head)
    assert tried([Faulty("none")], OutputHead("softmax", 3))["faulty"].keys() == {"hits", "rows"}


def test_where_nothing_is_known_of_the_outputs_nothing_is_tried():
    assert tried([Faulty("mean")], OutputHead("own", 3)) == {"faulty": None}


def test_a_width_that_is_not_known_does_not_hide_the_names():
    found = tried([Accuracy(), TopK(5), F1("macro"), F1("weighted", 4)], OutputHead("softmax"))
    assert found["accuracy"].keys() == found["top 5"].keys() == {"hits", "rows"}
    assert found["f1 macro"] is None
    assert len(found["f1 weighted"]["held"]) == 4


def test_a_function_by_row_is_known_and_not_called():
    metric = ByRow(lambda z, y: 1 / 0, lower_is_better=False, called="own")
    assert tried([metric], OutputHead("own"))["own"].keys() == {"sum", "values"}


@pytest.mark.parametrize(
    "head", [OutputHead("numbers", 1), OutputHead("numbers", 3), OutputHead("sigmoid", 1)]
)
def test_rows_that_are_made_up_have_the_shapes_of_the_task(head):
    outputs, y = made_up(head)
    assert outputs.shape == (12, head.width)
    assert y.shape == ((12, 3) if head.width == 3 else (12,))
