# SPDX-License-Identifier: Apache-2.0
"""Sums of several metrics, flat by name, over blocks, positions and clients."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
from tests.metrics.oracle import drawn, measured

from muster.errors import PlanError
from muster.metrics import AUC, F1, Accuracy, ByRow, Loss, Metric, TaskMean
from muster.metrics.head import OutputHead
from muster.metrics.sums import MetricTally, added, flat, names, sums_of, values
from muster.metrics.trial import tried

HEAD = OutputHead("softmax", 4)


@dataclass(frozen=True)
class Odd(Metric):
    """A metric that gives what it is told to."""

    given: object
    name = "odd"
    lower_is_better = False
    __hash__ = object.__hash__

    def sums(self, outputs, y):
        if isinstance(self.given, Exception):
            raise self.given
        return self.given

    def value(self, sums):
        return sums["a"] / sums["b"]


def test_a_tally_over_blocks_is_that_over_all():
    outputs, y = drawn(4)
    metrics = (Loss(), Accuracy(), F1("macro"))
    whole, parts = MetricTally(metrics, HEAD), MetricTally(metrics, HEAD)
    whole.add(outputs, y)
    for part in np.split(np.arange(len(y)), (3, 50)):
        parts.add(outputs[part], y[part])
    assert whole.flat() == parts.flat()
    found = values(metrics, parts.flat() | {"rows": len(y), "loss": 1.0})
    assert found == {
        "loss": 1 / len(y),
        "accuracy": measured(Accuracy(), outputs, y),
        "f1 macro": measured(F1("macro"), outputs, y),
    }
    assert not MetricTally((Loss(),), HEAD)


def test_each_position_is_a_row_and_native_metrics_see_them_whole():
    outputs, y = drawn(4, rows=210)
    seen = []
    own = ByRow(lambda z, y: seen.append(z.shape) or y * 1.0, lower_is_better=False, called="own")
    tally = MetricTally((Accuracy(), own), HEAD)
    tally.add(outputs.reshape(30, 7, 4), y.reshape(30, 7))
    assert tally.flat()["accuracy/rows"] == tally.flat()["own/values"] == 210
    assert seen == [(30, 7, 4)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (0.5, "returned 0.5 from sums"),
        ({}, "must return sums over rows by name"),
        ({"a": np.zeros((2, 2))}, r"'a' of shape \(2, 2\).*an array of one axis"),
        ({"a": "x"}, "a sum is a number"),
        ({"a/b": 1}, "name it by a word"),
        ({3: 1}, "name it by a word"),
        (KeyError("k"), "raised KeyError: 'k'; repair its sums"),
    ],
    ids=str,
)
def test_what_are_no_sums_is_refused(given, message):
    with pytest.raises(PlanError, match=message):
        sums_of(Odd(given), np.zeros((2, 2)), np.zeros(2))


def test_sums_of_clients_are_added_by_name():
    parts = [{"rows": 1.0, "a/x/0": 2.0, "gone": 1.0}, {"rows": 2.0, "a/x/0": 3.0}]
    assert added(parts) == {"rows": 3.0, "a/x/0": 5.0}
    assert added([]) == {}


@pytest.mark.parametrize(
    "sums",
    [
        {"odd/a": 0.0, "odd/b": 0.0},
        {"odd/a": 1.0},
        {"odd/a/0": 1.0, "odd/a/1": 1.0, "odd/b": 1.0},
        {"odd/a": math.nan, "odd/b": 1.0},
        {"odd/b": 1.0, "odd/a": 1.0, "odd/a/0": math.nan},
        {
            "odd/a/0": math.nan,
            "odd/a": math.nan,
            "odd/b/x": 1.0,
            "odd//": 1.0,
            "/": 1.0,
            "odd/": 1.0,
        },
        {},
    ],
)
def test_odd_sums_of_another_have_no_value_and_raise_nothing(sums):
    assert math.isnan(values([Odd(None)], sums).get("odd", math.nan))


def test_what_there_are_no_sums_of_is_left_out():
    mean = TaskMean("score", lower_is_better=False)
    assert values([Loss(), mean, Accuracy()], {"rows": 2, "score": 3.0}) == {"score": 1.5}
    own = {"rows": 2, "held out": 2, "loss": 1.0, "mine": 3.0, "count": 9.0}
    assert values([Loss()], own) == {"loss": 0.5, "mine": 1.5}  # of a task's own, undeclared


def test_all_names_are_known_from_the_plan():
    metrics = (Loss(), Accuracy(), AUC(3), F1("macro"))
    outputs, y = drawn(2)
    tally = MetricTally(metrics, OutputHead("softmax", 2))
    tally.add(outputs, y)
    made = tried(metrics, OutputHead("softmax", 2))
    assert names(metrics, made) == {"rows", "held out", "loss", *tally.flat()}
    assert names(metrics, made | {"auc": None}) is None
    assert flat("a", {"b": np.arange(2)}) == {"a/b/0": 0.0, "a/b/1": 1.0}
