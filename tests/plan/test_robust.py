# SPDX-License-Identifier: Apache-2.0
"""A plan with a rule refuses what the rule could not judge."""

import pytest

from muster import Every, Local, Plan, algorithms, pipeline, sampling
from muster.aggregation import Mean, Median, TrimmedMean
from muster.errors import PlanError
from muster.plan.registry import assign, to_value
from muster.tasks.numpy import LinearRegression

STAGES = (pipeline.Clip(1.0), pipeline.Quantize(8))


def plan(**fields):
    given = {
        "task": LinearRegression(3),
        "algorithm": algorithms.FedAvg(),
        "local": Local(steps=2),
        "aggregation": TrimmedMean(1),
        "evaluate": Every(clients=0),
        "weighting": "equal",
    }
    return Plan(**given | fields)


def masked(groups):
    secure = pipeline.SecureSum(groups=groups, corrupt=0.05, dropout=0.0)
    return {"pipeline": (*STAGES, secure)}


REFUSED = [
    (masked(1), r"shows 1; give SecureSum\(groups=\.\.\.\) of at least 3, or use Mean"),
    (masked(2), r"shows 2; give SecureSum\(groups=\.\.\.\) of at least 3"),
    ({"sampling": sampling.Weighted(count=5)}, "counts each client once"),
    ({"weighting": "examples"}, r"whatever rows it claims; use Plan\(weighting='equal'\)"),
    ({"sampling": sampling.Uniform(count=2)}, "needs 3 replies, and .* invites fewer"),
    ({"pipeline": [pipeline.AdaptiveClip()]}, "learns from the sum of all"),
    ({"pipeline": [pipeline.Clip(1.0), pipeline.Noise(1.0)]}, "denominator='expected'"),
    (
        masked(4) | {"sampling": sampling.Uniform(count=11)},
        "2 clients are in one of 4 groups and at least 3 are required",
    ),
    (
        {
            "aggregation": Mean("expected"),
            "minimum": 20,
            "pipeline": (
                *STAGES,
                pipeline.DiscreteNoise(1.0, clients=30, dropout=1 / 3),
                pipeline.SecureSum(groups=3),
            ),
        },
        r"one sum of all, and SecureSum\(groups=3\) opens several",
    ),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED)
def test_a_plan_refuses(fields, message):
    with pytest.raises(PlanError, match=message):
        plan(**fields)


ALLOWED = [
    {},
    {"aggregation": Median(), **masked(2)},
    masked(3) | {"weighting": "examples", "cap": 9},
    masked(4) | {"sampling": sampling.Uniform(count=12)},
    masked(3) | {"algorithm": algorithms.Scaffold()},
    {"pipeline": [pipeline.Clip(1.0), pipeline.LocalNoise(2.0, 1e-5)]},
    masked(3) | {"aggregation": Mean()},
]


@pytest.mark.parametrize("fields", ALLOWED)
def test_a_plan_may(fields):
    assert plan(**fields).needs_individual_replies


def test_a_mean_of_plain_replies_needs_none_apart():
    assert not plan(aggregation=Mean()).needs_individual_replies


def test_it_is_recorded_and_set_from_a_shell():
    found = assign(plan(), "aggregation=TrimmedMean(2)")
    assert found.aggregation == TrimmedMean(2)
    assert to_value(found)["aggregation"]["f"] == 2


def test_enough_are_replies_and_parts():
    found = plan(minimum=4)
    assert found.has_quorum(4, 3, 9)
    assert not found.has_quorum(3, 3, 9)
    assert not found.has_quorum(4, 2, 9)
