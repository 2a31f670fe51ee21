# SPDX-License-Identifier: Apache-2.0
"""Noise belongs to one sum: whatever is different in a sum, its noise is another."""

from dataclasses import replace

import numpy as np
import pytest

from muster import Local, Plan, aggregation, algorithms, optimizers, pipeline, sampling, tasks
from muster.data import Population
from muster.keys import key
from muster.privacy.noise_source import noise_source
from muster.privacy.randomness import Secret
from muster.rounds import play, start
from muster.simulation import Choice, LocalExecutor, Simulation
from muster.store.memory import MemoryStore
from muster.types import Reply

PART = Reply((1,), {"a": np.ones(2)}, 1.0)
SUM = Reply(
    (1, "1", 2), {"a": np.arange(3.0), "b": np.zeros((2, 1), np.float32)}, 2.0, {}, np.ones(1)
)


def test_an_equal_sum_has_equal_noise_in_whatever_order_its_clients_came():
    copy = replace(
        SUM, clients=SUM.clients[::-1], payload={k: v.copy() for k, v in SUM.payload.items()}
    )
    assert noise_source(key(0), copy) == noise_source(key(0), SUM)
    told = replace(SUM, metrics={"loss": 3.0}, norms=((1, 2.0),))
    assert noise_source(key(0), told) == noise_source(key(0), SUM), "noise is added to none of it"


@pytest.mark.parametrize(
    "other",
    [
        replace(SUM, clients=(1, 2)),
        replace(SUM, clients=(1, 1, 2)),
        replace(SUM, weight=np.nextafter(2.0, 3.0)),
        replace(SUM, payload=SUM.payload | {"a": np.array([0.0, 1.0, np.nextafter(2.0, 3.0)])}),
        replace(SUM, payload=SUM.payload | {"a": np.array([-0.0, 1.0, 2.0])}),
        replace(SUM, payload=SUM.payload | {"b": np.zeros((1, 2), np.float32)}),
        replace(SUM, payload=SUM.payload | {"b": np.zeros((2, 1), np.int32)}),
        replace(SUM, payload={"a": SUM.payload["a"]}),
        replace(SUM, buffers=None),
        replace(SUM, parts=(PART,)),
        replace(SUM, parts=(PART, PART)),
    ],
)
def test_any_other_sum_has_other_noise(other):
    assert noise_source(key(0), other) != noise_source(key(0), SUM)


def test_one_secret_for_two_sums_shows_their_difference_to_nobody():
    """The attack: a folder is copied while a round is open, and put back once it was committed."""
    plan = Plan(
        task=tasks.numpy.MLP([4, 5, 3]),
        algorithm=algorithms.FedAvg(),
        local=Local(epochs=1, batch=4, optimizer=optimizers.SGD(0.2)),
        sampling=sampling.Poisson(0.5),
        pipeline=(pipeline.Clip(0.5), pipeline.Noise(1.0)),
        weighting="equal",
        aggregation=aggregation.Mean("expected"),
    )
    secret, draw = Secret(bytes(range(32))), np.random.default_rng(0)
    rows = {i: (draw.normal(size=(8, 4)), draw.integers(0, 3, 8)) for i in range(10)}
    people = Population.from_arrays(rows)
    other = Population.from_arrays({i: (-x, y) for i, (x, y) in rows.items()})

    def model(plan, population):
        """The model after one round with the one secret."""
        clients = Simulation(
            plan,
            population,
            MemoryStore(),
            Choice("loop", 1, True, ""),
            LocalExecutor(plan, "loop", population),
        )
        state = play(plan, start(plan), clients, MemoryStore(), 1, lambda *_: {}, secret)
        return state.algorithm.shared.x.astype(float)

    def noise(population):
        return model(plan, population) - model(
            replace(plan, pipeline=(pipeline.Clip(0.5),)), population
        )

    assert np.array_equal(noise(people), noise(people))
    assert np.abs(noise(people) - noise(other)).max() > 0.01 * np.abs(noise(people)).max()
    assert abs(np.corrcoef(noise(people), noise(other))[0, 1]) < 0.5
