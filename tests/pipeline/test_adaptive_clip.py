# SPDX-License-Identifier: Apache-2.0
"""The moving bound: its formula, its fixed point, and its bit that never reaches the mean."""

import math

import numpy as np
import pytest

from muster.errors import PlanError
from muster.keys import Keys, key
from muster.pipeline import AdaptiveClip, Clip, Contract, Field, Pipeline
from muster.types import Reply

CONTRACT = Contract((Field("delta", 1),), cap=1.0)


def play(stage, norms, rounds, weights=None):
    """Rounds with clients of these update lengths; the bounds after each."""
    pipeline = Pipeline.build((stage,), CONTRACT)
    states, bounds = pipeline.init(), []
    rows, weights = np.array(norms)[:, None], np.ones(len(norms)) if weights is None else weights
    draws = Keys(key(0), tuple(range(len(norms))))
    for _ in range(rounds):
        sent = tuple(state.shared for state in states)
        payload, _ = pipeline.encode({"delta": rows}, sent, None, draws, weights)
        total = Reply((), {k: v.sum(0) for k, v in payload.items()}, float(weights.sum()))
        total, states = pipeline.decode(total, states, key(0))
        assert [*total.payload] == ["delta"]
        bounds.append(float(states[0].shared[0]))
    return bounds, total


def test_one_step_by_hand():
    """Two of five clients lie within 1: C = exp(−0.2 (0.4 − 0.5))."""
    (bound,), total = play(AdaptiveClip(0.5, 0.2, start=1.0), [0.5, 1.0, 2.0, 3.0, 4.0], 1)
    assert bound == pytest.approx(math.exp(-0.2 * (0.4 - 0.5)), rel=1e-12)
    assert total.payload["delta"][0] == pytest.approx(0.5 + 4 * 1.0)


def test_under_weights_the_share_is_weighted():
    (bound,), _ = play(AdaptiveClip(0.5, 0.2, start=1.0), [0.5, 2.0], 1, np.array([3.0, 1.0]))
    assert bound == pytest.approx(math.exp(-0.2 * (0.75 - 0.5)), rel=1e-12)


@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("start", [0.01, 50.0])
def test_the_bound_converges_to_the_quantile(quantile, start):
    """1000 norms spread evenly over (0, 2): the quantile is 2γ, approached from either side."""
    norms = (np.arange(1000) + 0.5) / 500
    bounds, _ = play(AdaptiveClip(quantile, 0.2, start), norms, 300)
    np.testing.assert_allclose(bounds[-50:], 2 * quantile, rtol=0.01)


def test_the_bit_is_centred_and_sent_as_a_scalar():
    stage = AdaptiveClip(start=1.0)
    out, memory = stage.encode(
        {"delta": np.float32([[0.5], [1.0], [7.0], [0.0]])},
        CONTRACT,
        np.array([1.0]),
        None,
        Keys(key(0), tuple("abcd")),
    )
    assert out["inside"].tolist() == [[0.5], [0.5], [-0.5], [0.5]]
    assert out["inside"].dtype == out["delta"].dtype == np.float32
    assert out["delta"].tolist() == [[0.5], [1.0], [1.0], [0.0]]
    assert memory is None


def test_nan_is_outside_every_bound():
    out, _ = AdaptiveClip().encode(
        {"delta": np.array([[math.nan]])}, CONTRACT, np.array([1.0]), None, Keys(key(0), ("a",))
    )
    assert out["inside"].tolist() == [[-0.5]]
    assert np.isnan(out["delta"]).all()


def test_the_contract_gains_the_bit_and_a_moving_bound():
    contract = AdaptiveClip().accept(CONTRACT)
    assert contract.moving
    assert contract.fields[-1] == Field("inside", 1, scalar=True, bound=0.5)
    assert [*contract.vectors({"delta": 1, "inside": 2})] == ["delta"]
    fixed = Clip(1.0).accept(contract)
    assert (fixed.bound, fixed.moving) == (1.0, False)


@pytest.mark.parametrize(
    "fields",
    [
        {"quantile": 0},
        {"quantile": 1},
        {"rate": 0},
        {"start": 0},
        {"start": -1.0},
        {"quantile": math.nan},
    ],
)
def test_settings_outside_their_range_are_refused(fields):
    with pytest.raises(PlanError, match=r"quantile must lie in \(0, 1\), rate and start above 0"):
        AdaptiveClip(**fields)
