# SPDX-License-Identifier: Apache-2.0
"""FedDyn by hand: the client's h_k and the server's h, and the point they agree on."""

import math

import numpy as np
import pytest

from muster import Local
from muster.algorithms import FedDyn
from muster.algorithms.algorithm import ModelState, Update
from muster.algorithms.feddyn import Kept
from muster.errors import PlanError
from muster.types import State

X = np.array([1.0, 2.0])


def test_the_gradient_is_bent_by_h_and_by_the_distance():
    """g − h_k + alpha (w − x) with alpha = 0.5."""
    w, g, h = np.array([3.0, 2.0]), np.array([1.0, 1.0]), np.array([0.25, -1.0])
    assert FedDyn(0.5).correct(g, w, ModelState(X), h).tolist() == [1 - 0.25 + 1.0, 2.0]


def test_h_moves_against_the_update():
    w, h = np.array([3.0, 1.0]), np.array([0.25, -1.0])
    payload, kept = FedDyn(0.5).report(w, ModelState(X), h, None)
    assert payload.delta.tolist() == [2.0, -1.0]
    assert kept.tolist() == [0.25 - 1.0, -1.0 + 0.5]


def test_the_server_step_by_hand():
    """Two of five clients: h −= (alpha/N) Σ Δ; x = mean w − h/alpha."""
    alpha, h = 0.5, np.array([1.0, 0.0])
    deltas = np.array([[2.0, 0.0], [0.0, 4.0]])
    state = FedDyn(alpha).step(State(ModelState(X), Kept(h, ())), Update(deltas.mean(0)), 2 / 5)
    expected = h - alpha / 5 * deltas.sum(0)
    np.testing.assert_allclose(state.private.h, expected)
    np.testing.assert_allclose(state.shared.x, (X + deltas).mean(0) - expected / alpha)


def test_exact_local_solutions_lead_to_the_common_optimum():
    """Quadratics ½ h_k (w − a_k)² minimised exactly, as the theory assumes."""
    curve, a = np.array([1.0, 3.0, 0.5]), np.array([-2.0, 1.0, 4.0])
    algorithm = FedDyn(0.7)
    state, memory = algorithm.init(np.zeros(1)), [np.zeros(1)] * 3
    for _ in range(300):
        sent, payloads = state.shared, []
        for k in range(3):
            w = (curve[k] * a[k] + memory[k] + 0.7 * sent.x) / (curve[k] + 0.7)
            bent = algorithm.correct(curve[k] * (w - a[k]), w, sent, memory[k])
            np.testing.assert_allclose(bent, 0, atol=1e-12)  # w is where the bent gradient ends
            payload, memory[k] = algorithm.report(w, sent, memory[k], None)
            payloads.append(payload.delta)
        state = algorithm.step(state, Update(np.mean(payloads, 0)), 1.0)
        np.testing.assert_allclose(state.private.h, np.mean(memory, 0), atol=1e-12)
    np.testing.assert_allclose(state.shared.x, curve @ a / curve.sum(), atol=1e-9)


def test_h_stays_on_the_server():
    state = FedDyn().init(X)
    assert state.shared == ModelState(X)
    assert state.private.h.tolist() == [0, 0]


def test_examples_weighting_is_refused_with_the_remedy():
    with pytest.raises(PlanError, match=r"needs equal weights.*use Plan\(weighting='equal'\)"):
        FedDyn().accept(Local(steps=3), "examples")
    FedDyn().accept(Local(steps=3), "equal")


@pytest.mark.parametrize("alpha", [0, -1, math.nan, math.inf])
def test_alpha_outside_its_range_is_refused(alpha):
    with pytest.raises(PlanError, match=r"FedDyn\(alpha=.*finite and above 0, such as 0.1"):
        FedDyn(alpha=alpha)
