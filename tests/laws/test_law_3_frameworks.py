# SPDX-License-Identifier: Apache-2.0
"""Law 3: NumPy = torch = JAX, for every algorithm with every server optimizer, on a convex task."""

import importlib
from functools import partial

import pytest
from tests.laws.setting import (
    ALGORITHMS,
    CLASSES,
    FEATURES,
    SERVERS,
    distance,
    people,
    planned,
    trained,
)

from muster import sampling
from muster.errors import MissingExtra
from muster.rounds import start

ENGINES = {"torch": "loop", "jax": "matrix"}


def task(framework):
    try:
        room = importlib.import_module(f"muster.tasks.{framework}")
    except MissingExtra as missing:
        pytest.skip(str(missing))
    if framework == "torch":
        return room.Classifier(partial(room.torch.nn.Linear, FEATURES, CLASSES))
    return room.SoftmaxRegression(FEATURES, CLASSES)


@pytest.mark.parametrize("framework", ENGINES)
@pytest.mark.parametrize("server", SERVERS, ids=lambda server: type(server).__name__)
@pytest.mark.parametrize("kind", ALGORITHMS)
def test_every_algorithm_with_every_server(kind, server, framework):
    plan = planned(kind(server=server), sampling=sampling.Uniform(count=4))
    other = planned(kind(server=server), sampling=sampling.Uniform(count=4), task=task(framework))
    population, begin = people(), start(plan)
    wanted = trained(plan, population, state=begin)
    found = trained(other, population, engine=ENGINES[framework], together=6, state=begin)
    assert distance(wanted, begin) > 1e-3
    assert distance(found, wanted) < 1e-10
