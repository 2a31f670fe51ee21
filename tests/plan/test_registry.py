# SPDX-License-Identifier: Apache-2.0
"""A plan as plain data: recorded, compared, set from a shell, and known by its fingerprint."""

import json
import re
import sys
import tomllib
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster import (
    Every,
    Keep,
    Local,
    Plan,
    Target,
    algorithms,
    metrics,
    optimizers,
    pipeline,
    sampling,
    schedules,
)
from muster.errors import PlanError
from muster.layout import Layout, TensorEntry
from muster.metrics.head import OutputHead
from muster.plan.registry import (
    assign,
    differences,
    fingerprint,
    from_text,
    from_value,
    irreversible,
    to_toml,
    to_value,
)
from muster.tasks.numpy import MLP, LinearRegression
from muster.types import TaskTraits

LAYOUT = Layout((TensorEntry("w", (2,)),))


def loss(z, y):
    return z - y


@dataclass(frozen=True)
class Theirs:
    """A user's task that holds a function."""

    loss: Any
    framework = "custom"
    traits = TaskTraits(gradients=False)
    layout = LAYOUT
    head = OutputHead("none")


def plan(**fields):
    given = {
        "task": LinearRegression(3),
        "algorithm": algorithms.FedProx(mu=0.5),
        "local": Local(epochs=1, batch=4),
        "pipeline": [pipeline.Clip(1.0)],
        "stop": [Target("loss", 0.1)],
    }
    return Plan(**given | fields)


def test_a_value_is_class_names_and_fields():
    value = to_value(plan())
    assert value["class"] == "Plan"
    assert value["algorithm"] == {
        "class": "FedProx",
        "mu": 0.5,
        "server": {"class": "SGD", "rate": 1.0},
    }
    assert value["task"]["class"] == "tasks.numpy.LinearRegression"
    assert value["pipeline"] == [{"class": "Clip", "bound": 1.0}]
    assert value["local"]["steps"] is None
    assert set(value) == {"class"} | {f.name for f in fields(Plan)}
    assert json.loads(json.dumps(value)) == value


def test_functions_and_classes_of_a_user_are_named_by_module():
    value = to_value(Theirs(loss))
    assert value["class"] == f"{__name__}:Theirs"
    assert value["loss"] == f"{__name__}:loss"
    assert to_value({1: (None, True)}) == {"1": [None, True]}


def test_functions_that_no_name_finds_are_known_by_their_tree_and_what_is_around_them():
    made = to_value(Theirs((lambda h: lambda z: z + h)(3)))["loss"]
    assert made["class"] == "function" and made["closure"] == {"h": 3}
    assert len(made["code"]) == 64
    assert to_value(Theirs({2, 1}))["loss"] == {"class": "set", "items": [1, 2]}


def test_toml_says_the_same_without_the_nones():
    found = tomllib.loads(to_toml(plan(share=["weight"])))
    assert found["algorithm"]["mu"] == 0.5
    assert found["share"] == ["weight"]
    assert "steps" not in found["local"]
    assert found["stop"] == [{"class": "Target", "metric": "loss", "value": 0.1}]


def test_differences_name_the_fields():
    old = plan()
    new = replace(old, rounds=3, algorithm=algorithms.FedProx(mu=0.25), pipeline=())
    assert differences(to_value(old), to_value(new)) == [
        ("algorithm.mu", 0.5, 0.25),
        ("pipeline", [{"class": "Clip", "bound": 1.0}], []),
        ("rounds", 10, 3),
    ]
    assert differences(to_value(old), to_value(plan())) == []


def test_another_class_differs_as_a_whole():
    found = differences(to_value(plan()), to_value(plan(algorithm=algorithms.FedAvg())))
    assert [name for name, *_ in found] == ["algorithm"]
    assert differences({"a": 1}, {"b": 2}) == [("a", 1, None), ("b", None, 2)]


CHANGES = {
    "task": LinearRegression(4),
    "algorithm": algorithms.FedAvg(),
    "local": Local(steps=1),
    "sampling": sampling.Poisson(0.5),
    "pipeline": (),
    "weighting": "equal",
    "share": "weight",
    "seed": 1,
    "dtype": "float64",
    "minimum": 2,
    "deadline": 9.5,
    "cap": 9,
    "metrics": (metrics.MAE(),),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_fingerprint_changes_with_a_field(name):
    assert fingerprint(replace(plan(), **{name: CHANGES[name]})) != fingerprint(plan())


@pytest.mark.parametrize(
    "change",
    [{"rounds": 99}, {"stop": ()}, {"evaluate": Every(5)}, {"keep": Keep("loss", 2)}],
    ids=str,
)
def test_what_may_change_on_resume_stays_outside(change):
    assert fingerprint(replace(plan(), **change)) == fingerprint(plan())


def test_every_field_is_inside_or_outside():
    inside = set(CHANGES) | {"aggregation", "overselect"}
    assert inside | {"rounds", "stop", "evaluate", "budget", "keep"} == {
        f.name for f in fields(Plan)
    }


def test_the_fingerprint_changes_with_the_source_of_its_functions(tmp_path, monkeypatch):
    found = []
    monkeypatch.syspath_prepend(tmp_path)
    for number in range(2):
        name = f"planned_{number}"
        (tmp_path / f"{name}.py").write_text(f"def loss(z, y):\n    return {number}\n")
        module = __import__(name)
        monkeypatch.setitem(sys.modules, "planned", module)
        module.loss.__module__ = "planned"
        found.append(fingerprint(plan(task=Theirs(module.loss), algorithm=algorithms.FedAvg())))
    assert found[0] != found[1]


SETTINGS = [
    ("algorithm.mu=0.25", lambda p: p.algorithm.mu, 0.25),
    ("algorithm.mu=1", lambda p: p.algorithm.mu, 1),
    (" rounds = 3 ", lambda p: p.rounds, 3),
    ("dtype=float64", lambda p: p.task.dtype, "float64"),
    ("weighting='equal'", lambda p: p.weighting, "equal"),
    ("cap=100", lambda p: p.cap, 100),
    ("local.batch=None", lambda p: p.local.batch, None),
    (
        "local.optimizer=Momentum(0.1, beta=0.5)",
        lambda p: p.local.optimizer,
        optimizers.Momentum(0.1, 0.5),
    ),
    ("local.schedule=Milestones([2, 4])", lambda p: p.local.schedule, schedules.Milestones((2, 4))),
    (
        "algorithm=FedAvg(server=Adam(0.01))",
        lambda p: p.algorithm,
        algorithms.FedAvg(server=optimizers.Adam(0.01)),
    ),
    ("algorithm.server.rate=0.5", lambda p: p.algorithm.server.rate, 0.5),
    (
        "sampling=sampling.Uniform(fraction=0.5)",
        lambda p: p.sampling,
        sampling.Uniform(fraction=0.5),
    ),
    ("pipeline=[]", lambda p: p.pipeline, ()),
    ("pipeline=[Clip(2.0), Quantize(8, range=1.0)]", lambda p: len(p.pipeline), 2),
    ("share=weight", lambda p: p.share, "weight"),
    ("share=!bias", lambda p: p.share, "!bias"),
    ("share=['weight', 'bias']", lambda p: p.share, ("weight", "bias")),
    ("task.l2=0.5", lambda p: p.task.l2, 0.5),
]


@pytest.mark.parametrize(("setting", "read", "value"), SETTINGS, ids=[s for s, *_ in SETTINGS])
def test_any_field_can_be_set_from_a_shell(setting, read, value):
    before = plan()
    changed = assign(before if "Quantize" not in setting else plan(cap=9), setting)
    assert read(changed) == value
    assert before == plan()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("algorithm.mu", "write field=value, such as algorithm.mu=0.5"),
        ("algorithm.nu=1", "FedProx has no field 'nu'; it has mu, server"),
        ("algoritm.mu=1", "Plan has no field 'algoritm'; did you mean algorithm"),
        ("rounds.mu=1", "10 has no fields to set; shorten the name"),
        ("=1", "Plan has no field ''"),
        ("rounds=None", "rounds is 10; give a value of that kind"),
        ("rounds=many", "rounds is 10; give a value of that kind"),
        ("algorithm=0.5", "give a value of that kind"),
        ("algorithm=FedPox(mu=1)", "unknown class 'FedPox'; did you mean FedProx"),
        ("algorithm=FedProx(nu=1)", "there is no nu; FedProx takes mu, server"),
        ("algorithm=FedProx(mu='x')", "see the fields of FedProx"),
        ("algorithm=FedProx", "FedProx is a class; write it as a call"),
        ("algorithm=SGD(0.1)", "that is no Algorithm"),
        ("algorithm.mu=-1", "mu must be finite, at least 0"),
        ("sampling=Uniform(fraction=2)", r"must lie in \(0, 1\]"),
        ("rounds=0", "a whole number above 0 is needed"),
        ("weighting=rows", "use 'examples' or 'equal'"),
        ("cap=1 + 1", "is not a value"),
        ("cap=open('x')", "unknown class 'open'"),
        ("cap=__import__('os').getcwd()", "unknown class 'getcwd'"),
    ],
)
def test_a_wrong_setting_is_refused_in_a_sentence(setting, message):
    with pytest.raises(PlanError, match=message):
        assign(plan(), setting)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-1e-3", -0.001),
        ("True", True),
        ("None", None),
        ("'3'", "3"),
        (" word ", "word"),
        ("layers.0.weight", "layers.0.weight"),
        ("body.weight", "body.weight"),
        ("!*.bn.*", "!*.bn.*"),
        ("body.*", "body.*"),
        ("(1, [2, 'x'])", (1, (2, "x"))),
        ("", ""),
    ],
)
def test_text_is_a_literal_or_a_word(text, value):
    assert from_text(text) == value


VALUES = st.one_of(
    st.builds(optimizers.SGD, st.floats(1e-6, 10)),
    st.builds(optimizers.Adam, st.floats(1e-6, 10), st.floats(0, 0.99)),
    st.builds(algorithms.FedProx, st.floats(0, 10), st.builds(optimizers.SGD)),
    st.builds(sampling.Uniform, count=st.integers(1, 99)),
    st.builds(pipeline.Quantize, st.integers(2, 32)),
    st.builds(Local, steps=st.integers(1, 9), batch=st.none() | st.integers(1, 9)),
)


@given(VALUES)
def test_what_a_value_prints_builds_it_again(value):
    assert from_text(repr(value)) == value


def test_a_nested_tuple_survives():
    made = plan(task=MLP([3, 4, 2]), algorithm=algorithms.FedAvg())
    assert to_value(made)["task"]["sizes"] == [3, 4, 2]


KINDS = {"tasks.numpy.LinearRegression": LinearRegression, "tasks.numpy.MLP": MLP}


def travelled(thing):
    return json.loads(json.dumps(to_value(thing)))


@given(VALUES)
def test_a_value_is_read_back(value):
    assert from_value(travelled(value)) == value


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {
            "task": MLP((3, 4, 2)),
            "share": ("layers.0.*", "!*.bias"),
            "algorithm": algorithms.FedAvg(),
        },
        {"pipeline": [pipeline.Clip(1.0), pipeline.Noise(0.5)], "weighting": "equal", "stop": []},
        {"sampling": sampling.Uniform(fraction=0.3), "overselect": 1.5, "minimum": 0.5},
        {"sampling": sampling.Rotation(3), "keep": Keep(best="loss", every=2), "cap": 9},
        {"local": Local(steps=2, schedule=schedules.Milestones((2, 5), 0.5)), "seed": 7},
        {"metrics": [metrics.MAE()], "evaluate": Every(3, clients=None), "deadline": 2.5},
    ],
    ids=str,
)
def test_a_plan_is_read_back_with_its_fingerprint(fields):
    made = plan(**fields)
    again = from_value(travelled(made), KINDS)
    assert again == made and fingerprint(again) == fingerprint(made)
    assert again.aggregation == made.aggregation
    assert irreversible(made, KINDS) == ""


def scored(outputs, y):
    return outputs - y


@dataclass(frozen=True)
class Mine(sampling.Sampler):
    """A sampler of a user's own."""

    traits = sampling.SamplerTraits()

    def sample(self, roster, state, round, key, losses=None):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (
            lambda: plan(task=Theirs(loss), algorithm=algorithms.FedAvg()),
            r"plan\.task: '.*Theirs' is not built from a value",
        ),
        (lambda: plan(sampling=Mine()), r"plan\.sampling: '.*Mine' is not built from a value"),
        (lambda: plan(metrics=[metrics.ByRow(scored, True)]), r"plan\.metrics\[0\]|another plan"),
    ],
)
def test_a_plan_that_needs_a_users_code_is_not(made, said):
    with_code = made()
    assert re.search(said, irreversible(with_code, KINDS))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"class": "os.system"}, "'os.system' is not built"),
        ({"class": "FedAdam"}, "'FedAdam' is not built"),  # a recipe: what it makes has a class
        ({"class": ["SGD"]}, "is not built"),
        ({"sgd": 1}, "None is not built"),
        ({"class": "SGD", "rate": {"class": "function", "name": "m:f"}}, r"plan\.rate: 'function'"),
        ({"class": "SGD", "lr": 1.0}, "lr"),
        ({"class": "Uniform", "count": -3}, "whole number"),
    ],
)
def test_a_value_of_something_else_is_refused(value, said):
    with pytest.raises(PlanError, match=said):
        from_value(value)
