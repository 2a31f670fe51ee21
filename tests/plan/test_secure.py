# SPDX-License-Identifier: Apache-2.0
"""A plan with SecureSum refuses what would undo it, and knows its frame."""

from dataclasses import dataclass, replace

import pytest

from muster import Every, Local, Plan, algorithms, pipeline, sampling
from muster.aggregation import Mean, Median
from muster.errors import PlanError
from muster.layout import Layout, TensorEntry
from muster.metrics.head import OutputHead
from muster.plan.registry import assign, to_value
from muster.tasks.numpy import LinearRegression

GROUPED = pipeline.SecureSum(groups=33, dropout=0.0)
STAGES = (pipeline.Clip(1.0), pipeline.Quantize(8), pipeline.SecureSum())


@dataclass(frozen=True)
class Normed:
    """A task whose model keeps running statistics."""

    framework = "custom"
    layout = Layout((TensorEntry("w", (2,)), TensorEntry("bn.mean", (3,), kind="buffer")))
    head = OutputHead("none")


def plan(**fields):
    given = {
        "task": LinearRegression(3),
        "algorithm": algorithms.FedAvg(),
        "local": Local(steps=2),
        "pipeline": STAGES,
        "evaluate": Every(clients=0),
        "weighting": "equal",
    }
    return Plan(**given | fields)


ROWS = {"weighting": "examples", "cap": 50}
REFUSED = [
    ({"aggregation": Median()}, r"looks at every reply, and SecureSum\(groups=1\) shows 1; give"),
    ({"task": Normed()}, r"3 averaged buffers .* in the clear; .*share='!\*.bn\*'"),
    ({"sampling": sampling.Weighted(count=5)}, r"may draw a client twice"),
    (
        {"algorithm": algorithms.Scaffold(), **ROWS},
        r"all clients' rows.* use Plan\(weighting='equal'",
    ),
    ({"aggregation": Mean("expected"), **ROWS}, "all clients' rows .* or denominator='replies'"),
    ({"evaluate": Every()}, r"use Plan\(evaluate=Every\(clients=0\)\), or .*metrics='public'"),
    ({"sampling": sampling.Uniform(count=2)}, "2 clients were invited and at least 3 are required"),
    ({"sampling": sampling.Uniform(count=4), "minimum": 5}, "4 clients .* at least 5 are required"),
    ({"sampling": sampling.Uniform(count=70_000)}, "cohort ≤ 65520"),
    ({"algorithm": algorithms.FedNova()}, "cannot mask norm"),
    ({"weighting": "examples"}, r"largest weight; give Plan\(cap=rows\)"),
    ({"pipeline": (*STAGES, pipeline.SecureSum())}, "one such stage is enough"),
    ({"share": "!*"}, "is no field"),
    (
        {"sampling": sampling.Uniform(count=100), "pipeline": (*STAGES[:2], GROUPED)},
        r"SecureSum\(groups=33\) of 100 clients, 33 of whom may work with the server",
    ),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED)
def test_a_plan_refuses(fields, message):
    with pytest.raises(PlanError, match=message):
        plan(**fields)


ALLOWED = [
    {},
    ROWS,
    {"task": Normed(), "share": "!bn*"},
    {"algorithm": algorithms.Scaffold()},
    {"aggregation": Mean("expected"), "sampling": sampling.Poisson(rate=0.5)},
    {"pipeline": (*STAGES[:2], pipeline.SecureSum(metrics="public")), "evaluate": Every()},
    {"sampling": sampling.Uniform(fraction=0.1)},
]


@pytest.mark.parametrize("fields", ALLOWED)
def test_a_plan_may(fields):
    found = plan(**fields)
    assert isinstance(found.secure, pipeline.SecureSum)
    assert found.frame.cap == (50 if found.weighting == "examples" else 1)


def test_a_ring_too_narrow_is_refused_when_the_plan_is_built():
    """Only values far wider than Quantize makes can be: those of a stage of somebody's own."""

    @dataclass(frozen=True)
    class Wide(pipeline.Quantize):
        def accept(self, contract):
            out = super().accept(contract)
            return replace(out, fields=tuple(f._replace(bits=60) for f in out.fields))

    stages = (pipeline.Clip(1.0), Wide(8), pipeline.SecureSum())
    with pytest.raises(PlanError, match=r"need 7. bits; secure aggregation sums in 1 to 64"):
        plan(pipeline=stages, sampling=sampling.Uniform(count=5000))


def test_without_it_there_is_no_frame():
    found = plan(pipeline=STAGES[:2])
    assert found.secure is None
    with pytest.raises(PlanError, match=r"masks nothing; put SecureSum\(\) last"):
        _ = found.frame


def test_it_is_recorded_and_set_from_a_shell():
    found = assign(plan(), "pipeline=[Clip(1.0), Quantize(12), SecureSum(minimum=5)]")
    assert found.secure == pipeline.SecureSum(minimum=5)
    assert to_value(found)["pipeline"][2]["minimum"] == 5


def test_bytes_on_the_wire_grow_with_the_cohort():
    assert plan().upload_bytes(1000) > plan().upload_bytes(3) > 0
