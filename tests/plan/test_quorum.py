# SPDX-License-Identifier: Apache-2.0
"""Replies that a round needs, and which plans, over which clients, can never have them."""

import pytest

from muster import Every, Local, Plan, aggregation, algorithms, pipeline, sampling
from muster.errors import PlanError
from muster.plan.quorum import fewest, refuse_few, shortage
from muster.tasks.numpy import LinearRegression

SECURE = {
    "pipeline": [pipeline.Clip(1.0), pipeline.Quantize(16), pipeline.SecureSum()],
    "weighting": "equal",
    "evaluate": Every(clients=0),
}


def plan(**fields):
    given = {
        "task": LinearRegression(3),
        "algorithm": algorithms.FedAvg(),
        "local": Local(epochs=1, batch=4),
    }
    return Plan(**given | fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"minimum": 5, "sampling": sampling.Uniform(count=4)},
            r"needs 5 replies, and Uniform\(.*count=4\) invites at most 4; lower minimum",
        ),
        (
            {"minimum": 5, "sampling": sampling.Uniform(count=4), "overselect": 1.5},
            r"invites at most 6, of which the first 4 replies are taken",
        ),
        (
            {"minimum": 5, "sampling": sampling.Weighted(count=4), "weighting": "equal"},
            "invites at most 4",
        ),
    ],
)
def test_a_plan_whose_rounds_never_count_is_refused_when_it_is_made(fields, message):
    with pytest.raises(PlanError, match=message):
        plan(**fields)


@pytest.mark.parametrize(
    ("fields", "enough"),
    [
        ({}, 1),
        ({"minimum": 10}, 10),
        ({"minimum": 0.5}, 1),
        ({"minimum": 3, "sampling": sampling.Uniform(fraction=0.1)}, 26),
        ({"minimum": 4, "sampling": sampling.Uniform(count=4)}, 4),
        ({"sampling": sampling.Uniform(count=4), "overselect": 1.5}, 6),
        ({"minimum": 3, "sampling": sampling.Poisson(0.01)}, 3),
        ({"minimum": 3, "sampling": sampling.Rotation(9)}, 3),
        ({"minimum": 3, "sampling": sampling.Weighted(9), "weighting": "equal"}, 3),
        ({"aggregation": aggregation.TrimmedMean(2), "weighting": "equal"}, 5),
    ],
)
def test_how_many_must_be_there(fields, enough):
    made = plan(**fields)
    assert fewest(made) == enough
    found = [bool(shortage(made, n)) for n in (enough - 1, enough, 2 * enough)]
    assert found == [True, False, False]


def test_as_many_as_a_secure_sum_hides():
    pytest.importorskip("cryptography")
    made = plan(**SECURE)
    assert fewest(made) == 3
    assert "at least 3 are required" in shortage(made, 2)


def test_a_plan_for_nobody_is_refused():
    with pytest.raises(PlanError, match="no number of clients would do"):
        fewest(plan(minimum=2**21))


def test_the_sentence_names_who_is_there_and_how_many_are_missing():
    with pytest.raises(
        PlanError, match=r"the 2 clients there are \('a', 'b'\).*8 more are missing"
    ):
        refuse_few(plan(minimum=10), ["a", "b"])
    with pytest.raises(PlanError, match=r"7 clients .*0, 1, 2, 3, 4 and 2 more\).*1 more is miss"):
        refuse_few(plan(minimum=8), range(7))
    refuse_few(plan(minimum=8), range(8))
