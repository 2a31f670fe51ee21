# SPDX-License-Identifier: Apache-2.0
"""Losses do not overflow, agree with an independent library, and refuse targets that do not fit."""

import numpy as np
import pytest

from muster.errors import DataError
from muster.tasks.task import (
    CrossEntropy,
    Logistic,
    RowLoss,
    Squares,
    check_features,
    check_labels,
)


@pytest.mark.parametrize("size", [1e-8, 1.0, 1e4])
def test_losses_agree_with_scikit_learn(size):
    metrics = pytest.importorskip("sklearn.metrics")
    special = pytest.importorskip("scipy.special")
    draw = np.random.default_rng(0)
    z, y = draw.standard_normal((3, 20)) * min(size, 10), np.arange(20) % 3
    total = CrossEntropy().total(z.copy(), y)
    assert total / 20 == pytest.approx(metrics.log_loss(y, special.softmax(z, 0).T))
    total = Logistic().total(z[:1].copy(), y > 0)
    assert total / 20 == pytest.approx(metrics.log_loss(y > 0, special.expit(z[0])))
    y = draw.standard_normal((20, 3)) * size
    total = Squares().total(z.copy(), y)
    assert total / 20 == pytest.approx(metrics.mean_squared_error(y, z.T))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", [CrossEntropy(), Logistic()])
def test_the_largest_outputs_stay_finite(loss, dtype):
    outputs = 1 if isinstance(loss, Logistic) else 2
    z = np.zeros((outputs, 2, 2), dtype)
    z[-1] = [[3e38, -3e38], [1e4, -1e4]]
    losses = loss.slope(z, np.array([[1, 1], [0, 0]]))
    assert losses.dtype == z.dtype == dtype
    assert np.isfinite(losses).all()
    assert np.isfinite(z).all()
    assert losses[0, 0] == losses[1, 1] == 0
    np.testing.assert_array_equal(z[-1], [[0, -1], [1, 0]])


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.array([0, 3]), "labels hold 3, but 3 classes are numbered 0 to 2"),
        (np.array([-1, 0]), "labels hold -1"),
        (np.array([0.0, 0.5]), "labels hold 0.5"),
        (np.array([0.0, np.nan]), "labels hold nan"),
        (np.array([[0, 1], [1, 0]]), r"labels have shape \(2, 2\)"),
        (np.array(["a", "b"]), "number the classes first"),
    ],
)
def test_labels_outside_the_classes_are_refused(y, message):
    with pytest.raises(DataError, match=message):
        CrossEntropy().check(y, 3)


def test_labels_within_the_classes_pass():
    for y in (np.array([0, 2]), np.array([0.0, 1.0]), np.array([True, False]), np.zeros(0, int)):
        check_labels(y, 3)


def test_a_logistic_label_is_zero_or_one():
    Logistic().check(np.array([0, 1, 1]), 1)
    with pytest.raises(DataError, match="labels hold 2, but 2 classes"):
        Logistic().check(np.array([0, 2]), 1)


def test_targets_fit_the_outputs():
    Squares().check(np.zeros(4), 1)
    Squares().check(np.zeros((4, 1)), 1)
    Squares().check(np.zeros((4, 2)), 2)
    for y, outputs in ((np.zeros((4, 2)), 1), (np.zeros(4), 2), (np.array(["a"]), 1)):
        with pytest.raises(DataError, match="numbers are needed"):
            Squares().check(y, outputs)
    with pytest.raises(DataError, match="targets hold NaN or Inf"):
        Squares().check(np.array([0.0, np.nan]), 1)


def test_features_are_finite_numbers():
    check_features(np.full((2, 3), np.finfo("float64").max), 3, 2)
    check_features(np.array([[1, -1]]) * np.finfo("float64").max, 2, 1)
    check_features(np.array([[True, False]]), 2, 1)
    with pytest.raises(DataError, match="features have dtype <U1"):
        check_features(np.array([["a"]]), 1, 1)
    with pytest.raises(DataError, match=r"features have shape \(3,\)"):
        check_features(np.zeros(3), 1, 3)
    for value in (np.nan, np.inf, -np.inf):
        with pytest.raises(DataError, match="first in row 1"):
            check_features(np.array([[0.0, 0.0], [-np.inf, value]]), 2, 2)
        with pytest.raises(DataError, match="first in row 1"):
            check_features(np.array([[0.0], [value]]), 1, 2)


def test_the_seam_is_abstract():
    for call in (
        lambda: RowLoss().slope(0, 0),
        lambda: RowLoss().total(0, 0),
        lambda: RowLoss().predict(0),
        lambda: RowLoss().check(0, 0),
    ):
        with pytest.raises(NotImplementedError):
            call()
