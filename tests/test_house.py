# SPDX-License-Identifier: Apache-2.0
"""The repository keeps its house rules, and every rule finds the fault it is there for."""

from pathlib import Path

import pytest

import budget
import callers
import check
import docs
import floors
from house import House

ROOT = Path(__file__).resolve().parent.parent
HEAD = '# SPDX-License-Identifier: Apache-2.0\n"""A module."""\n'

ASKED = """class Door(Protocol):
    def open(self): ...

class House:
    def __init__(self, door: Door):
        self.door, self.other = door, 1
        {}
"""

# rule, the file that holds the fault, its text, a part of the message
PLANTED = [
    (floors.floors, "src/muster/vectors.py", "import muster.plan", "floor 0"),
    (floors.floors, "src/muster/pipeline/clip.py", "from muster import algorithms", "below only"),
    (floors.floors, "src/muster/runs.py", "from muster.cli import main", "floor 7"),
    (floors.floors, "src/muster/algorithms/a.py", "from muster.layout import Layout", "only"),
    (floors.floors, "src/muster/rounds.py", "from muster.algorithms.fedavg import A", "may know"),
    (floors.floors, "src/muster/__init__.py", "import muster.cli", "muster.cli"),
    (floors.floors, "src/muster/novel.py", "", "has no floor"),
    (floors.neighbours, "src/muster/algorithms/a.py", "from .fedavg import A", "neighbour"),
    (floors.neighbours, "src/muster/tasks/jax.py", "import muster.tasks.torch", "neighbour"),
    (floors.frameworks, "src/muster/tasks/jax.py", "import torch.nn", "allowed in"),
    (floors.frameworks, "src/muster/runs.py", "from pandas import DataFrame", "no file"),
    (floors.purity, "src/muster/algorithms/a.py", "import logging", "keep it pure"),
    (floors.cycles, "src/muster/algorithms/fedavg.py", "import muster.plan", "cycle"),
    (floors.inner_imports, "src/muster/runs.py", "def f():\n    import json", "inside"),
    (floors.ports, "src/muster/federation/a.py", "import httpx", "imports httpx"),
    (floors.ports, "src/muster/federation/a.py", "x = require('httpx')", "speaks of 'httpx'"),
    (floors.ports, "src/muster/federation/a.py", "x = '/v1/poll'", "speaks of '/v1/poll'"),
    (check.file_names, "tools/data_utils.py", "", "'utils'"),
    (check.exports, "src/muster/runs.py", "", "no __all__"),
    (check.exports, "src/muster/runs.py", "__all__ = ['b', 'a']", "unsorted"),
    (check.docstrings, "src/muster/runs.py", "def f(): ...", "f has no docstring"),
    (check.openings, "src/muster/runs.py", 'class A:\n    """What an A is."""', "'What'"),
    (check.openings, "tools/a.py", 'class A:\n    """Who does it."""', "'Who'"),
    (check.openings, "tools/a.py", 'def f():\n    """Whether it is so."""', "'Whether'"),
    (check.openings, "tests/test_a.py", 'def f():\n    """To whoever looks."""', "'To whoever'"),
    (check.swallowed, "tools/a.py", "try:\n    f()\nexcept Exception:\n    pass", "swallows"),
    (check.lambdas, "src/muster/runs.py", "def f(g=lambda: 0): ...", "lambda"),
    (check.lambdas, "src/muster/runs.py", "class A:\n    f: object = lambda x: x", "lambda"),
    (check.todos, "src/muster/runs.py", "# TO" + "DO: later", "issue"),
    (check.promises, "src/muster/runs.py", 'class A:\n    """See `gone_by.py`."""', "not there"),
    (
        check.promises,
        "src/muster/runs.py",
        'def f():\n    """Not yet, in a later version."""',
        "is to",
    ),
    (check.mirrors, "src/muster/algorithms/fedx.py", "", "test_fedx.py"),
    (check.mirrors, "tests/pipeline/test_gone.py", "", "tests no file"),
    (check.final, "src/muster/runs.py", "class B(FedAvg): ...", "wrap it"),
    (check.unique_names, "src/muster/runs.py", "class FedAvg: ...", "its own word"),
    (check.asking, "src/muster/runs.py", "k = getattr(sampler, 'kind', None)", "declare it"),
    (check.asking, "src/muster/runs.py", "a = [getattr(s, n, 0) for n in 'ab']", "declare it"),
    (check.asking, "src/muster/runs.py", "k = hasattr(task, 'clipped')", "declare it"),
    (check.asking, "src/muster/vectors.py", "k = getattr(x, '__name__', '')", "asks nothing"),
    (check.capabilities, "src/muster/runs.py", "x = task.kind == 'jax'", "compares with 'jax'"),
    (check.capabilities, "src/muster/runs.py", "x = n in ('torch', 'jax')", "compares with"),
    (check.capabilities, "src/muster/runs.py", "x = FEW.get(task.framework)", "reads task"),
    (callers.called, "src/muster/runs.py", ASKED.format("other.open()"), "Door.open has no caller"),
    (callers.called, "src/muster/runs.py", ASKED.format("self.door.close()"), "Door.open has no"),
    (
        callers.called,
        "src/muster/runs.py",
        ASKED.format("0\n    def open(self):\n        self.door.open()"),
        "Door.open has no caller",
    ),
    (
        check.one_protocol,
        "src/muster/runs.py",
        "class A(Protocol):\n def f(self): ...\n def g(self): ...\n"
        "class B(Protocol):\n def g(self): ...\n def f(self): ...",
        "B says f, g as A does",
    ),
    (check.formatted, "tools/a.py", "x = ( 1)  # fm" + "t: skip", "have its way"),
]

# What every planted tree holds beside the fault, and is at peace.
PEACE = {
    "src/muster/plan.py": "import muster.algorithms.fedavg",
    "src/muster/algorithms/fedavg.py": "class FedAvg(Algorithm): ...",
    "src/muster/tasks/torch.py": "import torch",
    "tests/algorithms/test_fedavg.py": "",
    "tests/tasks/test_torch.py": "",
}


def plant(root: Path, files: dict[str, str]) -> House:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(HEAD + text + "\n", encoding="utf-8")
    return House(root)


@pytest.mark.parametrize("rule", check.RULES, ids=lambda rule: rule.__name__)
def test_the_repository_obeys(rule):
    faults = [str(finding) for finding in rule(House(ROOT))]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("rule", "name", "text", "message"),
    PLANTED,
    ids=[f"{rule.__name__}-{number}" for number, (rule, *_) in enumerate(PLANTED)],
)
def test_a_planted_fault_is_found(tmp_path, rule, name, text, message):
    found = [str(f) for f in rule(plant(tmp_path, PEACE | {name: text}))]
    assert any(message in finding for finding in found), found
    assert all(finding.startswith(name.rsplit("/", 1)[0]) for finding in found), found


def test_every_rule_has_a_planted_fault():
    assert {rule for rule, *_ in PLANTED} | {check.licences} == set(check.RULES)


LONG = [
    ("x = 0\n" * 400, "403 lines"),
    ("def f():\n" + "    x = 0\n" * 50, "f has 51 lines"),
    ("def f(a, b, c, d, e, g, h): ...", "f has 7 positional parameters"),
]


@pytest.mark.parametrize(("text", "message"), LONG, ids=[message for _, message in LONG])
def test_what_is_long_is_asked_about_and_fails_nothing(tmp_path, text, message):
    house = plant(tmp_path, PEACE | {"src/muster/runs.py": text})
    assert any(message in str(note) for note in check.advice(house))
    assert not [f for rule in check.RULES for f in rule(house) if message in str(f)]


def test_a_missing_licence_is_found(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src/a.py").write_text('"""No licence."""\n')
    assert [finding.line for finding in check.licences(House(tmp_path))] == [1]


def test_what_is_allowed_is_not_found(tmp_path):
    house = plant(
        tmp_path,
        PEACE
        | {
            "src/muster/local.py": "from muster.algorithms.algorithm import Algorithm",
            "src/muster/algorithms/algorithm.py": "from muster import errors, types",
            "src/muster/algorithms/__init__.py": "from .fedavg import FedAvg",
            "src/muster/tasks/torch_flat.py": "from .torch import Classifier\nimport torch",
            "src/muster/runs.py": "if TYPE_CHECKING:\n    import pandas",
            "src/muster/errors.py": "",
            "src/muster/runs/a.py": ASKED.format("self.door.open()"),
            "src/muster/runs/b.py": ASKED.format("made = door\n        made.open()"),
            "src/muster/runs/c.py": ASKED.format("cast('Door', 1).open()"),
            "src/muster/mapped.py": "a = getattr(os, 'a', 0)\nb = getattr(f, '__name__', '')",
            "src/muster/plan.py": "import muster.algorithms.fedavg\nx = f'{task.framework}'",
            "src/muster/types.py": "from muster.errors import MusterError",
        },
    )
    rules = (*floors.RULES, *callers.RULES, check.asking, check.capabilities)
    assert not [str(finding) for rule in rules for finding in rule(house)]


def test_the_command_fails_on_a_fault(tmp_path, capsys):
    plant(tmp_path, {"src/muster/vectors.py": "__all__ = []\nimport muster.plan"})
    assert check.main([str(tmp_path)]) == 1
    assert "src/muster/vectors.py:4: vectors (floor 0) imports" in capsys.readouterr().out


def test_the_documentation_keeps_its_promises(capsys):
    assert docs.main([str(ROOT)]) == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a](gone.md)", "page.md:1: the link gone.md leads to no file"),
        ("# Here\n\n[a](#there)", "page.md:3: the link #there leads to no heading"),
        ('[a](page.py "test_gone")', "page.md:1: the file page.py has no test test_gone"),
        ("[test](page.py)", "page.md:1: the link page.py names no test; give one as its title"),
        ("[`test_gone`](page.py)", "page.md:1: the file page.py has no test test_gone"),
        ("```python\nx = 1\ny = \n```", "page.md:3: not Python"),
        ("```python\n>>> 1 + 1\n3\n```", "Expected:"),
    ],
)
def test_a_broken_page_is_found(tmp_path, capsys, text, message):
    (tmp_path / "page.md").write_text(text + "\n", encoding="utf-8")
    (tmp_path / "page.py").write_text("def test_there(): ...\n", encoding="utf-8")
    assert docs.main([str(tmp_path)]) == 1
    assert message in capsys.readouterr().out


def test_a_true_page_passes(tmp_path):
    links = '[up](#a-title-one) [web](https://example.org) [test](page.py "test_there")'
    (tmp_path / "page.py").write_text("def test_there(): ...\n", encoding="utf-8")
    text = f"# A title: one\n\n{links}\n\n```python\nx = 1\n```\n"
    (tmp_path / "page.md").write_text(text, encoding="utf-8")
    assert docs.main([str(tmp_path)]) == 0


def test_a_line_of_code_is_neither_comment_nor_docstring(tmp_path):
    text = '\n# a comment\nx = (\n    1\n)\n\n\ndef f():\n    """Two\n    lines."""\n    return x'
    (file,) = plant(tmp_path, {"src/muster/runs.py": text}).source
    assert budget.code_lines(file) == 5


def test_any_is_said_no_oftener_than_it_was():
    found = budget.untyped(House(ROOT))
    over = {room: (found[room], budget.ANY.get(room, 0)) for room in budget.above(found)}
    assert not over, f"type what was added (found, ceiling): {over}"


def test_one_any_more_is_found(tmp_path, capsys, monkeypatch):
    text = "from typing import Any\nimport typing\nx: Any = 0\ny: list[typing.Any] = []"
    house = plant(tmp_path, {"src/muster/cli/show.py": text})
    assert budget.untyped(house) == {"cli": 2}
    monkeypatch.setattr(budget, "ANY", {"cli": 2})
    assert not budget.above(budget.untyped(house)) and budget.main([str(tmp_path)]) == 0
    monkeypatch.setattr(budget, "ANY", {"cli": 1})
    assert budget.main([str(tmp_path)]) == 1
    assert "cli               2        1  OVER" in capsys.readouterr().out


def test_the_budget_fails_above_a_ceiling(tmp_path, capsys):
    plant(tmp_path, {"src/muster/cli/show.py": "x = 0\n" * (budget.CEILINGS[7] + 1)})
    assert budget.main([str(tmp_path)]) == 1
    assert "cli  OVER" in capsys.readouterr().out
