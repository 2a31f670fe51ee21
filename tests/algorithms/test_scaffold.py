# SPDX-License-Identifier: Apache-2.0
"""SCAFFOLD with option II by hand; its controls are weighted as the model is."""

import numpy as np
import pytest

from muster import Local
from muster.algorithms import FedAvg, Scaffold
from muster.algorithms.scaffold import Change, Controlled
from muster.errors import PlanError
from muster.optimizers import SGD, Adam, Momentum
from muster.types import LocalWork, State

X, C = np.array([1.0, 2.0]), np.array([0.5, -0.5])
SENT = Controlled(X, C)


def test_the_gradient_is_corrected_by_both_controls():
    bent = Scaffold().correct(np.array([1.0, 1.0]), X, SENT, np.array([0.25, 0.0]))
    assert bent.tolist() == [1.25, 0.5]


def test_option_two_by_hand():
    """c_k' = c_k − c + (x − w)/(K eta) with K eta = 0.5."""
    w, c_k = np.array([0.0, 3.0]), np.array([0.25, 0.0])
    payload, kept = Scaffold().report(w, SENT, c_k, LocalWork(5.0, 0.5, 5.0))
    assert payload.delta.tolist() == [-1.0, 1.0]
    assert kept.tolist() == [0.25 - 0.5 + 2.0, 0.0 + 0.5 - 2.0]
    np.testing.assert_allclose(payload.control, kept - c_k)


def test_the_new_control_is_the_mean_gradient_that_was_seen():
    """Ten corrected steps at falling rates: option II gives back the weighted mean gradient."""
    rng = np.random.default_rng(0)
    c_k, w = rng.normal(size=2), X.copy()
    rates, gradients = 0.1 * 0.9 ** np.arange(10), rng.normal(size=(10, 2))
    for rate, g in zip(rates, gradients, strict=True):
        w = w - rate * Scaffold().correct(g, w, SENT, c_k)
    _, kept = Scaffold().report(w, SENT, c_k, LocalWork(10.0, rates.sum(), 10.0))
    np.testing.assert_allclose(kept, rates @ gradients / rates.sum(), rtol=1e-12)


def test_the_server_moves_c_by_the_share_of_the_population():
    """m/N = 2/8 under equal weights: c += (1/N) Σ (c_k' − c_k)."""
    state = State(SENT, ())
    changes = np.array([[1.0, 0.0], [3.0, 2.0]])
    after = Scaffold().step(state, Change(np.array([1.0, 1.0]), changes.mean(0)), 2 / 8)
    np.testing.assert_allclose(after.shared.c, C + changes.sum(0) / 8)
    assert after.shared.x.tolist() == [2.0, 3.0]


def quadratics():
    """Three clients ½ h (w − a)² of unequal weights; the optimum of the weighted sum."""
    h, a = np.array([1.0, 3.0, 0.5]), np.array([[-2.0], [1.0], [4.0]])
    p = np.array([0.6, 0.3, 0.1])
    return h, a, p, (p * h) @ a / (p * h).sum()


def train(algorithm, rounds, shares):
    """All clients, ten local steps of rate 0.2; the model by `p`, the control by `shares`."""
    h, a, p, _ = quadratics()
    state, memory = algorithm.init(np.zeros(1)), [np.zeros(1)] * 3
    for _ in range(rounds):
        payloads = []
        for k in range(3):
            w = state.shared.x
            for _ in range(10):
                g = h[k] * (w - a[k])
                w = w - 0.2 * algorithm.correct(g, w, state.shared, memory[k])
            payload, memory[k] = algorithm.report(
                w, state.shared, memory[k], LocalWork(10, 2.0, 10)
            )
            payloads.append(payload)
        columns = zip(*payloads, strict=True)
        means = [np.tensordot(q, f, 1) for q, f in zip((p, shares), columns, strict=False)]
        state = algorithm.step(state, algorithm.payload(*means), 1.0)
    return state, memory


def test_weighted_alike_it_reaches_the_optimum_and_c_is_the_mean_of_the_controls():
    _, _, p, optimum = quadratics()
    state, memory = train(Scaffold(), 200, p)
    np.testing.assert_allclose(state.shared.x, optimum, atol=1e-9)
    np.testing.assert_allclose(state.shared.c, p @ np.array(memory), atol=1e-12)


def test_weighting_the_control_otherwise_is_the_trap():
    """An n_k-weighted model with an equally weighted control stops at another point."""
    *_, optimum = quadratics()
    trapped, _ = train(Scaffold(), 200, np.full(3, 1 / 3))
    assert abs(trapped.shared.x - optimum) > 1e-2
    drifted, _ = train(FedAvg(), 200, np.zeros(3))
    assert abs(drifted.shared.x - optimum) > 1e-2


@pytest.mark.parametrize("optimizer", [Momentum(0.1), Adam(0.1)])
def test_local_momentum_is_refused_with_the_remedy(optimizer):
    with pytest.raises(PlanError, match=r"plain local SGD.*use Local\(optimizer=SGD"):
        Scaffold().accept(Local(steps=2, optimizer=optimizer), "examples")


@pytest.mark.parametrize("weighting", ["examples", "equal"])
def test_plain_sgd_is_accepted_under_either_weighting(weighting):
    Scaffold().accept(Local(epochs=2, batch=3, optimizer=SGD(0.1)), weighting)
