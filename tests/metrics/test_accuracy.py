# SPDX-License-Identifier: Apache-2.0
"""Accuracy against scikit-learn."""

import pytest
from tests.metrics.oracle import drawn, measured

from muster.metrics import Accuracy


@pytest.mark.parametrize("classes", [2, 5])
def test_accuracy_is_scikit_learns(classes):
    oracle = pytest.importorskip("sklearn.metrics")
    outputs, y = drawn(classes)
    assert measured(Accuracy(), outputs, y) == oracle.accuracy_score(y, outputs.argmax(1))
