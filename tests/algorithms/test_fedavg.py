# SPDX-License-Identifier: Apache-2.0
"""FedAvg by hand, and the optimizers that make it FedAvgM and FedAdam."""

import numpy as np
import pytest

from muster import Local
from muster.algorithms import FedAvg
from muster.algorithms.algorithm import ModelState, Update
from muster.optimizers import SGD, Adam, Momentum
from muster.types import LocalWork

X = np.array([1.0, 2.0])
WORK = LocalWork(1.0, 0.1, 1.0)


def test_the_mean_of_the_updates_is_added():
    """Clients at [3, 2] and [0, 6] with weights 1/4 and 3/4: x becomes their weighted mean."""
    algorithm, sent = FedAvg(), ModelState(X)
    a, _ = algorithm.report(np.array([3.0, 2.0]), sent, None, WORK)
    b, _ = algorithm.report(np.array([0.0, 6.0]), sent, None, WORK)
    mean = Update(0.25 * a.delta + 0.75 * b.delta)
    assert algorithm.step(algorithm.init(X), mean, 1.0).shared.x.tolist() == [0.75, 5.0]


def test_the_server_rate_scales_the_step():
    algorithm = FedAvg(server=SGD(0.5))
    state = algorithm.step(algorithm.init(X), Update(np.array([2.0, -2.0])), 1.0)
    assert state.shared.x.tolist() == [2.0, 1.0]


def test_with_momentum_it_is_fedavgm():
    """v = 0.5 v + d; x += v: two steps along d = 1 move x by 1 and then by 1.5."""
    algorithm, d = FedAvg(server=Momentum(1.0, 0.5)), Update(np.ones(2))
    state = algorithm.step(algorithm.init(X), d, 1.0)
    assert (state.shared.x - X).tolist() == [1.0, 1.0]
    assert (algorithm.step(state, d, 1.0).shared.x - X).tolist() == [2.5, 2.5]


def test_with_adam_it_is_fedadam():
    """m = 0.1 d, v = 0.99 tau² + 0.01 d²; x += rate m / (sqrt(v) + tau)."""
    algorithm = FedAvg(server=Adam(0.01, 0.9, 0.99, 1e-3))
    state = algorithm.step(algorithm.init(np.zeros(1)), Update(np.array([2.0])), 1.0)
    expected = 0.01 * 0.2 / (np.sqrt(0.99e-6 + 0.04) + 1e-3)
    assert state.shared.x[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("weighting", ["examples", "equal"])
@pytest.mark.parametrize("optimizer", [SGD(0.1), Momentum(0.1), Adam(0.1)])
def test_any_local_training_is_accepted(optimizer, weighting):
    FedAvg().accept(Local(epochs=5, batch=10, optimizer=optimizer), weighting)
