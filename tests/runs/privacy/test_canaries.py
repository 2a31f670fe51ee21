# SPDX-License-Identifier: Apache-2.0
"""Canaries have power: they show plainly without noise, and less than what the ledger promises."""

from dataclasses import replace

import numpy as np
import pytest

from muster import Local, Plan, aggregation, algorithms, optimizers, pipeline, sampling, tasks
from muster.privacy import Charge, spent
from muster.runs.privacy.canaries import shown, why_not

PLAN = Plan(
    task=tasks.numpy.MLP([4, 60, 3]),
    algorithm=algorithms.FedAvg(),
    local=Local(epochs=1, batch=4, optimizer=optimizers.SGD(0.01)),
    sampling=sampling.All(),
    pipeline=(pipeline.Clip(0.5), pipeline.Noise(1.0)),
    weighting="equal",
    aggregation=aggregation.Mean("expected"),
)


def test_without_noise_a_client_shows_and_with_noise_less_than_was_promised(people):
    bare = replace(PLAN, pipeline=PLAN.pipeline[:1])
    loud = shown(bare, people, 1, 1e-5)
    quiet = shown(PLAN, people, 1, 1e-5)
    promised = spent([Charge(PLAN.stages.releases()[0])], 1e-5).epsilon
    assert quiet.last.least <= quiet.last.epsilon
    assert quiet.last.least < promised < loud.last.least
    assert loud.canaries == 120


def test_more_noise_shows_less(people):
    found = [
        shown(
            replace(PLAN, pipeline=(pipeline.Clip(0.5), pipeline.Noise(z))), people, 2, 1e-5
        ).last.epsilon
        for z in (0.25, 1.0, 8.0)
    ]
    assert found == sorted(found, reverse=True)
    assert found[0] > found[2]


@pytest.mark.parametrize(
    "stages",
    [
        (pipeline.AdaptiveClip(start=0.5), pipeline.Noise(1.0)),
        (pipeline.Clip(0.5), pipeline.Quantize(12), pipeline.Noise(1.0)),
        (pipeline.Clip(0.5), pipeline.LocalNoise(8.0, 1e-5)),
    ],
)
def test_any_pipeline_is_walked(people, stages):
    found = shown(replace(PLAN, pipeline=stages, sampling=sampling.Poisson(0.5)), people, 2, 1e-5)
    assert np.isfinite([*found.last, *found.every]).all()
    assert found.rounds == 2


def test_a_secure_sum_is_left_out_of_the_simulation(people):
    stages = (pipeline.Clip(0.5), pipeline.Quantize(12), pipeline.SecureSum(metrics="public"))
    masked = replace(PLAN, pipeline=stages)
    assert shown(masked, people, 1, 1e-5).last.epsilon > 0


def test_what_canaries_cannot_audit_is_said():
    assert why_not(PLAN) is None
    scaffold = replace(
        PLAN, algorithm=algorithms.Scaffold(), pipeline=(), aggregation=aggregation.Mean()
    )
    assert why_not(scaffold) == "Scaffold sends more than one vector of updates"
    feedback = replace(PLAN, pipeline=(pipeline.Clip(1.0), pipeline.Quantize(8, feedback=True)))
    assert "memory between rounds" in why_not(feedback)
