# SPDX-License-Identifier: Apache-2.0
"""Perplexity: the exponential of scikit-learn's log loss."""

import numpy as np
import pytest
from tests.metrics.oracle import drawn, measured

from muster.metrics import Perplexity
from muster.metrics.head import probabilities_of


@pytest.mark.parametrize("classes", [2, 7])
def test_perplexity_is_the_exponential_of_the_log_loss(classes):
    oracle = pytest.importorskip("sklearn.metrics")
    outputs, y = drawn(classes)
    expected = np.exp(oracle.log_loss(y, probabilities_of(outputs)))
    assert measured(Perplexity(), outputs, y) == pytest.approx(expected, rel=1e-12)
    if classes == 2:
        one = outputs[:, 1:] - outputs[:, :1]
        assert measured(Perplexity(), one, y) == pytest.approx(expected, rel=1e-12)


def test_a_sure_and_wrong_model_overflows_to_infinity_and_not_to_nan():
    outputs = np.array([[1e4, 0.0]])
    assert measured(Perplexity(), outputs, np.array([1]), ()) == np.inf
    assert measured(Perplexity(), outputs, np.array([0]), ()) == 1.0
