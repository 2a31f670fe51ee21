# SPDX-License-Identifier: Apache-2.0
"""The statement of a run without noise says what its plan does, and nothing that it does not."""

import pytest

from muster import aggregation, algorithms, pipeline, sampling
from muster.privacy import AuditFinding
from muster.runs import Run
from muster.runs.privacy.facts import stated


@pytest.fixture
def said(train):
    def made(**changed):
        return stated(Run(train("plain", rounds=2, algorithm=algorithms.FedAvg(), **changed).path))

    return made


def test_sampling_weights_and_denominator_are_the_plans(said):
    found = said()
    assert not found.private
    assert found.reasons == (
        "no stage adds noise; put Clip(bound) and Noise(multiplier) into the pipeline",
    )
    assert found.items["sampling"] == "Uniform(count=4); no noise counts on it"
    assert found.items["mechanism"] == (
        "no noise; weights: each client counts by its rows; the sum is divided by what the replies "
        "weigh"
    )
    assert found.items["dropouts"] == "fewest replies: 4"
    assert "each client's update by itself" in found.items["trust"]
    assert found.items["secure sum"] == "none"
    text = found.text()
    for made_up in ("rate 1", "fixed", "Philox", "dp-accounting", "counts once", "expected"):
        assert made_up not in text, made_up


@pytest.mark.parametrize(
    ("changed", "item", "words"),
    [
        ({"sampling": sampling.Poisson(0.5)}, "sampling", "Poisson(rate=0.5)"),
        ({"weighting": "equal"}, "mechanism", "each client counts once"),
        ({"cap": 7}, "mechanism", "counts by its rows, at most 7"),
        (
            {"weighting": "equal", "aggregation": aggregation.Mean("expected")},
            "mechanism",
            "divided by what the replies are expected to weigh",
        ),
        (
            {"weighting": "equal", "aggregation": aggregation.Median()},
            "mechanism",
            "updates are combined by Median()",
        ),
    ],
)
def test_another_plan_is_told_as_it_is(said, changed, item, words):
    assert words in said(**changed).items[item]


def test_a_secure_sum_without_noise_is_told(train):
    stages = (
        pipeline.Clip(1.0),
        pipeline.Quantize(16),
        pipeline.SecureSum(metrics="public"),
    )
    run = train(
        "masked",
        rounds=1,
        pipeline=stages,
        cap=99,
        algorithm=algorithms.FedAvg(),
        sampling=sampling.Uniform(count=5),
    )
    found = stated(run)
    assert "metrics public" in found.items["secure sum"]
    assert "sums of updates" in found.items["trust"]


def test_audits_are_told(train):
    found = stated(train("plain", rounds=1), (AuditFinding("canaries", 0.5),))
    assert found.items["audits"] == "canaries: epsilon is at least 0.5 at confidence 0.95"
