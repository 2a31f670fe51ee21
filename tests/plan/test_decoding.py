# SPDX-License-Identifier: Apache-2.0
"""Decoding: one sum divided, or each reply by itself and then the rule."""

import numpy as np
import pytest

from muster import Local, Plan, algorithms, pipeline
from muster.aggregation import Mean, Median
from muster.keys import key
from muster.plan.decoding import decoded
from muster.tasks.numpy import LinearRegression
from muster.types import Reply

VALUES = np.array([[0.5, -0.25, 0.0, 1.0], [0.25, 0.5, 0.5, -1.0], [-0.5, 0.0, 0.25, 0.5]])
WEIGHTS = np.array([2.0, 1.0, 5.0])


def plan(aggregation, *stages):
    return Plan(
        LinearRegression(3),
        algorithms.FedAvg(),
        Local(steps=1),
        aggregation=aggregation,
        pipeline=stages,
        weighting="equal",
        dtype="float64",
    )


def replies(values=VALUES, weights=WEIGHTS):
    return tuple(
        Reply((i,), {"delta": value * weight}, weight, {}, np.array([float(i)]) * weight)
        for i, (value, weight) in enumerate(zip(values, weights, strict=True))
    )


def reduced(aggregation):
    return aggregation.reduce(replies(), (0, 1, 2))


def test_a_sum_is_divided_by_the_denominator_and_buffers_by_what_came():
    made, total = plan(Mean()), reduced(Mean())
    wanted = WEIGHTS @ VALUES / 16
    found, _ = decoded(made, total, 16.0, made.stages.init(), key(0))
    assert type(found.payload) is made.algorithm.payload
    np.testing.assert_allclose(found.payload.delta, wanted)
    np.testing.assert_allclose(found.buffers, [11 / 8])


def test_a_rule_sees_each_mean_whatever_its_weight():
    made, total = plan(Median()), reduced(Median())
    found, states = decoded(made, total, total.weight, made.stages.init(), key(0))
    np.testing.assert_allclose(found.payload.delta, np.median(VALUES, axis=0))
    np.testing.assert_allclose(found.buffers, [1.0])
    assert states == made.stages.init()


@pytest.mark.parametrize("bits", [8, 16])
def test_each_reply_is_decoded_before_the_rule(bits):
    made = plan(Median(), pipeline.Clip(1.0), pipeline.Quantize(bits))
    step = made.stages.contracts[-1].step
    levels = tuple(
        Reply((i,), {"delta": np.round(value / step).astype(np.int64)}, 1.0, {}, np.zeros(0))
        for i, value in enumerate(VALUES)
    )
    total = made.aggregation.reduce(levels, (0, 1, 2))
    found, _ = decoded(made, total, total.weight, made.stages.init(), key(0))
    np.testing.assert_allclose(found.payload.delta, np.median(VALUES, axis=0), atol=step)
