# SPDX-License-Identifier: Apache-2.0
"""A plan file is loaded, found again by other processes, and refused in a sentence."""

import pickle
import sys

import pytest

from muster.errors import PlanError
from muster.runs import planfile

PLAN = """
import numpy as np
import muster
from muster import algorithms, sampling, tasks

plan = muster.Plan(
    task=tasks.numpy.SoftmaxRegression(2, 2), algorithm=algorithms.FedAvg(),
    local=muster.Local(steps=2), rounds=3,
)
ROWS = {name: (np.eye(2, dtype=np.float32), np.array([0, 1])) for name in ("a", "b")}

def population():
    return muster.Population.from_arrays(ROWS, test=ROWS)
"""


@pytest.fixture
def written(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)

    def write(text, name="plan.py"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


def refusal(path, *, enrol=False):
    with pytest.raises(PlanError) as caught:
        file = planfile.load(path)
        if enrol:
            file.enrolled()
    return str(caught.value)


def test_a_plan_and_its_people(written):
    file = planfile.load(written(PLAN))
    people, test = file.enrolled()
    assert file.plan.rounds == 3
    assert people.clients == ("a", "b")
    assert len(test[0]) == 4  # the clients' own test rows, put together


def test_a_folder_stands_for_the_plan_in_it(written):
    assert planfile.load(written(PLAN).parent).plan.rounds == 3


def test_the_population_is_asked_for_only_when_needed(written):
    file = planfile.load(written(PLAN + "    raise RuntimeError('too early')\n"))
    assert file.plan.rounds == 3


def test_central_rows_of_a_federation_and_of_a_function(written):
    text = PLAN.replace("return muster", "return muster.data.Federation(muster") + "\n"
    text = text.replace("test=ROWS)", "test=ROWS), ROWS['a'])")
    assert len(planfile.load(written(text)).enrolled().evaluate_on[0]) == 2
    text += "\ndef evaluate_on():\n    return np.zeros((7, 2)), np.zeros(7, int)\n"
    assert len(planfile.load(written(text)).enrolled().evaluate_on[0]) == 7


def test_functions_of_the_file_travel_to_other_processes(written):
    file = planfile.load(written(PLAN, "my-own plan.py"))
    assert pickle.loads(pickle.dumps(file.population)) is file.population


def test_an_edited_file_is_loaded_anew(written):
    assert planfile.load(written(PLAN)).plan.rounds == 3
    assert planfile.load(written(PLAN.replace("rounds=3", "rounds=44"))).plan.rounds == 44


def test_two_files_of_one_name_are_two_plans(written, tmp_path):
    (tmp_path / "other").mkdir()
    first = planfile.load(written(PLAN))
    second = planfile.load(written(PLAN.replace("rounds=3", "rounds=4"), "other/plan.py"))
    assert (first.plan.rounds, second.plan.rounds) == (3, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "has no plan; write plan = muster.Plan(...)"),
        ("plan = {}", "plan in .*plan.py is a dict; it must be a muster.Plan"),
        ("plan = (", "could not be loaded: '\\(' was never closed \\(line 1\\)"),
        ("import nowhere_to_be_found", "No module named 'nowhere_to_be_found'"),
        (PLAN.replace("rounds=3", "rounds=0"), "plan.py, line 6: Plan\\(rounds=0\\)"),
        (PLAN + "\npopulation = 3", "population in .* is a int; write it as a function"),
    ],
)
def test_a_file_that_cannot_be_loaded(written, text, message):
    told = refusal(written(text))
    assert pytest.importorskip("re").search(message, told), told


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PLAN.split("def population")[0], "has no population()"),
        (PLAN + "\npopulation = dict", "population() in"),
        (PLAN + "\ndef evaluate_on(): return 3", "evaluate_on() in"),
    ],
)
def test_functions_that_return_the_wrong_thing(written, text, message):
    assert message in refusal(written(text), enrol=True)


def test_the_traceback_is_the_users_own(written):
    told = refusal(written("def deep():\n    return 1 / 0\n\nplan = deep()\n"))
    head, *frames = told.splitlines()
    assert head.endswith("could not be loaded: ZeroDivisionError: division by zero")
    assert sum("File " in line for line in frames) == 2
    assert all("plan.py" in line for line in frames if "File " in line)


def test_a_missing_extra_comes_with_its_remedy(written, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "pip install 'muster-fl[torch]'" in refusal(written("import torch"))


def test_a_missing_file_and_one_that_is_not_python(written, tmp_path):
    assert "does not exist" in refusal(tmp_path / "gone.py")
    assert "is not a Python file" in refusal(written("rounds = 3", "plan.toml"))
