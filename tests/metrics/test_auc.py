# SPDX-License-Identifier: Apache-2.0
"""AUC from bins: the area over single rows, up to half the pairs that share a bin."""

import numpy as np
import pytest
from tests.metrics.oracle import drawn, measured

from muster.errors import PlanError
from muster.metrics import AUC
from muster.metrics.head import probabilities_of


@pytest.mark.parametrize("bins", [5, 100, 500])
def test_auc_is_scikit_learns_up_to_ties(bins):
    oracle = pytest.importorskip("sklearn.metrics")
    outputs, y = drawn(2, rows=400)
    score = probabilities_of(outputs)[:, 1]
    binned = np.minimum((score * bins).astype(int), bins - 1)
    found = measured(AUC(bins), outputs, y)
    assert found == pytest.approx(oracle.roc_auc_score(y, binned), rel=1e-12)
    tied = (binned[y == 1][:, None] == binned[y == 0]).mean() / 2
    off = abs(found - oracle.roc_auc_score(y, score))
    assert off <= tied + 1e-12
    assert tied < {5: 0.2, 100: 0.02, 500: 0.004}[bins]


def test_one_class_alone_has_no_area():
    assert np.isnan(measured(AUC(), drawn(2)[0], np.zeros(211, int)))


def test_a_model_that_is_no_number_is_no_better_than_a_coin():
    sums = AUC().sums(np.full((4, 2), np.nan), np.array([0, 1, 0, 1]))
    assert AUC().value(sums) == 0.5


def test_what_is_refused():
    with pytest.raises(PlanError, match="is of two classes, and the model has 3"):
        AUC().sums(np.ones((1, 3)) / 3, np.zeros(1))
    with pytest.raises(PlanError, match="bins must be a whole number from 2 to 500"):
        AUC(bins=1)
