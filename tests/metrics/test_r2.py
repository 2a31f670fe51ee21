# SPDX-License-Identifier: Apache-2.0
"""R² against scikit-learn, over all rows together."""

import numpy as np
import pytest
from tests.metrics.oracle import measured, numbers

from muster.metrics import R2


@pytest.mark.parametrize(("outputs", "far"), [(1, 0.0), (3, 0.0), (1, 1e5)])
def test_r2_is_scikit_learns(outputs, far):
    oracle = pytest.importorskip("sklearn.metrics")
    z, y = numbers(outputs)
    z, y = z + far, y + far
    assert measured(R2(), z, y) == pytest.approx(oracle.r2_score(y, z), rel=1e-12 + far**2 * 1e-15)


def test_targets_that_are_all_the_same_have_no_value():
    y = np.full(97, 3.3)
    assert np.isnan(measured(R2(), numbers()[0], y))
    assert np.isnan(measured(R2(), y[:, None], y))
