# SPDX-License-Identifier: Apache-2.0
"""Noise is measured by what one client can add to the sum, or it is refused with the remedy."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster import algorithms
from muster.errors import PlanError
from muster.keys import Keys, key
from muster.pipeline import (
    AdaptiveClip,
    BandedNoise,
    Clip,
    Contract,
    DiscreteNoise,
    Field,
    LocalNoise,
    Noise,
    Pipeline,
    Quantize,
)
from muster.pipeline.stage import contract_of
from muster.privacy import Charge, Release, Secret, spent
from muster.testing import check_stage
from muster.types import Reply, State

SIZE = 40_000
REAL = Contract((Field("delta", SIZE, bits=64),), cap=1.0)
SMALL = Contract((Field("delta", 3),), cap=1.0)


def noise_of(stages, contract=REAL, weight=10.0, draw=0, states=None):
    """Return the noise that the server's stages add to a sum of zeros, and the states after."""
    pipeline = Pipeline.build(stages, contract)
    states = pipeline.init() if states is None else states
    kinds = {f.name: (f.size, f.integer, f.bits) for f in pipeline.contracts[-1].fields}
    zeros = {
        name: np.zeros(size, np.int64 if integer else f"float{bits}")
        for name, (size, integer, bits) in kinds.items()
    }
    total, states = pipeline.decode(Reply((), zeros, weight), states, key(draw))
    return total.payload, states


@pytest.mark.parametrize("stage", [Noise(0.8), Noise(2.0, bit=5.0)])
@pytest.mark.parametrize("bits", [32, 64])
def test_it_keeps_the_promises_of_a_stage(stage, bits):
    for scalars in ((), (Field("inside", 1, scalar=True, bound=0.5, bits=bits),)):
        fields = (Field("delta", 5, bits=bits), Field("control", 4, bits=bits), *scalars)
        made = Contract(fields, bound=1.0, cap=3.0, weighted=True)
        check_stage(stage, made, error=60.0)


@pytest.mark.parametrize(("bound", "cap", "multiplier"), [(1.0, 1.0, 0.8), (0.5, 30.0, 2.0)])
def test_its_deviation_is_multiplier_times_bound_times_the_largest_weight(bound, cap, multiplier):
    made = Contract(REAL.fields, cap=cap)
    found = noise_of((Clip(bound), Noise(multiplier)), made)[0]["delta"]
    assert found.std() == pytest.approx(multiplier * bound * cap, rel=0.02)
    assert abs(found.mean()) < 5 * multiplier * bound * cap / 200
    release = Pipeline.build((Clip(bound), Noise(multiplier)), made).releases()
    assert release == (Release("gaussian", multiplier, bound * cap, SIZE),)


def test_it_is_added_to_the_sum():
    pipeline = Pipeline.build((Clip(1.0), Noise(0.5)), REAL)
    rows = np.random.default_rng(0).normal(size=SIZE)
    total, _ = pipeline.decode(Reply((), {"delta": rows}, 3.0), pipeline.init(), key(0))
    np.testing.assert_allclose(
        total.payload["delta"] - rows, noise_of((Clip(1.0), Noise(0.5)))[0]["delta"], atol=1e-12
    )
    assert total.weight == 3.0


def test_it_is_a_function_of_its_key_and_its_fields_differ():
    made = Contract((Field("delta", 5), Field("control", 5)), cap=1.0)
    one, two = (noise_of((Clip(1.0), Noise(1.0)), made, draw=d)[0] for d in (1, 2))
    again = noise_of((Clip(1.0), Noise(1.0)), made, draw=1)[0]
    assert one["delta"].tolist() == again["delta"].tolist() != two["delta"].tolist()
    assert one["delta"].tolist() != one["control"].tolist()


def test_a_secret_stands_where_the_key_stands():
    pipeline = Pipeline.build((Clip(1.0), Noise(1.0)), REAL)
    reply = Reply((), {"delta": np.zeros(SIZE)}, 1.0)
    total, _ = pipeline.decode(reply, pipeline.init(), Secret(bytes(32)).at("decode", 1))
    assert total.payload["delta"].std() == pytest.approx(1.0, rel=0.02)


def test_an_empty_round_is_noise_of_the_same_width():
    found = noise_of((Clip(1.0), Noise(1.0)), weight=0.0)[0]["delta"]
    assert found.std() == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_after_quantize_it_covers_what_is_really_summed(bits):
    """c + √d levels: far more than the clip bound at few bits and many coordinates."""
    stages = (Clip(1.0), Quantize(bits), Noise(1.0))
    pipeline = Pipeline.build(stages, REAL)
    step = Quantize(bits).step(pipeline.contracts[1])
    reach = 1.0 + step * math.sqrt(SIZE)
    assert pipeline.releases()[0].sensitivity * step == pytest.approx(reach)
    assert noise_of(stages)[0]["delta"].std() == pytest.approx(reach, rel=0.02)


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 16), st.integers(1, 60), st.floats(0.1, 5.0), st.integers(0, 10**6))
def test_no_client_adds_more_than_the_sensitivity(bits, size, cap, seed):
    """Over clip, weight and rounding: the norm of an encoded row keeps the last bound."""
    made = Contract((Field("delta", size, bits=64),), cap=cap)
    pipeline = Pipeline.build((Clip(0.7), Quantize(bits), Noise(1.0)), made)
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(8, size)) * 10.0 ** rng.integers(-3, 9, (8, 1))
    weights, draws = np.full(8, cap), Keys(key(seed), tuple(range(8)))
    levels, _ = pipeline.encode({"delta": rows}, (None,) * 3, None, draws, weights)
    norms = np.linalg.norm(levels["delta"].astype(float), axis=1)
    assert norms.max() <= pipeline.contracts[2].sensitivity * (1 + 1e-9)


@pytest.mark.parametrize(
    "rows", [np.zeros((2, 3)), np.full((2, 3), 1e150), np.full((2, 3), 5e-324)]
)
def test_strange_updates_leave_the_clip_within_its_bound(rows):
    pipeline = Pipeline.build((Clip(1.0), Noise(1.0)), SMALL)
    out, _ = pipeline.encode({"delta": rows}, (None, None), None, Keys(key(0), (1, 2)), np.ones(2))
    assert np.isfinite(out["delta"]).all()
    assert np.linalg.norm(out["delta"], axis=1).max() <= 1 + 1e-12


def test_with_a_moving_bound_it_follows_the_bound():
    stages = (AdaptiveClip(start=0.1), Noise(1.0))
    pipeline = Pipeline.build(stages, REAL)
    for bound in (0.1, 7.0):
        states = (State(shared=np.array([bound])), State())
        found = noise_of(stages, states=states)[0]["delta"]
        assert found.std() == pytest.approx(1.00504 * bound, rel=0.02)
    assert pipeline.releases()[0].sensitivity is None
    held = (Clip(0.5), AdaptiveClip(start=7.0), Noise(1.0))
    assert noise_of(held)[0]["delta"].std() == pytest.approx(1.00504 * 0.5, rel=0.02)


def test_the_budget_is_split_between_bit_and_vectors():
    """z = 1, σ_b = 5: the vectors get 1.00504, the bit 5 clients, together they account to 1."""
    vector, scalar = Noise(1.0, bit=5.0).multipliers(
        Pipeline.build((AdaptiveClip(), Noise(1.0)), SMALL).contracts[1]
    )
    assert (vector, scalar) == (pytest.approx(1.00504, abs=1e-5), 10.0)
    both = [Charge(Release("gaussian", z, 1.0)) for z in (vector, scalar)]
    whole = spent([Charge(Release("gaussian", 1.0, 1.0))], 1e-6).epsilon
    assert spent(both, 1e-6).epsilon == pytest.approx(whole, rel=1e-9)
    assert Noise(1.0).multipliers(SMALL) == (1.0, math.inf)


@pytest.mark.parametrize("cap", [1.0, 4.0])
def test_the_bit_gets_its_noise_in_clients(cap):
    """The moved bound of many rounds of nobody: share = ½ + noise of σ_b/m, weighted by the cap."""
    stages = (AdaptiveClip(0.5, 1.0, start=1.0), Noise(1.0, bit=5.0))
    made = Contract((Field("delta", 1),), cap=cap)
    moves = [
        -math.log(noise_of(stages, made, weight=100.0 * cap, draw=d)[1][0].shared[0])
        for d in range(2000)
    ]
    assert np.std(moves) == pytest.approx(0.05, rel=0.08)
    assert np.mean(moves) == pytest.approx(0.0, abs=0.006)


def test_the_moving_bound_still_finds_its_quantile():
    pipeline = Pipeline.build((AdaptiveClip(0.5, 0.2, 0.1), Noise(1.0)), REAL)
    states, norms, bounds = pipeline.init(), (np.arange(200) + 0.5) / 100, []
    rows = np.zeros((200, 40))
    rows[:, 0] = norms
    made = Contract((Field("delta", 40, bits=64),), cap=1.0)
    pipeline = Pipeline.build((AdaptiveClip(0.5, 0.2, 0.1), Noise(1.0)), made)
    for round in range(150):
        sent = tuple(state.shared for state in states)
        out, _ = pipeline.encode(
            {"delta": rows}, sent, None, Keys(key(0), tuple(range(200))), np.ones(200)
        )
        total = Reply((), {k: v.sum(0) for k, v in out.items()}, 200.0)
        _, states = pipeline.decode(total, states, key(0).at(round))
        bounds.append(float(states[0].shared[0]))
    assert np.mean(bounds[-50:]) == pytest.approx(1.0, rel=0.1)


def test_noise_far_outside_the_share_is_cut_off():
    stages = (AdaptiveClip(0.5, 1.0, start=1.0), Noise(1.0, bit=1e9))
    moved = [noise_of(stages, SMALL, draw=d)[1][0].shared[0] for d in range(20)]
    assert {round(float(c), 6) for c in moved} == {round(math.exp(x), 6) for x in (-0.5, 0.5)}


def test_its_call_is_its_repr():
    assert repr(Noise(0.8)) == "Noise(multiplier=0.8)"
    assert repr(Noise(0.8, bit=3.0)) == "Noise(multiplier=0.8, bit=3.0)"


REFUSED = [
    (
        (Noise(0.8),),
        SMALL,
        r"^Noise\(multiplier=0\.8\) needs a bounded payload to be private; put Clip\(bound\) "
        r"before it\.$",
    ),
    ((Quantize(8, range=1.0), Noise(0.8)), SMALL, r"put Clip\(bound\) before Quantize, and leave"),
    ((Clip(1.0), Quantize(8, feedback=True), Noise(0.8)), SMALL, "leave its feedback off"),
    (
        (Clip(1.0), Noise(0.8)),
        Contract(SMALL.fields),
        r"needs to know the largest weight; give Plan\(cap=rows\)",
    ),
    (
        (Clip(1.0), Noise(0.8), Quantize(8)),
        SMALL,
        r"Quantize\(bits=8, .* stands after Noise\(multiplier=0\.8\), whose noise is made for "
        r"exactly what is summed; put Quantize\(.*\) before it",
    ),
    ((Clip(1.0), Noise(0.8), Clip(0.5)), SMALL, r"Clip\(bound=0\.5\) stands after Noise"),
    ((Clip(1.0), Noise(0.8), AdaptiveClip()), SMALL, r"AdaptiveClip\(.* stands after Noise"),
    ((Clip(1.0), Noise(0.8), Noise(0.8)), SMALL, r"Noise\(.* stands after Noise"),
    ((Clip(1.0), Noise(0.8), LocalNoise(1.0, 1e-6)), SMALL, r"LocalNoise\(.* stands after Noise"),
    ((Clip(1.0), Noise(0.8), BandedNoise(1.0, 2)), SMALL, r"BandedNoise\(.* stands after Noise"),
    ((Clip(1.0), Quantize(8), Noise(0.8), DiscreteNoise(1.0, 5)), SMALL, "stands after Noise"),
    (
        (Clip(1.0), Noise(0.8)),
        contract_of(algorithms.FedNova.payload, 3, 32, 1.0),
        r"cannot hide norm, one number a client sent beside its vectors; use an algorithm",
    ),
]


@pytest.mark.parametrize(("stages", "contract", "message"), REFUSED)
def test_a_wrong_order_is_refused_with_its_remedy(stages, contract, message):
    with pytest.raises(PlanError, match=message):
        Pipeline.build(stages, contract)


@pytest.mark.parametrize("multiplier", [0, 0.0, -0.8, math.inf, math.nan])
def test_no_noise_is_refused(multiplier):
    with pytest.raises(PlanError, match=r"Noise\(.*\): the multiplier must be finite and above 0"):
        Noise(multiplier)


@pytest.mark.parametrize("bit", [0.5, 0.1, -1.0, math.inf, math.nan])
def test_a_bit_that_takes_the_budget_is_refused(bit):
    with pytest.raises(PlanError, match="the bit's noise must be finite and above multiplier/2"):
        Noise(1.0, bit=bit)


def test_two_vectors_are_bounded_jointly():
    made = Contract((Field("delta", SIZE, bits=64), Field("control", SIZE, bits=64)), cap=1.0)
    found, _ = noise_of((Clip(1.0), Noise(1.0)), made)
    for field in ("delta", "control"):
        assert found[field].std() == pytest.approx(1.0, rel=0.02)
