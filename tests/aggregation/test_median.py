# SPDX-License-Identifier: Apache-2.0
"""The median: the published reference vector, numpy's, and what lies can do to it."""

import numpy as np
from hypothesis import given
from tests.aggregation.lies import HONEST, REFERENCE, moved, rows_of, within

from muster.aggregation import Median


def test_the_reference_vector():
    assert Median().aggregate(REFERENCE).tolist() == [1, 2, 0.05]  # ByzFL 0.0.11


@given(rows_of())
def test_it_is_numpys(rows):
    np.testing.assert_allclose(Median().aggregate(rows), np.median(rows, axis=0), rtol=1e-12)


@given(rows_of())
def test_it_moves_with_its_rows(rows):
    moved(Median(), rows)


@given(rows_of(least=3))
def test_fewer_than_half_cannot_leave_the_honest_hull(rows):
    within(Median(), rows, (len(rows) - 1) // 2)


def test_every_field_by_itself():
    found = Median().aggregate({"delta": HONEST, "c": (HONEST * 2, None)})
    assert (found["c"][0] == 2 * found["delta"]).all()
    assert found["c"][1] is None
