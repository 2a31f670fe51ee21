# SPDX-License-Identifier: Apache-2.0
"""F1 against scikit-learn, with classes that nobody has."""

import numpy as np
import pytest
from tests.metrics.oracle import drawn, measured

from muster.errors import PlanError
from muster.metrics import F1


@pytest.mark.parametrize("average", ["macro", "micro", "weighted"])
@pytest.mark.parametrize("held", [4, 6])
def test_f1_is_scikit_learns(average, held):
    oracle = pytest.importorskip("sklearn.metrics")
    outputs, y = drawn(6)
    outputs[:, held:] = -9.0  # neither predicted nor a label: left out, as there
    y = y % held
    expected = oracle.f1_score(y, outputs.argmax(1), average=average)
    assert measured(F1(average), outputs, y) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("width", [1, 2])
def test_f1_of_two_classes_is_scikit_learns(width):
    oracle = pytest.importorskip("sklearn.metrics")
    outputs, y = drawn(2)
    expected = oracle.f1_score(y, outputs[:, 1] > outputs[:, 0])
    if width == 1:
        outputs = outputs[:, 1:] - outputs[:, :1]  # one logit
    assert measured(F1(), outputs, y) == pytest.approx(expected, rel=1e-12)


def test_names_and_what_is_refused():
    assert [F1().name, F1("macro").name] == ["f1", "f1 macro"]
    assert np.isnan(F1().value(F1().sums(np.zeros((0, 2)), np.zeros(0))))
    with pytest.raises(PlanError, match="average must be one of"):
        F1("both")
    with pytest.raises(PlanError, match="classes must be a whole number above 1"):
        F1("macro", classes=1)
    with pytest.raises(PlanError, match="is of 2 classes, and the model has 6; give classes=6"):
        F1().sums(*drawn(6))
