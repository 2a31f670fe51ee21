# SPDX-License-Identifier: Apache-2.0
"""Law 4: special cases are equal, and the controls are the means they stand for."""

import importlib
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.setting import (
    ALGORITHMS,
    CLASSES,
    FEATURES,
    distance,
    people,
    planned,
    same_bits,
    trained,
)

from muster import Local, algorithms, optimizers, sampling
from muster.aggregation import Mean
from muster.errors import MissingExtra
from muster.rounds import start
from muster.tasks.numpy import SoftmaxRegression
from muster.types import Batch

SGD, Momentum = optimizers.SGD, optimizers.Momentum
PARTIAL = (sampling.All(), sampling.Uniform(count=3), sampling.Poisson(rate=0.4))


def task(framework):
    try:
        room = importlib.import_module(f"muster.tasks.{framework}")
    except MissingExtra as missing:
        pytest.skip(str(missing))
    if framework == "torch":
        return room.Classifier(partial(room.torch.nn.Linear, FEATURES, CLASSES))
    return room.SoftmaxRegression(FEATURES, CLASSES)


@pytest.mark.parametrize("engine", ["loop", "matrix"])
@pytest.mark.parametrize("framework", ["numpy", "torch", "jax"])
def test_fedprox_without_mu_is_fedavg(framework, engine):
    ends = [
        trained(planned(a, task=task(framework)), people(), engine=engine, together=6)
        for a in (algorithms.FedProx(mu=0.0), algorithms.FedAvg())
    ]
    assert same_bits(*ends)


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_momentum_without_beta_is_sgd_on_the_server(kind):
    ends = [trained(planned(kind(server=s)), people()) for s in (Momentum(0.7, 0.0), SGD(0.7))]
    x, y = (state.algorithm.shared.x for state in ends)
    assert x.tobytes() == y.tobytes()


def test_momentum_without_beta_is_sgd_on_the_clients():
    ends = [
        trained(planned(local=Local(epochs=2, batch=2, optimizer=o)), people())
        for o in (Momentum(0.1, 0.0), SGD(0.1))
    ]
    assert same_bits(*ends)


@settings(deadline=None, max_examples=20)
@given(clients=st.integers(1, 40), rate=st.floats(0.01, 1.0))
def test_one_full_batch_step_is_pooled_gradient_descent(clients, rate):
    population = people(clients)
    model, (x, y) = SoftmaxRegression(FEATURES, CLASSES, dtype="float64"), population.pooled()
    w = np.zeros(model.layout.size)
    for _ in range(4):
        w = w - rate * model.gradient(w, None, Batch(x, y))[0]
    local = Local(steps=1, optimizer=SGD(rate))
    same = [algorithms.FedAvg(), algorithms.Scaffold(), algorithms.FedNova()]
    for algorithm in same:
        found = trained(planned(algorithm, local=local), population, rounds=4)
        np.testing.assert_allclose(found.algorithm.shared.x, w, rtol=0, atol=1e-12)
    fedsgd = trained(planned(algorithms.FedSGD(SGD(rate)), local=local), population, rounds=4)
    np.testing.assert_allclose(fedsgd.algorithm.shared.x, w, rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=20)
@given(steps=st.integers(1, 7), beta=st.sampled_from([None, 0.0, 0.5, 0.9]))
def test_fednova_with_equal_steps_is_fedavg(steps, beta):
    optimizer = SGD(0.1) if beta is None else Momentum(0.1, beta)
    local = Local(steps=steps, batch=2, optimizer=optimizer)
    ends = [
        trained(planned(a, local=local), people())
        for a in (algorithms.FedNova(), algorithms.FedAvg())
    ]
    assert distance(*ends) < 1e-12


def test_fednova_with_unequal_steps_is_not_fedavg():
    ends = [trained(planned(a), people()) for a in (algorithms.FedNova(), algorithms.FedAvg())]
    assert distance(*(state.algorithm.shared for state in ends)) > 1e-6


def averages(plan, population, simulation):
    """Σ p_k m_k over the whole population, of what the algorithm keeps on each client."""
    kept = simulation.memories(population.clients)
    memories = np.array([kept[client].algorithm for client in population.clients])
    weights = plan.weights(population.sizes, (1,))
    return (weights[:, None] * memories).sum(0) / weights.sum()


@pytest.mark.parametrize("rule", PARTIAL, ids=repr)
@pytest.mark.parametrize("weighting", ["equal", "examples"])
@pytest.mark.parametrize("engine", ["loop", "matrix"])
def test_scaffolds_control_is_the_mean_of_the_clients(engine, weighting, rule):
    plan = planned(algorithms.Scaffold(SGD(0.8)), weighting=weighting, sampling=rule)
    population, rounds = people(9), []

    def seen(round, state, simulation):
        mean = averages(plan, population, simulation)
        np.testing.assert_allclose(state.algorithm.shared.c, mean, rtol=0, atol=1e-12)
        rounds.append(float(np.abs(mean).max()))

    trained(plan, population, 8, engine, 9, seen=seen)
    assert len(rounds) == 8
    assert rounds[-1] > 1e-3


@pytest.mark.parametrize("rule", PARTIAL, ids=repr)
def test_feddyns_h_is_the_mean_of_the_clients(rule):
    plan = planned(algorithms.FedDyn(alpha=0.3), sampling=rule)
    population, rounds = people(9), []

    def seen(round, state, simulation):
        mean = averages(plan, population, simulation)
        np.testing.assert_allclose(state.algorithm.private.h, mean, rtol=0, atol=1e-12)
        rounds.append(float(np.abs(mean).max()))

    trained(plan, population, 8, seen=seen)
    assert len(rounds) == 8
    assert rounds[-1] > 1e-3


def test_the_controls_hold_under_a_fixed_denominator():
    """Under Mean("expected") the sum is divided by another number, and c must not follow it."""
    plan = planned(
        algorithms.Scaffold(),
        sampling=sampling.Poisson(rate=0.4),
        aggregation=Mean(denominator="expected"),
    )
    population = people(9)

    def seen(round, state, simulation):
        mean = averages(plan, population, simulation)
        np.testing.assert_allclose(state.algorithm.shared.c, mean, rtol=0, atol=1e-12)

    trained(plan, population, 8, seen=seen)


def test_what_the_start_is_does_not_matter():
    plan = planned(algorithms.FedAvg())
    begin = start(plan)
    moved = begin.algorithm._replace(shared=begin.algorithm.shared._replace(x=np.ones(15)))
    state = replace(plan, algorithm=algorithms.FedProx(0.0))
    ends = [trained(p, people(), state=begin._replace(algorithm=moved)) for p in (plan, state)]
    assert same_bits(*ends)
