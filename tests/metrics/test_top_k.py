# SPDX-License-Identifier: Apache-2.0
"""Top-k accuracy against scikit-learn, and where outputs are equal."""

import numpy as np
import pytest
from tests.metrics.oracle import drawn, measured

from muster.errors import PlanError
from muster.metrics import TopK


@pytest.mark.parametrize("k", [1, 3, 9])
def test_top_k_is_scikit_learns(k):
    oracle = pytest.importorskip("sklearn.metrics")
    outputs, y = drawn(10)
    expected = oracle.top_k_accuracy_score(y, outputs, k=k, labels=range(10))
    assert measured(TopK(k), outputs, y) == expected
    assert TopK(k).name == f"top {k}"


def test_a_model_without_an_opinion_hits_nothing():
    assert TopK(2).sums(np.zeros((3, 4)), np.arange(3))["hits"] == 0
    assert TopK(4).sums(np.zeros((3, 4)), np.arange(3))["hits"] == 3


@pytest.mark.parametrize("k", [0, 1.5])
def test_k_is_a_whole_number(k):
    with pytest.raises(PlanError, match="k must be a whole number above 0"):
        TopK(k)
