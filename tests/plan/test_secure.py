# SPDX-License-Identifier: Apache-2.0
"""A plan with SecureSum refuses what would undo it, and knows its frame."""

from dataclasses import dataclass, replace
from itertools import product

import pytest

from muster import Every, Local, Plan, algorithms, keys, pipeline, sampling
from muster.aggregation import Mean, Median
from muster.errors import PlanError
from muster.layout import Layout, TensorEntry
from muster.metrics.head import OutputHead
from muster.plan.quorum import refuse_few
from muster.plan.registry import assign, to_value
from muster.plan.secure import refused_session, session_terms
from muster.tasks.numpy import LinearRegression
from muster.types import TaskTraits

GROUPED = pipeline.SecureSum(groups=33, dropout=0.0)
STAGES = (pipeline.Clip(1.0), pipeline.Quantize(8), pipeline.SecureSum())


@dataclass(frozen=True)
class Normed:
    """A task whose model keeps running statistics."""

    framework = "custom"
    traits = TaskTraits(gradients=False)
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


def in_shares(survivors, secure=None, **fields):
    """A plan whose noise is made for so many survivors."""
    noise = pipeline.DiscreteNoise(4.0, clients=survivors)
    stages = (*STAGES[:2], noise, secure or pipeline.SecureSum())
    given = {"pipeline": stages, "aggregation": Mean("expected"), "minimum": survivors}
    return plan(**given | fields)


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


HALF = sampling.Uniform(fraction=0.5)
TOO_QUIET = [
    # survivors, SecureSum, invited: what the refusal says
    (36, {}, 40, r"a sum of fewer than 37 is never opened.* DiscreteNoise\(clients=34\)"),
    (11, {"dropout": 0.1}, 12, r"4 may work with the server.* fewer than 12 .*clients=10\)"),
    (40, {"dropout": 0.0}, 301, "more than 300 may be opened in parts.* or use LocalNoise"),
]


def enough(survivors, given, invited):
    """Return whether the plan is taken, with a draw of so many, and for a cohort of so many."""
    secure, people = pipeline.SecureSum(**given), tuple(range(invited))
    in_shares(survivors, secure, sampling=sampling.Uniform(count=invited))
    for draw in (sampling.All(), sampling.Poisson(0.5), sampling.Rotation(2), HALF):
        in_shares(survivors, secure, sampling=draw).groups(people, keys.key(0))


@pytest.mark.parametrize(("survivors", "given", "invited", "message"), TOO_QUIET)
def test_noise_whose_honest_shares_a_cohort_may_lack_is_refused(survivors, given, invited, message):
    """When the plan is built if its draw says how many it invites, else when clients are known."""
    secure = pipeline.SecureSum(**given)
    with pytest.raises(PlanError, match=message):
        in_shares(survivors, secure, sampling=sampling.Uniform(count=invited))
    for draw in (sampling.All(), sampling.Poisson(0.5), sampling.Rotation(2), HALF):
        made = in_shares(survivors, secure, sampling=draw)
        with pytest.raises(PlanError, match=message):
            made.groups(tuple(range(invited)), keys.key(0))
    with pytest.raises(
        PlanError, match=r"no round can ever count.* (opened in parts|never opened)"
    ):
        refuse_few(in_shares(survivors, secure), tuple(map(str, range(invited))))


@pytest.mark.parametrize(
    ("survivors", "given", "invited"),
    [
        (34, {}, 40),
        (36, {"dropout": 0.075}, 40),
        (36, {"corrupt": 0.0}, 40),
        (3, {}, 4),
        (200, {}, 300),
    ],
)
def test_and_where_they_are_there_it_is_taken(survivors, given, invited):
    enough(survivors, given, invited)


def test_the_fewest_survivors_hold_the_shares_that_are_charged_for_and_no_fewer_would():
    """All colluders of the cohort may be among the survivors: counted out for every cohort."""
    thirds = (0.0, 0.1, 0.2, 1 / 3, 0.45)
    tried = 0
    for corrupt, survivors in product(thirds, range(2, 31)):
        made = in_shares(survivors, pipeline.SecureSum(corrupt=corrupt, dropout=0.0))
        (release,) = made.stages.releases()
        charged = survivors - release.known
        for invited in range(3, 41):
            if refused_session(made, invited):
                continue
            about = {"study": "", "run": "", "round": 0, "plan": bytes(32), "model": bytes(32)}
            least = session_terms(made, invited, **about).minimum
            known = max(1, sum(i <= corrupt * invited + 1e-9 for i in range(1, invited + 1)))
            honest = [left - min(known, left) for left in range(least, invited + 1)]
            assert min(honest) >= charged
            assert least == max(3, survivors, charged + known), "nor is a sum given up for nothing"
            tried += 1
    assert tried > 2000


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
