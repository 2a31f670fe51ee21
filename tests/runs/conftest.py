# SPDX-License-Identifier: Apache-2.0
"""A small plan, its data, and what is asked of a run."""

from dataclasses import replace

import numpy as np
import pytest

import muster
from muster import algorithms, optimizers, sampling, tasks


@pytest.fixture
def plan():
    return muster.Plan(
        task=tasks.numpy.MLP([4, 5, 3]),
        algorithm=algorithms.Scaffold(server=optimizers.Momentum(1.0, 0.5)),
        local=muster.Local(epochs=1, batch=4, optimizer=optimizers.SGD(0.2)),
        sampling=sampling.Uniform(count=4),
        rounds=5,
    )


@pytest.fixture(scope="session")
def people():
    draw = np.random.default_rng(3)
    rows = {
        f"c{i}": (draw.normal(size=(5 + 2 * i, 4)).astype("float32"), np.arange(5 + 2 * i) % 3)
        for i in range(10)
    }
    return muster.Population.from_arrays(rows)


@pytest.fixture
def train(tmp_path, plan, people):
    """Train the plan with some fields changed, in a folder of that name."""

    def trained(name="run", *, resume=False, judged=True, options=None, **changed):
        rows = people.pooled() if judged else None
        return muster.simulate(
            replace(plan, **changed),
            people,
            rows,
            path=tmp_path / name,
            resume=resume,
            **(options or {}),
        )

    return trained
