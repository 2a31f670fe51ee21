# SPDX-License-Identifier: Apache-2.0
"""A reply that no honest client of the plan sends is known by its numbers; honest ones pass."""

from dataclasses import replace

import numpy as np
import pytest

import muster
from muster import algorithms, optimizers, pipeline, tasks
from muster.local import Group, train
from muster.plan.outliers import CROWD, Outliers
from muster.rounds import start
from muster.types import Reply

CLIP = 0.5
PIPELINES = {
    "plain": (),
    "clip": (pipeline.Clip(CLIP),),
    "adaptive": (pipeline.AdaptiveClip(start=CLIP),),
    "levels": (pipeline.Clip(CLIP), pipeline.Quantize(8)),
    "feedback": (pipeline.Quantize(8, range=2.0, feedback=True),),
    "local": (pipeline.Clip(CLIP), pipeline.LocalNoise(4.0, 1e-3)),
    "shares": (pipeline.Clip(CLIP), pipeline.Quantize(12), pipeline.DiscreteNoise(2.0, 4)),
}
BOUNDED = ("clip", "adaptive", "levels")


def plan(name="plain", **more):
    given = {"weighting": "equal", "dtype": "float32"} | more
    if name == "shares":
        given |= {"aggregation": muster.aggregation.Mean("expected"), "minimum": 4}
    return muster.Plan(
        task=tasks.numpy.SoftmaxRegression(4, 3),
        algorithm=algorithms.FedAvg(),
        local=muster.Local(epochs=3, batch=2, optimizer=optimizers.SGD(5.0)),
        pipeline=PIPELINES[name],
        **given,
    )


def honest(made, seed=0, rows=6):
    """Return the reply of one client, by the plan's own training."""
    draw = np.random.default_rng(seed)
    x, y = draw.normal(size=(rows, 4)).astype(np.float32), draw.integers(0, 3, rows)
    state = start(made)
    blank = (made.fresh_memory(state.algorithm.shared.x, state.buffers),)
    group = Group(
        ("a",), (1,), x, y, np.zeros(1, int), np.array([rows]), blank if made.remembers else None
    )
    outcome = train(made, "loop", 1, state.sent(), group)
    weight = float(made.weights(np.array([rows]), (1,))[0])
    payload = {key: part[0] for key, part in outcome.payload.items()}
    return Reply(("a",), payload, weight, {}, np.zeros(0, np.float32))


def refusal(made, reply):
    return Outliers(made, start(made).sent()).refusal(reply)


def longer(reply, times):
    payload = {
        key: (part * times).astype(part.dtype) if part.size > 1 else part
        for key, part in reply.payload.items()
    }
    return replace(reply, payload=payload)


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.parametrize("weights", [{}, {"weighting": "examples", "cap": 9}])
def test_what_an_honest_client_sends_passes(name, weights):
    if name == "shares" and weights:
        weights = {}
    made = plan(name, **weights)
    for seed in range(20):
        assert refusal(made, honest(made, seed)) == ""


@pytest.mark.parametrize("name", BOUNDED)
def test_what_is_longer_than_the_clip_is_refused_with_its_length(name):
    made = plan(name)
    reply = honest(made)
    assert "its norm is" in refusal(made, longer(reply, 3)) or "a number of" in refusal(
        made, longer(reply, 3)
    )
    assert refusal(made, longer(reply, 0.5)) == ""


def test_a_hair_beyond_the_clip_is_found_and_rounding_is_not():
    made = plan("clip", weighting="examples", cap=9)
    reply = honest(made)
    assert np.linalg.norm(reply.payload["delta"]) == pytest.approx(CLIP * reply.weight, rel=1e-6)
    assert refusal(made, longer(reply, 1 + 3e-5))
    assert refusal(made, longer(reply, 1 - 1e-7)) == ""


@pytest.mark.parametrize("name", ["plain", "clip", "local"])
def test_a_number_that_makes_a_sum_overflow_is_refused(name):
    made = plan(name)
    reply = honest(made)
    most = np.float32(np.finfo(np.float32).max)
    payload = {"delta": reply.payload["delta"].copy()}
    payload["delta"][3] = most
    assert "with which a sum could overflow" in refusal(made, replace(reply, payload=payload))
    buffers = np.array([1.0, -most], np.float32)
    assert "with which a sum could overflow" in refusal(made, replace(reply, buffers=buffers))


def test_what_passes_without_a_bound_adds_up_to_something_finite():
    made = plan()
    high = np.float32(np.finfo(np.float32).max / CROWD * 0.99)
    reply = replace(honest(made), payload={"delta": np.full(15, high, np.float32)})
    assert refusal(made, reply) == ""
    assert np.isfinite(np.float32(high) * np.float32(CROWD))


def test_levels_that_no_client_has_are_refused():
    made = plan("shares")
    reply = honest(made)
    for level in (2**30, -(2**30), -(2**63)):
        payload = {"delta": np.full(15, level, np.int64)}
        assert "a number of delta" in refusal(made, replace(reply, payload=payload))


def test_sums_and_masks_are_none_of_its_business():
    made = plan("clip")
    reply = replace(longer(honest(made), 100), clients=("a", "b"))
    assert refusal(made, reply) == ""
