# SPDX-License-Identifier: Apache-2.0
"""FedProx adds mu (w − x) to each gradient: the norm in the objective is squared."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster import Local
from muster.algorithms import FedAvg, FedProx
from muster.algorithms.algorithm import ModelState
from muster.errors import PlanError

X, W, G = np.array([1.0, 2.0]), np.array([3.0, 1.0]), np.array([0.5, 0.5])


def test_the_gradient_is_bent_towards_the_global_model():
    assert FedProx(mu=0.5).correct(G, W, ModelState(X), None).tolist() == [1.5, 0.0]


@given(st.floats(0, 4), st.lists(st.floats(-3, 3), min_size=2, max_size=2))
def test_the_bend_is_the_slope_of_half_mu_times_the_squared_distance(mu, w):
    def penalty(w):
        return mu / 2 * ((w - X) ** 2).sum()

    w, h = np.array(w), 1e-5
    slope = [(penalty(w + h * e) - penalty(w - h * e)) / (2 * h) for e in np.eye(2)]
    bend = FedProx(mu=mu).correct(np.zeros(2), w, ModelState(X), None)
    np.testing.assert_allclose(bend, slope, atol=1e-6)


def test_without_mu_it_is_fedavg_bitwise():
    bent = FedProx(mu=0.0).correct(G, W, ModelState(X), None)
    assert bent.tobytes() == FedAvg().correct(G, W, ModelState(X), None).tobytes()


def test_the_server_averages_as_fedavg():
    payload, _ = FedProx(mu=1.0).report(W, ModelState(X), None, None)
    assert payload.delta.tolist() == [2.0, -1.0]
    state = FedProx(mu=1.0).step(FedProx().init(X), payload, 1.0)
    assert state.shared.x.tolist() == W.tolist()


def test_any_local_training_is_accepted():
    FedProx().accept(Local(epochs=20, batch=10), "examples")


@pytest.mark.parametrize("mu", [-0.1, math.nan, math.inf])
def test_mu_outside_its_range_is_refused(mu):
    with pytest.raises(PlanError, match=r"FedProx\(mu=.*finite, at least 0, such as 0.1"):
        FedProx(mu=mu)
