# SPDX-License-Identifier: Apache-2.0
"""`check_metric` lets a sound metric pass and finds each fault."""

from dataclasses import dataclass

import numpy as np
import pytest

from muster import metrics
from muster.testing import check_metric


@dataclass(frozen=True)
class Within(metrics.Metric):
    """Share of rows among the k likeliest, with one fault."""

    k: int = 3
    fault: str = ""
    lower_is_better = False

    @property
    def name(self):
        return "" if self.fault == "name" else f"within {self.k}"

    def sums(self, outputs, y):
        hits = (np.argsort(-outputs, 1)[:, : self.k] == y[:, None]).any(1)
        if self.fault == "order":
            hits = hits * np.arange(len(y))
        if self.fault == "change":
            outputs += 1
        if self.fault == "wrong":
            hits = ~hits
        return {"hits": hits.mean() if self.fault == "mean" else hits.sum(), "rows": len(y)}

    def value(self, sums):
        return None if self.fault == "value" else sums["hits"] / sums["rows"]


class Thawed(Within):
    """The same, and no frozen dataclass of its own."""

    def __repr__(self):
        return "Thawed"


def test_a_sound_metric_passes():
    check_metric(Within())
    check_metric(Within(1), np.eye(9), np.arange(9))
    check_metric(metrics.ByRow(residual, lower_is_better=True))


def residual(outputs, y):
    return np.abs(outputs[:, 0] - y)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("name", "is named ''"),
        ("order", "two halves"),
        ("change", "changes what it is given"),
        ("wrong", "says that more is better, but right answers have 0.0 and wrong ones"),
        ("mean", "add up, not means"),
        ("value", "has the value None; give a number"),
    ],
)
def test_each_fault_is_found(fault, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_metric(Within(fault=fault))


def test_what_is_no_value_is_found():
    with pytest.raises(AssertionError, match="Thawed"):
        check_metric(Thawed())


def test_few_rows_are_refused():
    with pytest.raises(AssertionError, match="was given 3 rows; give six or more"):
        check_metric(Within(), np.eye(3), np.arange(3))


def test_rows_of_another_kind_are_asked_for():
    def own(outputs, y):
        raise ValueError("graphs, please")

    with pytest.raises(AssertionError, match=r"give check_metric rows that it takes.*graphs"):
        check_metric(metrics.ByRow(own, lower_is_better=True))
