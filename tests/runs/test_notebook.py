# SPDX-License-Identifier: Apache-2.0
"""Notebooks as people write them: functions with settings, lambdas in a loop, changing globals."""

import functools
from dataclasses import replace

import numpy as np
import pytest

import muster
from muster import algorithms, optimizers, tasks
from muster.errors import RunError
from muster.runs import explain
from muster.runs.replay import replay

SIZE = 3


def start():
    return {"w": np.zeros(SIZE)}


def fit(arrays, rows, config):
    return {"w": arrays["w"] + 1.0}


def measure(arrays, rows):
    return {"loss": float(arrays["w"].sum())}


def planned(begin, **more):
    return muster.Plan(
        task=tasks.custom.Custom(begin, fit, measure),
        algorithm=algorithms.FedAvg(),
        local=muster.Local(epochs=1, batch=4, optimizer=optimizers.SGD(0.1)),
        rounds=2,
        **more,
    )


def of_size(size):
    return {"w": np.zeros(size)}


@pytest.mark.parametrize("kind", ["lambda", "closure", "partial"])
def test_a_sweep_of_functions_that_no_other_process_finds_trains_in_this_one(
    people, tmp_path, kind
):
    def closing(size):
        def begin():
            return {"w": np.zeros(size)}

        return begin

    make = {
        "lambda": lambda size: lambda: {"w": np.zeros(size)},
        "closure": closing,
        "partial": lambda size: functools.partial(of_size, size),
    }[kind]
    plans = [planned(make(size)) for size in (2, 5)]
    runs = [
        muster.simulate(plan, people, path=tmp_path / str(i), workers=2 if kind != "partial" else 1)
        for i, plan in enumerate(plans)
    ]
    assert [len(run.parameters) for run in runs] == [2, 5]
    assert all(
        replay(run.path, plan, people).identical for run, plan in zip(runs, plans, strict=True)
    )
    with pytest.raises(RunError, match="was trained by another plan"):
        replay(runs[0].path, plans[1], people)
    if kind != "partial":
        assert "cannot find them" in explain(plans[0], people, workers=2)["workers_reason"]
        assert runs[0].facts["workers"] == 1


def test_a_changed_global_is_met_by_the_next_run_of_the_same_plan(people, tmp_path, monkeypatch):
    plan = planned(start)
    first = muster.simulate(plan, people, path=tmp_path / "a")
    monkeypatch.setitem(globals(), "SIZE", 4)
    later = muster.simulate(plan, people, path=tmp_path / "b")
    assert [len(run.parameters) for run in (first, later)] == [3, 4]
    with pytest.raises(RunError, match=r"the code of .*test_notebook:SIZE is another"):
        muster.simulate(replace(plan, rounds=3), people, path=tmp_path / "a", resume=True)
