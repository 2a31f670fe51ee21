# SPDX-License-Identifier: Apache-2.0
"""Shares reach the noise at the worst dropout, and rounded norms hold."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.errors import PlanError
from muster.privacy import Release
from muster.privacy.distributed import (
    bounds,
    limited,
    rounded_norm,
    share_variance,
    survivors,
)


@pytest.mark.parametrize(
    ("clients", "dropout", "least"),
    [(100, 0.1, 90), (100, 0.0, 100), (10, 0.3, 7), (3, 0.5, 1), (7, 0.999 / 7, 6)],
)
def test_survivors_are_rounded_down(clients, dropout, least):
    assert survivors(clients, dropout) == least
    assert share_variance(2.0, 5.0, least) * least == pytest.approx(100.0)


@pytest.mark.parametrize(("clients", "dropout"), [(0, 0.1), (5, 1.0), (5, -0.1), (2.5, 0.1)])
def test_shares_of_nobody_are_refused(clients, dropout):
    with pytest.raises(PlanError, match=r"a whole number of clients above 0 and a fraction"):
        survivors(clients, dropout)
    with pytest.raises(PlanError, match="leaves nobody to add noise; lower it"):
        survivors(1, 0.5)


def test_the_norm_after_rounding_is_the_papers():
    """√(c² + d/4 + √(2 ln 10⁶)(c + √d/2)), or c + √d where that is less."""
    spread = math.sqrt(2 * math.log(1e6))
    assert rounded_norm(127.0, 10_000) == pytest.approx(
        math.sqrt(127**2 + 2500 + spread * (127 + 50))
    )
    assert rounded_norm(10.0, 1) == 11.0
    wide = rounded_norm(127.0, 1_660_000) / 127
    assert 2.9 < wide < 127 + 1289 / 127  # far wider than the clip bound, far below the worst case


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 200), st.floats(0.5, 300), st.integers(0, 10**6))
def test_rounded_vectors_keep_the_norm(dimension, norm, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(50, dimension))
    x *= norm / np.linalg.norm(x, axis=1, keepdims=True)
    levels = np.floor(x + rng.random(x.shape))
    assert np.linalg.norm(levels, axis=1).max() <= rounded_norm(norm, dimension) + 1e-9


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.integers(-(2**31), 2**31), min_size=1, max_size=6),
    st.floats(0.1, 1e6),
)
def test_longer_levels_are_cut_to_the_norm(values, norm):
    rows = np.array([values, [0] * len(values)])
    out = limited({"a": rows[:, :1], "b": rows[:, 1:]}, norm)
    joined = np.concatenate([out["a"], out["b"]], 1)
    assert joined.dtype == np.int64
    assert np.linalg.norm(joined.astype(float), axis=1).max() <= norm
    if np.linalg.norm(rows.astype(float), axis=1).max() <= norm:
        assert joined.tolist() == rows.tolist()


@settings(deadline=None, max_examples=300)
@given(st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=6), st.sampled_from([-1, 0, 1]))
def test_the_cut_is_exact_in_levels(values, step):
    """The norm of integers has no rounding: not a level more than the norm, to the last bit."""
    length = math.sqrt(sum(x * x for x in values))
    norm = float(np.nextafter(length, math.inf * step)) if step else length
    if norm > 0:
        (row,) = limited({"a": np.array([values])}, norm)["a"]
        assert sum(int(x) ** 2 for x in row) <= Fraction(norm) ** 2


def test_what_came_of_nan_is_cut_too():
    rows = {"delta": np.array([[np.iinfo(np.int64).min, 5]])}
    assert np.linalg.norm(limited(rows, 100.0)["delta"].astype(float)) <= 100


def test_small_shares_cost_more_than_the_gaussian():
    """A share below one level is far from a Gaussian in the sum, and the bound says so."""
    wide = Release("discrete gaussian", 1.0, 1000.0, 10, 10)
    thin = Release("discrete gaussian", 1.0, 5.0, 10, 100)
    assert bounds(wide) == ((0.5, 0.0),)
    assert bounds(thin)[0][0] > 0.6
