# SPDX-License-Identifier: Apache-2.0
"""Processes are sent the plan itself where it is a value, and check that theirs is the parent's."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

import muster
from muster import algorithms, data, optimizers, sampling, tasks
from muster.errors import PlanError
from muster.runs import planfile
from muster.runs.federation.child import _spec
from muster.runs.federation.processes import Spec, federated, planned, told

FILE = """
import numpy as np
import muster
from muster import algorithms, optimizers, tasks

plan = muster.Plan(
    task=tasks.numpy.MLP([5, 6, 3]),
    algorithm=algorithms.FedAvg(),
    rounds=2,
    local=muster.Local(epochs=2, batch=8, optimizer=optimizers.SGD(0.2)),
)

def population():
    draw = np.random.default_rng(7)
    return {n: (draw.normal(size=(9, 5)).astype("float32"), draw.integers(0, 3, 9)) for n in "ab"}
"""


def plan(**fields):
    values = {
        "task": tasks.numpy.MLP([5, 6, 3]),
        "algorithm": algorithms.FedAvg(),
        "rounds": 2,
        "local": muster.Local(epochs=2, batch=8, optimizer=optimizers.SGD(0.2)),
    }
    return muster.Plan(**(values | fields))


class Untravelled(sampling.Sampler):
    """A draw of everybody, by code of its own."""

    traits = sampling.SamplerTraits("all")

    def sample(self, roster, state, round, key, losses=None):
        return sampling.Cohort(roster.eligible), state


def spec(folder, **fields):
    values = {"names": ("site-00000", "site-00001"), "clients": ("a", "b"), "processes": 1}
    return Spec(str(folder / "plan.py"), str(folder / "run"), **(values | fields))


def never():
    raise AssertionError("the file was asked for a plan that was sent")


def test_a_plan_that_is_a_value_is_sent(tmp_path):
    made = plan(seed=3)
    sent, why = told(made, spec(tmp_path))
    heard = _spec(json.loads(json.dumps(asdict(sent))))
    assert why == "" and heard == sent
    assert planned(heard, never) == made


def test_another_is_made_again_and_must_be_the_same(tmp_path):
    made = plan(task=tasks.custom.Custom(start, fit, measure))
    sent, why = told(made, spec(tmp_path))
    assert sent.value is None and "plan.task: 'tasks.custom.Custom' is not built" in why
    assert planned(sent, lambda: made) == made
    with pytest.raises(PlanError, match="not the one that the run was started with"):
        planned(sent, lambda: replace(made, seed=1))
    _, why = told(plan(sampling=Untravelled()), spec(tmp_path))
    assert "plan.sampling" in why


def start():
    return {"w": np.zeros(2)}


def fit(model, data, config):
    return model


def measure(model, data):
    return {"loss": 0.0}


def test_real_processes_train_the_plan_that_was_sent(tmp_path):
    """The file's plan has two rounds at another rate: only its data are read."""
    (tmp_path / "plan.py").write_text(FILE)
    file = planfile.load(tmp_path / "plan.py")
    people = file.enrolled().population
    made = plan(rounds=3, seed=5, local=muster.Local(steps=1, optimizer=optimizers.SGD(0.01)))
    events = []
    run = federated(made, spec(tmp_path), lambda record: None, events.append)
    assert run.round == 3 and run.facts["plan"]["seed"] == 5
    assert not [one for one in events if one["event"] == "plan"]
    alone = muster.simulate(made, people, path=tmp_path / "alone", engine="loop", workers=1)
    assert run.parameters.tobytes() == alone.parameters.tobytes()
    assert isinstance(people, data.Population)
