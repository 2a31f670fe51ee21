# SPDX-License-Identifier: Apache-2.0
"""DP-SGD on examples: every row is clipped by itself, noise is measured, bad rows are refused."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.errors import DataError, PlanError
from muster.keys import key
from muster.privacy.examples import clipped_rows, dp_sgd_spent, private_gradient


def test_the_formula():
    rows = np.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    np.testing.assert_allclose(clipped_rows(rows, 1.0), [[0.6, 0.8], [0.3, 0.4], [0, 0]])
    quiet = private_gradient(rows, 1.0, 1e-12, 10.0, key(0))
    np.testing.assert_allclose(quiet, [0.09, 0.12], atol=1e-10)


@settings(deadline=None)
@given(
    st.lists(st.floats(-1.7e308, 1.7e308), min_size=2, max_size=2),
    st.sampled_from([1e-3, 1.0, 1e3]),
)
def test_no_row_is_longer_than_the_bound_however_huge(row, bound):
    out = clipped_rows(np.array([row]), bound)
    assert np.isfinite(out).all()
    assert np.linalg.norm(out) <= bound * (1 + 1e-12)


def test_one_row_moves_the_sum_by_no_more_than_the_bound():
    rows = np.random.default_rng(0).normal(size=(20, 5)) * 100
    whole = private_gradient(rows, 0.5, 1.0, 20.0, key(1))
    less = private_gradient(rows[1:], 0.5, 1.0, 20.0, key(1))
    assert np.linalg.norm(whole - less) * 20 == pytest.approx(0.5)


def test_noise_is_measured_by_the_bound_and_the_fixed_denominator():
    drawn = private_gradient(np.zeros((3, 50_000)), 0.5, 2.0, 10.0, key(2))
    assert drawn.std() == pytest.approx(2.0 * 0.5 / 10, rel=0.02)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_not_finite_is_refused(bad):
    with pytest.raises(DataError, match=r"gradient of row 1 holds NaN or Inf, which no clip"):
        private_gradient(np.array([[1.0, 2.0], [0.0, bad]]), 1.0, 1.0, 2.0, key(0))


@pytest.mark.parametrize("bound", [0.0, -1.0, math.inf, math.nan])
def test_a_bound_that_is_none_is_refused(bound):
    with pytest.raises(PlanError, match="clip bound"):
        clipped_rows(np.ones((1, 2)), bound)


@pytest.mark.parametrize("multiplier", [0.0, -1.0, math.nan])
def test_no_noise_is_refused(multiplier):
    with pytest.raises(PlanError, match="without noise nothing is private"):
        private_gradient(np.ones((1, 2)), 1.0, multiplier, 1.0, key(0))


@pytest.mark.parametrize("expected", [0.0, -2.0, math.inf])
def test_a_batch_of_nobody_is_refused(expected):
    with pytest.raises(PlanError, match="expected batch"):
        private_gradient(np.ones((1, 2)), 1.0, 1.0, expected, key(0))


def test_the_published_epsilon():
    assert dp_sgd_spent(1.1, 256 / 60000, 14062, 1e-5).epsilon == pytest.approx(2.3817, abs=1e-4)
    assert dp_sgd_spent(7.0, 1.0, 100, 1e-6).epsilon == pytest.approx(7.3726, abs=1e-4)
