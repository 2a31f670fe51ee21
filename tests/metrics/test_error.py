# SPDX-License-Identifier: Apache-2.0
"""Errors of numbers against scikit-learn."""

import pytest
from tests.metrics.oracle import measured, numbers

from muster.metrics import MAE, RMSE


@pytest.mark.parametrize("outputs", [1, 3])
def test_errors_are_scikit_learns(outputs):
    oracle = pytest.importorskip("sklearn.metrics")
    z, y = numbers(outputs)
    mae, rmse = oracle.mean_absolute_error(y, z), oracle.root_mean_squared_error(y, z)
    assert measured(MAE(), z, y) == pytest.approx(mae, rel=1e-12)
    assert measured(RMSE(), z, y) == pytest.approx(rmse, rel=1e-12)
