# SPDX-License-Identifier: Apache-2.0
"""Where functions live, and how another process finds them."""

import os
import sys

import pytest
from tests.chaos import crew

from muster.errors import PlanError
from muster.simulation import origins
from muster.simulation.origins import Origin, load, travels


@pytest.fixture(autouse=True)
def path(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_file_is_loaded_once_under_its_name(tmp_path):
    (tmp_path / "beside.py").write_text("value = 7\n")
    (tmp_path / "plan_a.py").write_text("from beside import value\ndef f():\n    return value\n")
    origin = Origin("plan_a", str(tmp_path / "plan_a.py"))
    module = load(origin)
    assert module.f() == 7
    assert load(origin) is module


def test_a_module_of_a_package_keeps_its_relative_imports(tmp_path, monkeypatch):
    (tmp_path / "hospital").mkdir()
    (tmp_path / "hospital" / "__init__.py").touch()
    (tmp_path / "hospital" / "rows.py").write_text("value = 8\n")
    (tmp_path / "hospital" / "plan.py").write_text("from .rows import value\n")
    sys.path.append(str(tmp_path))
    assert load(Origin("hospital.plan", str(tmp_path / "hospital" / "plan.py"))).value == 8


def test_another_file_of_the_same_name_is_not_taken_for_it(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "plan_twice.py").write_text(f"where = {folder!r}\n")
    sys.path.insert(0, str(tmp_path / "one"))
    assert load(Origin("plan_twice", str(tmp_path / "two" / "plan_twice.py"))).where == "two"


def test_a_file_of_the_same_second_and_size_is_read_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file, found = tmp_path / "plan_again.py", []
    for value in (1, 2):
        file.write_text(f"value = {value}\n")
        os.utime(file, (10**9, 10**9))
        sys.modules.pop("plan_again", None)
        found.append(load(Origin("plan_again", str(file))).value)
    assert found == [1, 2]


def test_what_cannot_be_loaded(tmp_path):
    with pytest.raises(PlanError, match="does not exist"):
        load(Origin("plan_gone", str(tmp_path / "gone.py")))
    (tmp_path / "plan_bad.py").write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        load(Origin("plan_bad", str(tmp_path / "plan_bad.py")))
    assert "plan_bad" not in sys.modules
    (tmp_path / "notes.txt").touch()
    with pytest.raises(PlanError, match="not a Python file"):
        load(Origin("plan_notes", str(tmp_path / "notes.txt")))


def test_what_travels():
    data = travels(crew.PLAN)
    assert data is not None
    found = {origin.name: origin.file for origin in origins.origins(data)}
    found.pop("budget", None)  # of tools/, where another test loaded it: also a field of a plan
    assert found == {"tests.chaos.crew": crew.__file__}
    assert travels(lambda: 0) is None
    here = type("Here", (), {"__module__": "__main__", "__qualname__": "Here"})
    assert travels([here]) is None
