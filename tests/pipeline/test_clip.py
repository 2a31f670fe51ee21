# SPDX-License-Identifier: Apache-2.0
"""No client's update is longer than the bound, jointly over all its vectors."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.errors import PlanError
from muster.keys import Keys, key
from muster.pipeline import Clip, Contract, Field

ONE = Contract((Field("delta", 2),))
TWO = Contract((Field("delta", 2), Field("control", 2), Field("norm", 1, scalar=True)))
KEYS = Keys(key(0), ("a",))


def clip(bound, contract, **payload):
    rows = {name: np.atleast_2d(np.asarray(value)) for name, value in payload.items()}
    return Clip(bound).encode(rows, contract, None, None, KEYS)[0]


def test_a_long_update_is_scaled_to_the_bound():
    assert clip(1.0, ONE, delta=[3.0, 4.0])["delta"].tolist() == [[pytest.approx(0.6), 0.8]]


def test_a_short_update_is_left_alone_bitwise():
    x = np.float32([[0.1, -0.7]])
    assert clip(1.0, ONE, delta=x)["delta"].tobytes() == x.tobytes()


def test_an_update_on_the_bound_is_left_alone():
    assert clip(5.0, ONE, delta=[3.0, 4.0])["delta"].tolist() == [[3.0, 4.0]]


def test_a_zero_update_stays_zero():
    assert clip(1.0, ONE, delta=[0.0, 0.0])["delta"].tolist() == [[0.0, 0.0]]


def test_the_norm_is_joint_and_scalars_are_left_alone():
    """Norm of (2, 1, 4, 2) is 5: every vector is halved, the number of steps is not."""
    out = clip(2.5, TWO, delta=[2.0, 1.0], control=[4.0, 2.0], norm=[1000.0])
    assert out["delta"].tolist() == [[1.0, 0.5]]
    assert out["control"].tolist() == [[2.0, 1.0]]
    assert out["norm"].tolist() == [[1000.0]]


def test_rows_are_clipped_one_by_one():
    out = clip(1.0, ONE, delta=[[3.0, 4.0], [0.1, 0.1], [0.0, -9.0]])["delta"]
    np.testing.assert_allclose(out, [[0.6, 0.8], [0.1, 0.1], [0.0, -1.0]])


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=5),
    st.floats(1e-3, 1e3),
    st.sampled_from(["float32", "float64"]),
)
def test_the_bound_holds_and_the_direction_stays(values, bound, dtype):
    x = np.array([values], dtype)
    out = clip(bound, Contract((Field("delta", x.shape[1]),)), delta=x)["delta"]
    assert out.dtype == dtype
    norm = np.linalg.norm(x.astype(float))
    wanted = x.astype(float) * min(1.0, bound / norm if norm else 1.0)
    np.testing.assert_allclose(out, wanted, rtol=1e-6, atol=bound * 1e-7)
    assert np.linalg.norm(out.astype(float)) <= bound * (1 + 1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_never_passes_for_a_bounded_update(bad):
    """It becomes NaN, which the check of every report refuses; never a long finite vector."""
    with np.errstate(invalid="ignore"):
        out = clip(1.0, ONE, delta=[[bad, 5.0], [3.0, 4.0]])["delta"]
    assert not np.isfinite(out[0]).all()
    assert np.isnan(out[0]).any()
    assert not (np.abs(out[0]) > 1.0).any()
    np.testing.assert_allclose(out[1], [0.6, 0.8])


def test_the_input_is_not_modified():
    x = np.array([[3.0, 4.0]])
    clip(1.0, ONE, delta=x)
    assert x.tolist() == [[3.0, 4.0]]


def test_the_contract_is_bounded_by_the_tightest_clip():
    assert Clip(2.0).accept(ONE).bound == 2.0
    assert Clip(2.0).accept(Clip(1.0).accept(ONE)).bound == 1.0
    assert Clip(1.0).accept(Clip(2.0).accept(ONE)).bound == 1.0


@pytest.mark.parametrize("bound", [0, -1.0, math.inf, math.nan])
def test_a_bound_outside_its_range_is_refused(bound):
    with pytest.raises(PlanError, match=r"Clip\(.*\): the bound must be finite and above 0"):
        Clip(bound)


def joint(payload):
    """The norm of each row over all fields, with sums that do not round."""
    rows = np.concatenate([np.asarray(v, np.float64) for v in payload.values()], -1)
    return np.array([math.sqrt(math.fsum(float(x) ** 2 for x in row)) for row in rows])


ADVERSARIAL = [
    (dimension, magnitude, bound)
    for dimension in (1, 2, 3, 7, 64, 1000)
    for magnitude in (1e-44, 1e-30, 1.0, 1e10, 3e37)
    for bound in (1e-30, 1e-6, 0.1, 1.0, 1.7, 1e6)
]


@pytest.mark.parametrize(("dimension", "magnitude", "bound"), ADVERSARIAL)
def test_rounding_to_float32_takes_no_update_beyond_the_bound(dimension, magnitude, bound):
    draw = np.random.default_rng(dimension)
    rows = draw.normal(size=(30, dimension)) * magnitude
    rows[:6] = np.sign(rows[:6]) * magnitude  # all alike: every rounding has one direction
    rows[6:9] = magnitude * (1 + np.arange(dimension) * 2.0**-20)
    half = dimension // 2
    contract = Contract((Field("delta", dimension - half), Field("control", half)))
    rows = rows.astype(np.float32)
    out = clip(bound, contract, delta=rows[:, half:], control=rows[:, :half])
    assert out["delta"].dtype == np.float32
    assert joint(out).max() <= bound


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.floats(-(2.0**126), 2.0**126, width=32), min_size=1, max_size=9),
    st.floats(1e-30, 1e30),
)
def test_no_update_of_float32_leaves_the_bound(values, bound):
    x = np.array([values], np.float32)
    out = clip(bound, Contract((Field("delta", x.shape[1]),)), delta=x)
    assert joint(out).max() <= bound * (1 + 2.0**-51)  # the norm's own rounding


def test_a_row_that_keeps_the_bound_keeps_its_bits():
    x = np.random.default_rng(0).normal(size=(500, 40)).astype(np.float32)
    out = clip(1.0, Contract((Field("delta", 40),)), delta=x)["delta"]
    norms = np.sqrt(np.square(x, dtype=np.float64).sum(-1))[:, None]
    plain = (x * (1.0 / np.maximum(norms, 1.0))).astype(np.float32)
    kept = joint({"delta": plain}) <= 1.0
    assert 0.2 < kept.mean() < 0.8
    assert out[kept].tobytes() == plain[kept].tobytes()
    np.testing.assert_allclose(out, plain, rtol=3e-7)
