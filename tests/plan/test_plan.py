# SPDX-License-Identifier: Apache-2.0
"""A plan is checked when it is built: what it refuses, what it derives, when it says stop."""

import math
from dataclasses import FrozenInstanceError, dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster import (
    EarlyStopping,
    Every,
    Local,
    Plan,
    Target,
    aggregation,
    algorithms,
    optimizers,
    pipeline,
    sampling,
)
from muster.errors import PlanError
from muster.layout import Layout, TensorEntry
from muster.metrics.head import OutputHead
from muster.tasks.numpy import MLP, LinearRegression
from muster.types import TaskTraits

LOWER = {"accuracy": False, "loss": True, "perplexity": True}

TASK = LinearRegression(3)


@dataclass(frozen=True)
class Own:
    """A task with its own fit."""

    framework = "custom"
    traits = TaskTraits(gradients=False)
    layout = Layout((TensorEntry("w", (2,)),))
    head = OutputHead("none")


class Mute:
    """A task that does not say what its outputs are."""

    framework = "custom"
    traits = TaskTraits(gradients=False)
    layout = Own.layout

    def __repr__(self):
        return "Mute()"


def test_a_task_says_what_its_outputs_are():
    with pytest.raises(PlanError, match=r"Plan\(task=Mute\(\)\): it does not say .*Head\('own'\)"):
        plan(task=Mute())


def plan(**fields):
    given = {"task": TASK, "algorithm": algorithms.FedAvg(), "local": Local(steps=2)}
    return Plan(**given | fields)


MOMENTUM = Local(steps=2, optimizer=optimizers.Momentum(0.1))
ADAM = Local(steps=2, optimizer=optimizers.Adam(0.1))
QUANTIZED = (pipeline.Clip(1.0), pipeline.Quantize(8))

REFUSED = [
    ({"algorithm": algorithms.FedAvg}, r"Plan.algorithm=.*that is no Algorithm.*forget to call it"),
    ({"algorithm": "FedAvg"}, "that is no Algorithm"),
    ({"local": Local}, "that is no Local"),
    ({"evaluate": 5}, "that is no Every"),
    ({"task": LinearRegression}, "that is no task"),
    ({"task": 3}, "that is no task"),
    ({"sampling": sampling.All}, "that is no Sampler"),
    ({"sampling": 0.1}, "that is no Sampler"),
    ({"aggregation": aggregation.Mean}, "that is no aggregation"),
    ({"aggregation": "mean"}, "that is no aggregation"),
    ({"pipeline": pipeline.Clip(1.0)}, r"Plan.pipeline=Clip.*a list is needed; put \[ \] around"),
    ({"stop": Target("loss", 0.1)}, r"a list is needed; put \[ \] around it"),
    ({"pipeline": [pipeline.Clip]}, r"pipeline\[0\] is .* give stages such as Clip"),
    ({"rounds": 0}, r"Plan.rounds=0.: a whole number above 0 is needed"),
    ({"rounds": 2.5}, "a whole number above 0 is needed"),
    ({"minimum": 0}, "a whole number above 0, or a fraction"),
    ({"minimum": 1.5}, "a whole number above 0, or a fraction"),
    ({"minimum": True}, "a whole number above 0, or a fraction"),
    ({"deadline": 0}, "seconds above 0"),
    ({"overselect": 0.5}, "a factor from 1.0 up"),
    ({"overselect": 2.0}, "has no number of clients to draw more of"),
    ({"seed": -1}, "a whole number from 0 up is needed"),
    ({"seed": 0.5}, "a whole number from 0 up is needed"),
    ({"weighting": "rows"}, "use 'examples' or 'equal'"),
    ({"dtype": "float16"}, "use 'float32' or 'float64'"),
    ({"cap": 0}, "a number of rows above 0 is needed"),
    ({"share": "tail.*"}, r"'tail\.\*' matches none .*use names such as weight, bias"),
    ({"sampling": sampling.Weighted(3)}, r"count size twice; use Plan\(weighting='equal'\)"),
    ({"algorithm": algorithms.FedDyn()}, r"needs equal weights.*use Plan\(weighting='equal'\)"),
    ({"algorithm": algorithms.Scaffold(), "local": MOMENTUM}, r"use Local\(optimizer=SGD"),
    ({"algorithm": algorithms.FedSGD()}, r"use Local\(steps=1, batch=None"),
    ({"algorithm": algorithms.FedSGD(), "local": Local(epochs=2)}, r"use Local\(steps=1"),
    ({"algorithm": algorithms.FedNova(), "local": ADAM}, "use SGD or Momentum"),
    ({"task": Own(), "algorithm": algorithms.FedProx()}, "bends every local gradient.*use FedAvg"),
    ({"pipeline": QUANTIZED}, r"largest weight; give Plan\(cap=rows\)"),
    ({"pipeline": QUANTIZED[::-1]}, r"Clip\(bound\) before it"),
    (
        {"pipeline": QUANTIZED, "weighting": "equal", "sampling": sampling.Weighted(3)},
        r"may draw a client twice .* use Uniform\(count=...\)",
    ),
    (
        {
            "algorithm": algorithms.Scaffold(),
            "weighting": "equal",
            "sampling": sampling.Weighted(3),
        },
        r"may draw a client twice .* use Uniform\(count=...\)",
    ),
    (
        {
            "aggregation": aggregation.Mean("expected"),
            "weighting": "equal",
            "sampling": sampling.Weighted(3),
        },
        r"use Mean\(denominator='replies'\)",
    ),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_run_is_refused_with_the_remedy(fields, message):
    with pytest.raises(PlanError, match=message):
        plan(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"sampling": sampling.Weighted(3), "weighting": "equal"},
        {"sampling": sampling.Poisson(0.1), "aggregation": aggregation.Mean("expected")},
        {"pipeline": QUANTIZED, "cap": 50},
        {"pipeline": QUANTIZED, "weighting": "equal"},
        {"pipeline": [pipeline.Quantize(8, range=1.0)], "cap": 50},
        {"algorithm": algorithms.FedDyn(), "weighting": "equal"},
        {"algorithm": algorithms.FedSGD(), "local": Local(epochs=1)},
        {"algorithm": algorithms.FedNova(), "local": MOMENTUM},
        {"task": Own()},
        {"task": Own(), "algorithm": algorithms.FedNova()},
        {"share": "!*"},
    ],
)
def test_what_can_run_is_accepted(fields):
    assert plan(**fields) == plan(**fields)


def test_a_plan_is_a_frozen_value_and_lists_become_tuples():
    made = plan(pipeline=[pipeline.Clip(1.0)], stop=[Target("loss", 0.1)], share=["weight"])
    assert (made.pipeline, made.share) == ((pipeline.Clip(1.0),), ("weight",))
    assert made.stop == (Target("loss", 0.1),)
    assert hash(made) == hash(replace(made))
    with pytest.raises(FrozenInstanceError):
        made.rounds = 3


def test_the_dtype_reaches_the_task():
    assert plan().task.layout.dtype == "float32"
    made = plan(dtype="float64")
    assert made.task == LinearRegression(3, dtype="float64")
    assert replace(made, dtype="float32").task == TASK
    assert TASK.dtype == "float32"


@pytest.mark.parametrize(
    ("fields", "fusible"),
    [
        ({}, True),
        ({"algorithm": algorithms.FedNova()}, True),
        ({"algorithm": algorithms.FedProx()}, False),
        ({"algorithm": algorithms.Scaffold()}, False),
        ({"local": MOMENTUM}, False),
    ],
)
def test_only_plain_gradients_are_fused(fields, fusible):
    made = plan(**fields)
    assert made.fusible == fusible
    assert made.descent("fused").fused == fusible
    assert not made.descent("matrix").fused


@pytest.mark.parametrize(
    ("fields", "remembers"),
    [
        ({}, False),
        ({"algorithm": algorithms.Scaffold()}, True),
        ({"share": "weight"}, True),
        ({"pipeline": [pipeline.Clip(1.0)]}, False),
        ({"pipeline": [pipeline.Quantize(8, 1.0, feedback=True)], "cap": 9}, True),
    ],
)
def test_memory_is_kept_by_algorithms_feedback_and_private_parts(fields, remembers):
    assert plan(**fields).remembers == remembers


def test_fresh_memory_holds_each_part():
    x, stages = np.arange(4.0), [pipeline.Quantize(8, 1.0, feedback=True)]
    made = plan(algorithm=algorithms.Scaffold(), share="weight", pipeline=stages, cap=9)
    memory = made.fresh_memory(x, np.zeros(0))
    assert memory.algorithm.tolist() == [0, 0, 0]
    assert memory.stages[0]["control"].shape == (3,)
    assert memory.private.tolist() == [3.0]
    assert plan(algorithm=algorithms.Scaffold()).fresh_memory(x, np.zeros(0)).private is None


@pytest.mark.parametrize(
    ("fields", "weights"),
    [
        ({}, [3, 20, 100]),
        ({"weighting": "equal"}, [1, 2, 1]),
        ({"cap": 9}, [3, 18, 9]),
        ({"weighting": "equal", "cap": 9}, [1, 2, 1]),
    ],
)
def test_weights_are_rows_up_to_the_cap_times_how_often_drawn(fields, weights):
    assert plan(**fields).weights(np.array([3, 10, 100]), (1, 2, 1)).tolist() == weights


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({}, 4 * 4),
        ({"dtype": "float64"}, 8 * 4),
        ({"algorithm": algorithms.Scaffold()}, 2 * 4 * 4),
        ({"algorithm": algorithms.FedNova()}, 4 * 4 + 4),
        ({"share": "weight"}, 4 * 3),
        ({"pipeline": QUANTIZED, "cap": 9}, 4),
        ({"pipeline": [pipeline.AdaptiveClip()]}, 4 * 4 + 4),
    ],
)
def test_bytes_up_follow_the_contract(fields, size):
    assert plan(**fields).upload_bytes() == size


def test_patterns_are_matched_to_the_names_of_the_task():
    made = plan(task=MLP([4, 3, 2]), share="!layers.1.*")
    assert made.sharing.take(np.arange(23)).tolist() == list(range(15))


@given(st.integers(1, 9), st.integers(1, 40))
def test_evaluation_is_due_every_so_often_and_after_the_last(every, last):
    due = [r for r in range(1, last + 1) if Every(every).due(r, last)]
    assert due == sorted({*range(every, last + 1, every), last})


@pytest.mark.parametrize("fields", [{"rounds": 0}, {"clients": -1}])
def test_impossible_evaluation_is_refused(fields):
    with pytest.raises(PlanError, match="rounds must be at least 1, clients at least 0 or None"):
        Every(**fields)
    assert Every(clients=None).clients is None


@pytest.mark.parametrize(
    ("metric", "value", "seen", "met"),
    [
        ("accuracy", 0.9, [0.95, 0.89], False),
        ("accuracy", 0.9, [0.5, 0.9], True),
        ("loss", 0.5, [0.4, 0.6], False),
        ("loss", 0.5, [0.6, 0.5], True),
        ("perplexity", 1.2, [1.6], False),  # no word in the name says that less is better
        ("perplexity", 1.2, [1.1], True),
        ("accuracy", 0.9, [math.nan], False),
        ("loss", 0.9, [math.nan], False),
        ("accuracy", 0.9, [], False),
    ],
)
def test_a_target_is_met_by_the_last_evaluation(metric, value, seen, met):
    assert Target(metric, value).met([{metric: v} for v in seen], LOWER) == met


@pytest.mark.parametrize(
    ("metric", "seen", "stops"),
    [
        ("loss", [3, 2, 1, 1, 1], 5),  # two evaluations after the best, equal is no improvement
        ("loss", [3, 4, 2, 4, 3, 1], 5),
        ("loss", [5, 4, 3, 2, 1], None),
        ("accuracy", [1, 2, 3, 2, 1], 5),
        ("accuracy", [1, 2, 1, 3, 1], None),
        ("accuracy", [3, 2, 1], 3),
        ("perplexity", [9, 8, 7, 6], None),
        ("loss", [math.nan, 8, 7, 6], None),  # a NaN is never the best
        ("loss", [8, math.nan, math.nan], 3),  # and no improvement
        ("loss", [math.nan, math.nan, math.nan], 3),
    ],
)
def test_early_stopping_ends_after_so_many_evaluations_without_a_better_one(metric, seen, stops):
    records = [{metric: v, "rows": 1} for v in seen]
    met = [n for n in range(len(seen) + 1) if EarlyStopping(metric, 2).met(records[:n], LOWER)]
    assert (met[0] if met else None) == stops
