# SPDX-License-Identifier: Apache-2.0
"""The attacks have power, what they find stands beside what is promised, and gaps are said."""

from dataclasses import replace

import numpy as np
import pytest

import muster
from muster import Local, Plan, aggregation, algorithms, optimizers, pipeline, sampling, tasks
from muster.runs.privacy import auditing
from muster.runs.privacy.auditing import audited
from muster.runs.privacy.canaries import CanaryScores, Estimate

PLAN = Plan(
    task=tasks.numpy.MLP([12, 40, 3]),
    algorithm=algorithms.FedAvg(),
    local=Local(epochs=1, batch=4, optimizer=optimizers.SGD(0.1)),
    sampling=sampling.All(),
    pipeline=(pipeline.Clip(0.5), pipeline.Noise(2.0)),
    weighting="equal",
    rounds=2,
    aggregation=aggregation.Mean("expected"),
)


@pytest.fixture(scope="module")
def people():
    draw = np.random.default_rng(3)
    return muster.Population.from_arrays(
        {f"c{i}": (draw.normal(size=(8, 12)).astype("float32"), np.arange(8) % 3) for i in range(9)}
    )


@pytest.fixture
def attack(people, tmp_path):
    draw = np.random.default_rng(4)
    fresh = draw.normal(size=(60, 12)).astype("float32"), draw.integers(0, 3, 60)

    def found(rows=fresh, **changed):
        plan = replace(PLAN, **changed)
        run = muster.simulate(plan, people, path=tmp_path / f"{len(list(tmp_path.iterdir()))}")
        return {one.attack: one for one in audited(run, plan, people, rows)}

    return found


def test_a_run_with_noise_holds_what_it_promises(attack):
    found = attack()
    assert [one.verdict for one in found.values()] == ["holds"] * 3 + ["exposed"] * 2
    assert all(one.promised.startswith("ε ") for one in list(found.values())[:3])
    assert found["inversion of one update, plain"].figures["psnr"] > 60
    assert (
        "the server is trusted" in found["inversion of one update, as the server sees it"].promised
    )


def test_without_noise_nothing_is_promised_and_members_are_known(attack):
    local = Local(epochs=300, batch=None, optimizer=optimizers.SGD(0.5))
    found = attack(pipeline=(), local=local, rounds=3, task=tasks.numpy.MLP([12, 64, 3]))
    rows = found["membership of rows"]
    assert rows.verdict == "no promise"
    assert rows.figures["auc"] > 0.7, "it overfits, and the attack sees it"
    assert rows.promised.startswith("nothing")


def test_noise_of_the_client_hides_its_row_from_the_server(attack):
    found = attack(pipeline=(pipeline.Clip(0.5), pipeline.LocalNoise(4.0, 1e-5)))
    seen = found["inversion of one update, as the server sees it"]
    assert seen.verdict == "hidden"
    assert seen.figures["psnr"] < found["inversion of one update, plain"].figures["psnr"] - 40


def test_a_mask_shows_nothing(attack):
    stages = (pipeline.Clip(0.5), pipeline.Quantize(12), pipeline.SecureSum(metrics="public"))
    seen = attack(pipeline=stages)["inversion of one update, as the server sees it"]
    assert (seen.verdict, seen.measured) == ("hidden", "a mask: uniform numbers alone")


def test_quantizing_hides_little(attack):
    found = attack(pipeline=(pipeline.Clip(0.5), pipeline.Quantize(16)))
    assert found["inversion of one update, as the server sees it"].verdict == "exposed"


def test_what_cannot_be_tried_is_said(attack, people):
    found = attack(
        rows=None, algorithm=algorithms.Scaffold(), pipeline=(), aggregation=aggregation.Mean()
    )
    assert {name: one.measured for name, one in found.items() if one.verdict == "not audited"} == {
        "canaries": "Scaffold sends more than one vector of updates",
        "membership of rows": "there are no test rows",
    }
    small = attack(task=tasks.numpy.SoftmaxRegression(12, 3))
    assert small["canaries"].measured == "the model has 39 coordinates, and canaries need 400"


def test_more_than_was_promised_is_a_fault(attack, monkeypatch):
    monkeypatch.setattr(auditing, "shown", lambda *_: auditing_shown())
    found = attack()
    assert [one.verdict for one in list(found.values())[:2]] == ["fault", "fault"]


def auditing_shown():
    """Canaries that find far too much."""
    return CanaryScores(Estimate(500.0, 400.0), Estimate(500.0, 400.0), 20, 2)
