# SPDX-License-Identifier: Apache-2.0
"""FedNova divides by a_k before the sum and multiplies by its mean after it."""

from typing import get_type_hints

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster import Local
from muster.algorithms import FedAvg, FedNova
from muster.algorithms.algorithm import ModelState
from muster.errors import PlanError
from muster.optimizers import SGD, Adagrad, Adam, Momentum, Yogi
from muster.types import LocalWork, Scalar

X = np.array([1.0, 2.0])


def server_step(algorithm, ws, norms, p, server=None):
    """x after clients at `ws` with step norms `norms` and weights `p`."""
    sent = ModelState(X)
    payloads = [
        algorithm.report(w, sent, None, LocalWork(n, 0.1 * n, n))[0]
        for w, n in zip(ws, norms, strict=True)
    ]
    fields = zip(*payloads, strict=True)
    mean = algorithm.payload(*(sum(a * b for a, b in zip(p, f, strict=True)) for f in fields))
    return algorithm.step(algorithm.init(X), mean, 1.0).shared.x


def test_two_clients_by_hand():
    """a = (2, 10), p = (1/4, 3/4): Σ p a = 8; Σ p Δ/a = [4/8, 0] + [0, 15/40]; x += 8 · that."""
    ws = [X + np.array([4.0, 0.0]), X + np.array([0.0, 5.0])]
    norms = [np.array([2.0]), np.array([10.0])]
    result = server_step(FedNova(), ws, norms, (0.25, 0.75))
    np.testing.assert_allclose(result, X + 8 * np.array([0.5, 0.375]))
    half = server_step(FedNova(server=SGD(0.5)), ws, norms, (0.25, 0.75))
    np.testing.assert_allclose(half, X + 4 * np.array([0.5, 0.375]))


@settings(deadline=None)
@given(
    st.lists(st.lists(st.floats(-5, 5), min_size=2, max_size=2), min_size=1, max_size=5),
    st.integers(1, 50),
)
def test_with_equal_steps_it_is_fedavg(ws, steps):
    ws = [np.array(w) for w in ws]
    p = np.arange(1.0, len(ws) + 1) / sum(range(1, len(ws) + 1))
    norms = [np.array([float(steps)])] * len(ws)
    nova, avg = (server_step(a, ws, norms, p) for a in (FedNova(), FedAvg()))
    np.testing.assert_allclose(nova, avg, rtol=1e-12, atol=1e-12)


def test_clients_pull_in_proportion_to_their_weight_not_their_steps():
    """Two clients with one gradient each, of equal weight, the second taking 9 times the steps."""
    g = np.array([[1.0, 0.0], [0.0, 1.0]])
    norms = [np.array([1.0]), np.array([9.0])]
    ws = [X - 0.1 * n * d for n, d in zip(norms, g, strict=True)]
    move = server_step(FedNova(), ws, norms, (0.5, 0.5)) - X
    assert move[0] == pytest.approx(move[1])
    pulled = server_step(FedAvg(), ws, norms, (0.5, 0.5)) - X
    assert pulled[1] == pytest.approx(9 * pulled[0])


def test_momentum_weighs_more_than_its_steps():
    """Undamped: the direction of step i moves the model again in every step after it."""
    v, moved = 0.0, []
    for direction in (1.0, 1.0, 1.0):
        v = 0.9 * v + direction
        moved.append(v)
    assert Momentum(0.1, 0.9).weights(3) == pytest.approx(sum(moved)) and sum(moved) > 3
    assert SGD(0.1).weights(3) == 3


def test_the_norm_travels_as_one_number_a_client():
    assert get_type_hints(FedNova.payload)["norm"] is Scalar


@pytest.mark.parametrize("optimizer", [SGD(0.1), Momentum(0.1, 0.9)])
def test_optimizers_with_step_weights_are_accepted(optimizer):
    FedNova().accept(Local(epochs=2, batch=4, optimizer=optimizer), "examples")


@pytest.mark.parametrize("optimizer", [Adam(), Adagrad(), Yogi()])
def test_adaptive_local_optimizers_are_refused_with_the_remedy(optimizer):
    with pytest.raises(PlanError, match=r"needs step weights.*use SGD or Momentum"):
        FedNova().accept(Local(steps=2, optimizer=optimizer), "equal")
