# SPDX-License-Identifier: Apache-2.0
"""How long each update was is in the record where nothing is to hide it, and nowhere else."""

import numpy as np
import pytest

import muster
from muster import algorithms, optimizers, pipeline, sampling, tasks
from muster.aggregation import Mean, Median
from muster.plan.norms import shows_norms

LOCAL = muster.Local(epochs=1, batch=8, optimizer=optimizers.SGD(0.2))
CLIENTS = 6


def people():
    draw = np.random.default_rng(3)
    return muster.Population.from_arrays(
        {
            f"c{i}": (draw.normal(size=(n, 4)).astype("float32"), draw.integers(0, 3, n))
            for i, n in enumerate(range(5, 5 + 3 * CLIENTS, 3))
        }
    )


def plan(**fields):
    return muster.Plan(
        **{
            "task": tasks.numpy.MLP([4, 3]),
            "algorithm": algorithms.FedAvg(),
            "local": LOCAL,
            "rounds": 2,
            **fields,
        }
    )


@pytest.mark.parametrize("engine", ["loop", "matrix"])
def test_they_are_those_of_each_client_trained_alone(tmp_path, engine):
    """With all rows in one batch, how a client trains does not depend on who trains beside it."""
    whole = muster.Local(epochs=2, batch=1000, optimizer=optimizers.SGD(0.2))
    made = plan(local=whole, rounds=1, keep=muster.Keep(every=1))
    run = muster.simulate(made, people(), path=tmp_path / "all", engine=engine)
    norms = dict(run.trained[0]["norms"])
    assert list(norms) == run.trained[0]["accepted"] and "norms" not in run.history[0]
    for client in people().clients:
        one = muster.simulate(made, people().only([client]), path=tmp_path / client, engine=engine)
        moved = np.asarray(one.at(1).parameters, float) - np.asarray(one.at(0).parameters, float)
        assert norms[client] == pytest.approx(np.linalg.norm(moved), rel=1e-4)


def test_a_clip_bounds_them_also_where_they_travel_as_integers(tmp_path):
    stages = [pipeline.Clip(0.05), pipeline.Quantize(16, range=0.05)]
    found = {}
    for count in (1, 2):
        made = plan(pipeline=stages[:count], weighting="equal")
        run = muster.simulate(made, people(), path=tmp_path / str(count))
        found[count] = [norm for _, norm in run.trained[0]["norms"]]
    assert len(found[1]) == CLIENTS and max(found[1]) == pytest.approx(0.05, rel=1e-5)
    assert found[2] == pytest.approx(found[1], rel=1e-2)


def test_a_rule_shows_them_too(tmp_path):
    run = muster.simulate(
        plan(aggregation=Median(), weighting="equal"), people(), path=tmp_path / "r"
    )
    assert [client for client, _ in run.trained[0]["norms"]] == run.trained[0]["accepted"]


NOISY = {"weighting": "equal", "aggregation": Mean("expected"), "sampling": sampling.All()}
HIDING = {
    "noise": {"pipeline": [pipeline.Clip(1.0), pipeline.Noise(1.0)], **NOISY},
    "noise of each client": {
        "pipeline": [pipeline.Clip(1.0), pipeline.LocalNoise(1.0, 1e-5)],
        **NOISY,
    },
    "masks": {
        "pipeline": [pipeline.Clip(1.0), pipeline.Quantize(16, range=1.0), pipeline.SecureSum()],
        "weighting": "equal",
        "evaluate": muster.Every(clients=0),
        "minimum": 4,
    },
    "noise of rows": {
        "local": muster.Local(
            epochs=1, batch=8, optimizer=optimizers.SGD(0.2), examples=muster.PerExample(1.0, 1.0)
        ),
        "evaluate": muster.Every(clients=0),
    },
}


@pytest.mark.parametrize("name", HIDING)
def test_nothing_is_told_of_what_is_hidden(tmp_path, name):
    made = plan(**HIDING[name])
    assert shows_norms(plan()) and not shows_norms(made)
    run = muster.simulate(made, people(), path=tmp_path / "run")
    assert run.round == 2 and any(record["accepted"] for record in run.trained)
    assert not any("norms" in record for record in run.trained)
