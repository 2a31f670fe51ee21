# SPDX-License-Identifier: Apache-2.0
"""The middle of each column, against scipy's trimmed mean and numpy's median."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.aggregation import middle as module
from muster.aggregation.middle import middle


@given(
    st.integers(1, 9), st.integers(0, 4), st.integers(1, 40), st.integers(0, 2**32 - 1), st.data()
)
def test_it_is_the_mean_of_what_sorting_leaves(count, drop, size, seed, data):
    drop = min(drop, (count - 1) // 2)
    rows = np.random.default_rng(seed).normal(size=(count, size)).astype("float32")
    columns = data.draw(st.sampled_from([3, 1 << 13]))
    wanted = [np.mean(sorted(column)[drop : count - drop]) for column in rows.T.astype(float)]
    before = rows.copy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "COLUMNS", columns)
        found = middle(rows, drop)
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)
    assert found.dtype == rows.dtype
    assert (rows == before).all()  # it changes no row


def test_rows_of_several_axes_keep_them():
    rows = np.arange(24.0).reshape(3, 2, 4)
    assert (middle(rows, 1) == rows[1]).all()


def test_rows_of_nothing_give_nothing():
    assert middle(np.zeros((3, 0)), 1).shape == (0,)
