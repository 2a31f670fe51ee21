# SPDX-License-Identifier: Apache-2.0
"""Probabilities and labels are read off logits, without overflow."""

import numpy as np
import pytest
from tests.metrics.oracle import drawn

from muster.metrics.head import OutputHead, labels_of, probabilities_of, read


def test_the_kind_of_targets():
    kinds = {"softmax": "classes", "sigmoid": "classes", "numbers": "numbers"}
    for kind in ("softmax", "sigmoid", "numbers", "own", "none"):
        assert OutputHead(kind).rows_of == kinds.get(kind)


def test_probabilities_are_scipys():
    special = pytest.importorskip("scipy.special")
    outputs, _ = drawn(4)
    np.testing.assert_allclose(probabilities_of(outputs), special.softmax(outputs, 1))
    one = probabilities_of(outputs[:, :1])
    np.testing.assert_allclose(one[:, 1], special.expit(outputs[:, 0]))
    with np.errstate(over="ignore"):
        assert np.isfinite(probabilities_of(np.array([[1e308, -1e308], [0, 1e308]]))).all()


def test_each_need_is_met():
    outputs, _ = drawn(3)
    assert read("outputs", outputs) is outputs
    assert (read("labels", outputs) == labels_of(outputs)).all()
    assert (read("probabilities", outputs).argmax(1) == outputs.argmax(1)).all()
