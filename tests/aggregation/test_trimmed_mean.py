# SPDX-License-Identifier: Apache-2.0
"""The trimmed mean: the published reference vector, and what lies can do to it."""

import numpy as np
import pytest
from hypothesis import given
from tests.aggregation.lies import REFERENCE, moved, rows_of, within

from muster.aggregation import TrimmedMean
from muster.errors import PlanError


def test_the_reference_vector():
    found = TrimmedMean(2).aggregate(REFERENCE)
    np.testing.assert_allclose(found, [1.016667, 2, 0.05], atol=5e-7)  # ByzFL 0.0.11


@given(rows_of())
def test_without_lies_it_is_the_mean(rows):
    np.testing.assert_allclose(TrimmedMean(0).aggregate(rows), rows.mean(0), atol=1e-12)


@given(rows_of(least=3))
def test_it_moves_with_its_rows(rows):
    moved(TrimmedMean(1), rows)


@given(rows_of(least=5))
def test_f_lies_cannot_leave_the_honest_hull(rows):
    within(TrimmedMean(2), rows, 2)


@pytest.mark.parametrize("f", [-1, 0.5, "1"])
def test_f_is_a_number_of_replies(f):
    with pytest.raises(PlanError, match="a whole number from 0 up is needed"):
        TrimmedMean(f)


def test_it_needs_more_than_twice_f():
    assert TrimmedMean(2).min_replies == 5
