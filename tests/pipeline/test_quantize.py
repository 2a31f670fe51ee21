# SPDX-License-Identifier: Apache-2.0
"""Stochastic rounding keeps the mean, integer sums are exact, feedback loses nothing."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.errors import PlanError
from muster.keys import Keys, key
from muster.pipeline import Clip, Contract, Field, Pipeline, Quantize
from muster.types import Reply, State


def contract(size, cap=1.0, bits=32):
    return Contract((Field("delta", size, bits=bits),), bound=1.0, weighted=True, cap=cap)


def encode(stage, rows, cap=1.0, memory=None, draw=0, bits=32):
    keys = Keys(key(draw).at("encode"), tuple(range(len(rows))))
    made = contract(rows.shape[1], cap, bits)
    payload, kept = stage.encode({"delta": rows}, made, None, memory, keys)
    return payload["delta"], kept, stage.step(made)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_ten_thousand_encodings_average_to_the_value(bits):
    """Within four standard errors a coordinate, and the variance stays below step²/4."""
    x = np.linspace(-1, 1, 64)
    rows = np.broadcast_to(x, (10_000, 64))
    levels, _, step = encode(Quantize(bits), rows, bits=64)
    values = levels * step
    error = values.std(0, ddof=1) / 100
    assert (np.abs(values.mean(0) - x) <= 4 * error + 1e-12).all()
    assert (values.var(0) <= step**2 / 4 * 1.05).all()
    assert values.var(0).max() > step**2 / 4 * 0.8  # it is stochastic rounding, not to nearest


def test_levels_span_the_range_of_the_bound_times_the_largest_weight():
    for bits, cap in ((2, 1.0), (8, 1.0), (8, 50.0), (32, 3.0)):
        most = 2 ** (bits - 1) - 1
        levels, _, step = encode(Quantize(bits), np.array([[cap, -cap, 0.0]]), cap, bits=64)
        assert step == pytest.approx(cap / most)
        assert np.abs(levels - [[most, -most, 0]]).max() <= 1
        assert np.abs(levels).max() <= most


def test_what_is_beyond_the_range_saturates():
    levels, _, _ = encode(Quantize(8, range=0.5), np.array([[0.7, -99.0, 0.5, 1e30]]))
    assert levels.tolist() == [[127, -127, 127, 127]]


def test_a_given_range_replaces_the_bound():
    assert Quantize(8, range=0.25).step(contract(1, cap=4.0)) == pytest.approx(1 / 127)
    assert Quantize(8).step(contract(1, cap=4.0)) == pytest.approx(4 / 127)


@settings(deadline=None)
@given(st.integers(2, 32), st.integers(1, 40), st.integers(0, 99))
def test_integer_sums_are_exact_in_any_order(bits, clients, seed):
    rng = np.random.default_rng(seed)
    levels, _, _ = encode(Quantize(bits), rng.uniform(-1, 1, (clients, 5)).astype(np.float32))
    assert levels.dtype == np.int64
    exact = [sum(int(v) for v in column) for column in levels.T]
    for order in (np.arange(clients), rng.permutation(clients)):
        total = levels[order[0]]
        for i in order[1:]:
            total = total + levels[i]
        assert total.tolist() == exact


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_decoding_is_levels_times_the_step(dtype):
    made = contract(2, bits=np.dtype(dtype).itemsize * 8)
    total = Reply((), {"delta": np.array([254, -127])}, 2.0)
    back, state = Quantize(8).decode(total, made, "state", key(0))
    np.testing.assert_allclose(back.payload["delta"], [2.0, -1.0], rtol=1e-6)
    assert back.payload["delta"].dtype == dtype
    assert state == "state"


@pytest.mark.parametrize("bits", [2, 4])
def test_feedback_telescopes(bits):
    """Sum of what was sent plus the last error is the sum of the updates (Stich et al. 2018)."""
    rng, stage = np.random.default_rng(0), Quantize(bits, feedback=True)
    updates = rng.uniform(-0.4, 0.4, (200, 3, 8))
    memory = {"delta": np.zeros((3, 8))}
    sent = np.zeros((3, 8))
    for draw, rows in enumerate(updates):
        levels, memory, step = encode(stage, rows, memory=memory, draw=draw, bits=64)
        sent += levels * step
    np.testing.assert_allclose(sent + memory["delta"], updates.sum(0), atol=1e-10)
    assert np.abs(memory["delta"]).max() < 2 * step  # the error does not pile up
    plain = sum(encode(Quantize(bits), r, draw=d, bits=64)[0] * step for d, r in enumerate(updates))
    assert np.abs(plain - updates.sum(0)).max() > 2 * step  # without feedback it does


def test_what_saturation_cut_off_is_sent_later():
    stage, memory, sent = Quantize(8, range=1.0, feedback=True), {"delta": np.zeros((1, 1))}, 0
    for draw, value in enumerate([2.5, 0.0, 0.0, 0.0]):
        levels, memory, step = encode(stage, np.array([[value]]), memory=memory, draw=draw, bits=64)
        sent += levels * step
        assert abs(sent) + abs(memory["delta"]) >= 2.49
    np.testing.assert_allclose(sent, 2.5, atol=2 * step)


def test_memory_is_kept_only_with_feedback():
    assert Quantize(8).memory(contract(3)) is None
    fresh = Quantize(8, feedback=True).memory(contract(3, bits=64))
    assert fresh["delta"].dtype == np.float64
    assert fresh["delta"].tolist() == [0, 0, 0]
    rows = np.array([[0.3, 0.1]], np.float32)
    _, kept, _ = encode(Quantize(4, feedback=True), rows, memory={"delta": np.zeros_like(rows)})
    assert kept["delta"].dtype == np.float32


def test_unbounded_scalars_travel_unrounded_and_draws_differ_by_field_and_client():
    made = Contract(
        (Field("delta", 50), Field("control", 50), Field("norm", 1, scalar=True)),
        bound=1.0,
        cap=1.0,
        weighted=True,
    )
    rows = {"delta": np.full((2, 50), 0.5), "control": np.full((2, 50), 0.5)}
    rows["norm"] = np.array([[0.123], [4.5]])
    out, _ = Quantize(2).encode(rows, made, None, None, Keys(key(0), ("a", "b")))
    assert out["norm"].tolist() == [[0.123], [4.5]]
    walks = {tuple(row) for name in ("delta", "control") for row in out[name]}
    assert len(walks) == 4
    rows = {name: value[1:] for name, value in rows.items()}
    again, _ = Quantize(2).encode(rows, made, None, None, Keys(key(0), ("b",)))
    np.testing.assert_array_equal(again["delta"], out["delta"][1:])  # alone as in company


def test_a_weighted_cohort_comes_back_within_its_steps():
    """Clip, weight up to the cap, round, sum, decode: the weighted sum within half a step each."""
    pipeline = Pipeline.build((Clip(1.0), Quantize(16)), Contract((Field("delta", 6),), cap=9.0))
    rows = np.random.default_rng(1).uniform(-0.3, 0.3, (40, 6))
    weights = np.random.default_rng(2).integers(1, 10, 40).astype(float)
    draws = Keys(key(0), tuple(range(40)))
    payload, _ = pipeline.encode({"delta": rows}, (None, None), None, draws, weights)
    total = Reply((), {"delta": payload["delta"].sum(0)}, float(weights.sum()))
    total, _ = pipeline.decode(total, pipeline.init(), key(0))
    step = 9 / (2**15 - 1)
    np.testing.assert_allclose(
        total.payload["delta"], weights @ rows, atol=4 * step * math.sqrt(10)
    )
    assert pipeline.contracts[-1].bits == 16 * 6


@pytest.mark.parametrize("bits", [1, 0, 33, -8])
def test_bits_outside_their_range_are_refused(bits):
    with pytest.raises(PlanError, match=r"Quantize.bits=.*bits must lie in 2 to 32, such as 8"):
        Quantize(bits)


@pytest.mark.parametrize("reach", [0, -1.0, math.inf, math.nan])
def test_a_range_that_is_no_length_is_refused(reach):
    with pytest.raises(PlanError, match=r"Quantize.range=.*range must be finite and above 0"):
        Quantize(8, range=reach)


def test_a_bounded_scalar_is_rounded_on_a_range_of_its_own():
    """Weights up to 4, and a bit ±½ times the weight: exact at the ends, else right on average."""
    bit = Field("inside", 1, scalar=True, bound=0.5)
    made = Contract((Field("delta", 3, bits=64), bit), bound=1.0, weighted=True, cap=4.0)
    stage, count = Quantize(4), 4000
    out = stage.accept(made)
    assert out.fields[1] == bit._replace(integer=True, bits=4, bound=7 / 4)
    weights = np.array([4.0, -4.0, *np.full(count, 1.0)])
    rows = {"delta": np.zeros((count + 2, 3)), "inside": 0.5 * weights[:, None]}
    draws = Keys(key(5), tuple(range(count + 2)))
    payload, _ = stage.encode(rows, made, None, None, draws)
    levels = payload["inside"][:, 0]
    assert levels.dtype == np.int64 and levels[:2].tolist() == [7, -7]
    assert abs(levels[2:].mean() - 7 / 4) < 4 * levels[2:].std() / count**0.5
    reach = out.fields[1].bound * made.cap  # what a Noise after it takes for its sensitivity
    assert np.abs(levels).max() == reach
    total = Reply((), {name: value.sum(0) for name, value in payload.items()}, 1.0)
    decoded, _ = stage.decode(total, made, State(), key(0))
    assert decoded.payload["inside"] == pytest.approx(levels.sum() * 0.5 * 4 / 7)
