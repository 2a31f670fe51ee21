# SPDX-License-Identifier: Apache-2.0
"""Law 2: a cohort trained as one matrix is its clients trained one by one."""

import importlib
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.setting import ALGORITHMS, CLASSES, FEATURES, distance, people, planned, trained

from muster import Local, Population, algorithms, optimizers, pipeline
from muster.errors import MissingExtra
from muster.rounds import start
from muster.tasks import numpy as tasks


def both(plan, population, rounds=2):
    clients = len(population)
    matrix = trained(plan, population, rounds, "matrix", together=clients)
    return matrix, trained(plan, population, rounds, "loop")


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from([k for k in ALGORITHMS if k is not algorithms.FedSGD]),
    clients=st.integers(1, 40),
    batch=st.one_of(st.none(), st.integers(1, 5)),
    epochs=st.integers(1, 3),
    steps=st.one_of(st.none(), st.integers(1, 6)),
)
def test_any_cohort_in_float64(kind, clients, batch, epochs, steps):
    amount = {"steps": steps} if steps else {"epochs": epochs}
    local = Local(**amount, batch=batch, optimizer=optimizers.SGD(0.1))
    matrix, loop = both(planned(kind(), local=local), people(clients))
    assert distance(matrix, loop) < 1e-12


@pytest.mark.parametrize(
    "optimizer", [optimizers.Momentum(0.05), optimizers.Adam(0.01), optimizers.Yogi(0.01)]
)
def test_local_optimizers_keep_one_state_a_client(optimizer):
    local = Local(epochs=2, batch=2, optimizer=optimizer)
    matrix, loop = both(planned(algorithms.FedProx(0.3), local=local), people(9))
    assert distance(matrix, loop) < 1e-12


def test_the_pipeline_sees_the_same_rows():
    stages = [pipeline.Clip(0.2), pipeline.Quantize(24, feedback=True)]
    matrix, loop = both(planned(algorithms.Scaffold(), pipeline=stages, cap=5), people(40))
    assert distance(matrix, loop) < 1e-6  # a coordinate may fall on the other side of a level


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_float32_on_a_convex_task(kind):
    matrix, loop = both(planned(kind(), dtype="float32"), people(9, "float32"))
    assert distance(matrix, loop) < 1e-5


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_perceptron_over_a_round(dtype):
    task = tasks.MLP([FEATURES, 8, CLASSES])
    plan = planned(algorithms.FedProx(0.1), task=task, dtype=dtype)
    matrix, loop = both(plan, people(9, dtype), rounds=1)
    x, y = (state.algorithm.shared.x for state in (matrix, loop))
    moved = np.linalg.norm(y - start(plan).algorithm.shared.x)
    assert np.linalg.norm(x - y) < (1e-3 * moved if dtype == "float32" else 1e-12)
    one = planned(task=task, dtype=dtype, local=Local(steps=1, optimizer=optimizers.SGD(0.1)))
    assert distance(*both(one, people(9, dtype), rounds=1)) < 1e-5


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_other_frameworks(framework):
    try:
        room = importlib.import_module(f"muster.tasks.{framework}")
    except MissingExtra as missing:
        pytest.skip(str(missing))
    if framework == "torch":
        task = room.Classifier(partial(room.torch.nn.Linear, FEATURES, CLASSES))
    else:
        task = room.SoftmaxRegression(FEATURES, CLASSES)
    for kind in (algorithms.FedAvg, algorithms.Scaffold):
        assert distance(*both(planned(kind(), task=task), people(9))) < 1e-12


def test_the_law_has_power():
    population = people(9)
    swapped = Population.from_arrays({k: population[8 - k] for k in range(9)})
    matrix, loop = (trained(planned(), p, 2, "loop") for p in (population, swapped))
    assert distance(matrix, loop) > 1e-6
