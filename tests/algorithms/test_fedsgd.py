# SPDX-License-Identifier: Apache-2.0
"""FedSGD sends minus the gradient, whatever the local rate, and takes one full-batch step."""

import numpy as np
import pytest

from muster import Local
from muster.algorithms import FedSGD
from muster.algorithms.algorithm import ModelState
from muster.errors import PlanError
from muster.optimizers import SGD, Adam, Momentum
from muster.types import LocalWork


@pytest.mark.parametrize("rate", [0.125, 0.5, 4.0])
def test_minus_the_gradient_travels(rate):
    x, g = np.array([1.0, 2.0]), np.array([3.0, -1.0])
    algorithm = FedSGD(server=SGD(0.5))
    payload, _ = algorithm.report(x - rate * g, ModelState(x), None, LocalWork(1.0, rate, 1.0))
    np.testing.assert_allclose(payload.delta, -g)
    state = algorithm.step(algorithm.init(x), payload, 1.0)
    np.testing.assert_allclose(state.shared.x, [-0.5, 2.5])


@pytest.mark.parametrize(
    "local",
    [Local(steps=1), Local(epochs=1), Local(steps=1, optimizer=SGD(3.0))],
    ids=str,
)
def test_one_full_batch_step_is_accepted(local):
    FedSGD().accept(local, "examples")


@pytest.mark.parametrize(
    "local",
    [
        Local(steps=2),
        Local(epochs=5),
        Local(steps=1, batch=10),
        Local(epochs=1, batch=10),
        Local(steps=1, optimizer=Momentum()),
        Local(steps=1, optimizer=Adam()),
    ],
    ids=str,
)
def test_anything_else_is_refused_with_the_remedy(local):
    with pytest.raises(PlanError, match=r"one full-batch .* use Local\(steps=1, batch=None"):
        FedSGD().accept(local, "examples")
