# SPDX-License-Identifier: Apache-2.0
"""Doubts about a model are said: it diverged, learned nothing, or a rule read nothing."""

import math
from dataclasses import replace

import numpy as np
import pytest

import muster
from muster import EarlyStopping, Target, algorithms, optimizers, tasks
from muster.runs.doubt import doubt, warned

LEAST = {"accuracy": 0.3, "loss": 1.1}


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            {"metrics": {"loss": 1.1, "accuracy": 0.3}},
            "the model is no better than one answer: accur",
        ),
        ({"metrics": {"loss": 0.9, "accuracy": 0.3}}, ""),
        ({"metrics": {"loss": 9.9, "accuracy": 0.8}}, ""),
        (
            {"metrics": {"loss": math.inf, "accuracy": 0.8}},
            "the loss is inf: training has diverged",
        ),
        ({"metrics": {"loss": math.nan}}, "the loss is nan"),
        (
            {"clients": {"count": 2, "on": "x", "loss": {"weighted": 1.2}}},
            "loss 1.2 (one answer has",
        ),
        ({}, ""),
    ],
)
def test_what_speaks_against_an_evaluation(plan, found, words):
    why = doubt(plan, found, LEAST, "one answer")
    assert words in why and bool(words) == bool(why)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({}, "accuracy was measured neither on central test rows nor on test rows of clients"),
        ({"metrics": {"accuracy": math.nan}}, "accuracy has no value on these rows"),
        ({"metrics": {"accuracy": 0.5}}, ""),
    ],
)
@pytest.mark.parametrize("rule", [Target("accuracy", 0.9), EarlyStopping("accuracy", 2)])
def test_a_rule_that_reads_nothing_is_told(plan, rule, found, words):
    why = doubt(replace(plan, stop=[rule]), found, {}, "")
    assert words in why and bool(words) == bool(why)


def test_the_course_of_the_training_loss():
    def history(*losses):
        return [{"train": {"loss": loss}} for loss in losses]

    assert warned(history(0.5, 0.4, 0.6)) == warned([]) == warned([{"round": 1}]) == ""
    assert "rose from 0.5 in the first round to 1.5 in the last" in warned(history(0.5, 1.5))
    assert "of the last round is nan" in warned(history(0.5, math.nan))
    old = [{"metrics": {}, "warning": "old"}, {"metrics": {}}]
    assert warned(old) == ""  # of the last evaluation alone
    assert warned(old[:1] + history(0.1)) == "old"


def dead(tmp_path, **evaluated):
    """A run whose rate is so high that every unit of the hidden layer dies at once."""
    draw = np.random.default_rng(0)
    rows = {
        c: (draw.normal(size=(40, 6)).astype("float32") + 3, draw.integers(0, 4, 40)) for c in "ab"
    }
    plan = muster.Plan(
        task=tasks.numpy.MLP([6, 5, 4]),
        algorithm=algorithms.FedAvg(),
        rounds=4,
        local=muster.Local(steps=20, optimizer=optimizers.SGD(50.0)),
    )
    return muster.simulate(plan, muster.Population.from_arrays(rows), **evaluated, path=tmp_path)


def test_a_run_that_diverged_to_chance_is_told(tmp_path):
    draw = np.random.default_rng(1)
    test = draw.normal(size=(400, 6)).astype("float32") + 3, draw.integers(0, 4, 400)
    run = dead(tmp_path / "central", evaluate_on=test)
    assert math.isfinite(run.metrics["loss"]) and run.metrics["accuracy"] < 0.3
    assert "the model is no better than one answer to all rows" in run.warning
    run = dead(tmp_path / "own")  # of whose labels a server would know nothing
    assert "the model is no better than a guess" in run.warning


def test_a_run_that_learns_is_not_doubted(train):
    assert train(rounds=30).warning == ""
