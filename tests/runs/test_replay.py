# SPDX-License-Identifier: Apache-2.0
"""The model is a function of the plan and the recorded sets."""

import sqlite3
from dataclasses import replace

import pytest

from muster import Every, Target, algorithms, optimizers, pipeline, sampling
from muster.errors import RunError
from muster.runs.replay import replay

PLANS = {
    "scaffold": {},
    "adam": {"algorithm": algorithms.FedAvg(server=optimizers.Adam(0.1))},
    "stages": {
        "algorithm": algorithms.FedAvg(),
        "weighting": "equal",
        "pipeline": [pipeline.AdaptiveClip(), pipeline.Quantize(8, range=1.0, feedback=True)],
    },
    "poisson": {"sampling": sampling.Poisson(rate=0.2)},
    "weighted": {
        "algorithm": algorithms.FedAvg(),
        "sampling": sampling.Weighted(count=5),
        "weighting": "equal",
    },
    "private": {"share": "layers.0.*"},
    "abandoned": {"sampling": sampling.Poisson(rate=0.4), "minimum": 4},
}


@pytest.mark.parametrize("name", PLANS)
def test_a_run_replayed_has_the_same_bits(train, plan, people, name):
    run = train(rounds=6, **PLANS[name])
    assert replay(run.path, replace(plan, **PLANS[name]), people) == (6, True, None)


def test_what_may_change_may_be_another(train, plan, people):
    run = train()
    other = replace(plan, rounds=9, evaluate=Every(2, clients=3), stop=[Target("loss", 1.0)])
    assert replay(run.path, other, people).identical


def test_another_set_another_model(train, plan, people):
    run = train()
    with sqlite3.connect(run.path / "run.db") as db:
        (text,) = db.execute("SELECT record FROM rounds WHERE round=2").fetchone()
        accepted = run.trained[1]["accepted"]
        shorter = text.replace(
            f'"accepted": {_json(accepted)}', f'"accepted": {_json(accepted[1:])}'
        )
        assert shorter != text
        db.execute("UPDATE rounds SET record=? WHERE round=2", (shorter,))
    db.close()
    found = replay(run.path, plan, people)
    assert (found.rounds, found.identical) == (5, False)
    assert found.differs is not None
    assert found.differs.startswith("algorithm.")


def _json(clients):
    return "[" + ", ".join(f'"{client}"' for client in clients) + "]"


def test_another_plan_or_population_is_refused(train, plan, people):
    run = train(rounds=1)
    with pytest.raises(RunError, match="seed: 0 then, 3 now"):
        replay(run.path, replace(plan, seed=3), people)
    with pytest.raises(RunError, match="other clients or row counts"):
        replay(run.path, plan, people.only(people.clients[1:]))


def test_every_bit_counts(train, plan, people):
    run = train(rounds=1)
    with sqlite3.connect(run.path / "run.db") as db:
        (blob,) = db.execute("SELECT arrays FROM state").fetchone()
        changed = bytearray(blob)
        changed[-1] ^= 0x80  # a sign
        db.execute("UPDATE state SET arrays=?", (bytes(changed),))
    db.close()
    assert bytes(changed[:-1]) == blob[:-1]
    assert not replay(run.path, plan, people).identical
