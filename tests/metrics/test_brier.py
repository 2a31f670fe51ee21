# SPDX-License-Identifier: Apache-2.0
"""The Brier score against scikit-learn."""

import pytest
from tests.metrics.oracle import drawn, measured

from muster.metrics import Brier
from muster.metrics.head import probabilities_of


@pytest.mark.parametrize("classes", [2, 4])
def test_brier_is_scikit_learns(classes):
    oracle = pytest.importorskip("sklearn.metrics")
    outputs, y = drawn(classes)
    score = probabilities_of(outputs)
    expected = oracle.brier_score_loss(y, score[:, 1] if classes == 2 else score)
    assert measured(Brier(), outputs, y) == pytest.approx(expected, rel=1e-12)
