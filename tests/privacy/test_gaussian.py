# SPDX-License-Identifier: Apache-2.0
"""The analytic Gaussian mechanism, at every size of epsilon."""

import math

import pytest

from muster.errors import PlanError
from muster.extras import require
from muster.keys import key
from muster.privacy.gaussian import (
    gaussian,
    gaussian_delta,
    gaussian_deviation,
    gaussian_epsilon,
    remaining,
)


def test_the_published_deviation():
    assert gaussian_deviation(1.0, 1e-5) == pytest.approx(3.730632, abs=1e-6)
    assert gaussian_deviation(1.0, 1e-5, 2.5) == pytest.approx(2.5 * 3.730632, abs=1e-5)


@pytest.mark.parametrize("epsilon", [0.01, 0.5, 1.0, 8.0, 50.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-6, 1e-10])
def test_it_equals_another_library(epsilon, delta):
    other = require("dp_accounting", extra="privacy")
    assert gaussian_deviation(epsilon, delta) == pytest.approx(
        other.get_sigma_gaussian(epsilon, delta), rel=1e-5
    )


@pytest.mark.parametrize("multiplier", [0.05, 0.5, 2.0, 30.0])
def test_epsilon_delta_and_deviation_invert_one_another(multiplier):
    epsilon = gaussian_epsilon(1e-7, multiplier)
    assert gaussian_delta(epsilon, multiplier) == pytest.approx(1e-7, rel=1e-6)
    assert gaussian_deviation(epsilon, 1e-7) == pytest.approx(multiplier, rel=1e-6)


def test_the_classical_formula_breaks_beyond_one():
    """At epsilon 20 it takes less noise than its claim needs; the analytic one takes enough."""
    classical = math.sqrt(2 * math.log(1.25e5)) / 20
    assert gaussian_delta(20.0, classical) > 1e-5
    assert gaussian_deviation(20.0, 1e-5) > classical


def test_tails_far_below_the_smallest_float():
    assert gaussian_delta(2000.0, 0.5) == 0.0
    assert gaussian_delta(800.0, 0.025) == pytest.approx(0.5, abs=0.01)
    assert gaussian_epsilon(0.5, 10.0) == 0.0


def test_split_budgets_add_up_to_the_whole():
    """z = 1 and m = 100: the bit's deviation is 5, its multiplier 10, the vectors' 1.00504."""
    vector = remaining(1.0, 10.0, 1)
    assert vector == pytest.approx(1.00504, abs=1e-5)
    assert (vector**-2 + 10.0**-2) ** -0.5 == pytest.approx(1.0, rel=1e-12)
    with pytest.raises(PlanError, match=r"is spent by 1 scalars of multiplier 0\.9; give"):
        remaining(1.0, 0.9, 1)


def test_noise_has_its_deviation():
    noise = gaussian(key(5), 40_000, 3.0)
    assert noise.std() == pytest.approx(3.0, rel=0.02)
    assert abs(noise.mean()) < 4 * 3 / 200
