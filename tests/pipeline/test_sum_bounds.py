# SPDX-License-Identifier: Apache-2.0
"""Honest sums pass, however they are rounded; what one liar can still do is what was worked out."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.keys import Keys, key
from muster.pipeline import AdaptiveClip, Clip, Contract, DiscreteNoise, Field, Pipeline, Quantize
from muster.pipeline.sum_bounds import SumBounds, rounding_norm

EQUAL = 20


def built(stages, size, cap=1.0, fields=("delta",)):
    plain = Contract(tuple(Field(name, size) for name in fields), cap=cap)
    return Pipeline.build(tuple(stages), plain)


def bounds(size, bits, count=EQUAL, cap=1.0, equal=True, stages=()):
    pipeline = built((Clip(1.0), Quantize(bits), *stages), size, cap)
    return SumBounds(pipeline.contracts[-1], count, equal, pipeline.share_variance())


# -- what was worked out apart -------------------------------------------------------------------

ROUNDING = [
    (10**3, 8, 0.047, 0.25),
    (10**3, 16, 0.0002, 0.001),
    (10**6, 8, 0.899, 7.87),
    (10**6, 16, 0.0035, 0.031),
]


@pytest.mark.parametrize(("size", "bits", "likely", "hard"), ROUNDING)
def test_what_rounding_adds_to_a_mean_of_twenty(size, bits, likely, hard):
    levels = 2 ** (bits - 1) - 1
    assert rounding_norm(EQUAL, size) / EQUAL / levels == pytest.approx(likely, rel=0.2)
    assert math.sqrt(size) / levels == pytest.approx(hard, rel=0.05)
    assert rounding_norm(EQUAL, size) <= EQUAL * math.sqrt(size)


# An honest mean of norm .95, and how far from it a liar may move what passes: no check, each
# coordinate, and the norm as well.
LIES = [
    (10**3, 8, 71.3, 32.6, 2.00),
    (10**3, 16, 70.5, 32.6, 1.95),
    (10**6, 8, 2226, 1001, 2.85),
    (10**6, 16, 2201, 1001, 1.95),
]


@pytest.mark.parametrize(("size", "bits", "free", "coordinates", "norm"), LIES)
def test_what_one_liar_of_twenty_can_still_do(size, bits, free, coordinates, norm):
    found = bounds(size, bits)
    levels = 2 ** (bits - 1) - 1
    field = found.contract.fields[0]
    step = 1 / levels / EQUAL  # of the mean
    assert found.coordinate(field.bits, EQUAL) * math.sqrt(size) * step == pytest.approx(
        coordinates - 0.95, rel=0.02
    )
    assert found.norm(EQUAL) * step == pytest.approx(norm - 0.95, abs=0.02)
    ring = 2 ** (EQUAL * 2 * levels).bit_length() - EQUAL * levels  # above no update at all
    assert ring * math.sqrt(size) * step == pytest.approx(free - 0.95, rel=0.001)


def test_sums_at_the_bounds_pass_and_beyond_them_do_not():
    found = bounds(100, 16)
    most = 2**15 - 1
    single = np.zeros(100, np.int64)
    single[3] = EQUAL * most
    assert found.refusal({"delta": single}, EQUAL) == ""
    assert "a number of delta in it is" in found.refusal({"delta": single + 1}, EQUAL)
    spread = np.full(100, EQUAL * most // 10)
    assert found.refusal({"delta": spread}, EQUAL) == ""
    assert found.refusal({"delta": spread * 2}, EQUAL).startswith("its norm is 13106")


# -- weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0, 1, EQUAL - 1, EQUAL + 1, 2**40])
def test_equal_weights_weigh_what_they_count(weight):
    assert bounds(10, 8).refusal({"delta": np.zeros(10, int)}, weight) == (
        f"its weight is {weight}, where 20 clients weigh 20"
    )


@pytest.mark.parametrize(("weight", "fits"), [(19, False), (20, True), (1000, True), (1001, False)])
def test_rows_weigh_one_each_and_at_most_the_cap(weight, fits):
    found = bounds(10, 8, cap=50.0, equal=False)
    assert (found.refusal({"delta": np.zeros(10, int)}, weight) == "") is fits


def test_a_small_weight_leaves_little_room_for_a_lie():
    """A liar that puts the weight at its least cannot move the mean by more than with its own."""
    found = bounds(1000, 16, cap=1000.0, equal=False)
    assert found.norm(20) < found.norm(20_000) / 500
    big = np.full(1000, int(found.norm(20_000) / math.sqrt(1000)) - 1)
    assert found.refusal({"delta": big}, 20_000) == ""
    assert found.refusal({"delta": big}, 20) != ""


# -- honest sums ---------------------------------------------------------------------------------


def honest(pipeline, rows, weights, seed):
    """Return the sum that such clients send."""
    draws = Keys(key(seed), tuple(range(len(rows))))
    count = len(pipeline.stages)
    sent = tuple(state.shared for state in pipeline.init())
    payload = {field.name: rows for field in pipeline.contracts[0].fields}
    memory = tuple(
        None if one is None else {k: np.zeros((len(rows), v.size)) for k, v in one.items()}
        for one in pipeline.memory()
    )
    found, _ = pipeline.encode(payload, sent, memory if count else None, draws, weights)
    return {name: part.sum(0).astype(np.int64) for name, part in found.items()}, sent


STAGES = {
    "clipped": (Clip(1.0), Quantize(8)),
    "a range": (Quantize(8, range=0.3),),
    "feedback": (Clip(1.0), Quantize(6, feedback=True)),
    "noise": (Clip(1.0), Quantize(10), DiscreteNoise(1.0, clients=6)),
    "little noise": (Clip(1.0), Quantize(4), DiscreteNoise(0.05, clients=6)),
    "a moving clip": (AdaptiveClip(start=0.3), Quantize(8, range=0.5)),
}


@pytest.mark.parametrize("name", STAGES)
@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), alike=st.booleans(), large=st.booleans())
def test_what_honest_clients_make_is_never_refused(name, seed, alike, large):
    draw, equal = np.random.default_rng(seed), name in ("noise", "little noise")
    pipeline = built(STAGES[name], 40, cap=1.0 if equal else 9.0)
    rows = draw.normal(size=(6, 40)) * (100 if large else 0.01)
    rows = np.repeat(rows[:1], 6, 0) if alike else rows
    weights = np.ones(6) if equal else draw.integers(1, 10, 6).astype(float)
    sums, sent = honest(pipeline, rows, weights, seed % 1000)
    contract = pipeline.now(sent)[-1]
    found = SumBounds(contract, 6, equal, pipeline.share_variance())
    assert found.refusal(sums, int(weights.sum())) == ""


def test_the_bound_of_the_round_counts_where_it_moves():
    pipeline = built(STAGES["a moving clip"], 40)
    narrow, wide = (pipeline.now(((bound,), None))[-1] for bound in (0.1, 0.4))
    assert [c.unrounded for c in (narrow, wide)] == [0.1, 0.4]
    assert SumBounds(narrow, 6, True).norm(6) < SumBounds(wide, 6, True).norm(6) / 2


def test_noise_widens_the_norm_by_what_it_adds():
    """Drawn: of a thousand sums of noise alone not one is refused, and most come near."""
    found = bounds(200, 10, count=6, stages=(DiscreteNoise(4.0, clients=6),))
    spread = math.sqrt(6 * found.variance)
    reach = found.norm(6)
    norms = np.linalg.norm(np.random.default_rng(0).normal(0, spread, (1000, 200)), axis=1)
    assert norms.max() < reach < 2 * norms.mean()


def test_what_nothing_bounds_is_held_to_its_levels():
    pipeline = built((Quantize(8, range=0.3),), 40)
    found = SumBounds(pipeline.contracts[-1], 6, True)
    assert found.norm(6) == math.inf
    assert found.refusal({"delta": np.full(40, 6 * 127)}, 6) == ""
    assert found.refusal({"delta": np.full(40, 6 * 127 + 1)}, 6) != ""


def test_the_norm_is_that_of_all_vectors_together():
    pipeline = built((Clip(1.0), Quantize(16)), 4, fields=("delta", "control"))
    found = SumBounds(pipeline.contracts[-1], 3, True)
    one = np.array([3 * 32767 * 9 // 10, 0, 0, 0])
    assert found.refusal({"delta": one, "control": one * 0}, 3) == ""
    assert "its norm" in found.refusal({"delta": one, "control": one}, 3)
    assert replace(found, count=4).refusal({"delta": one, "control": one}, 4) == ""
