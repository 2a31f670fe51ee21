# SPDX-License-Identifier: Apache-2.0
"""Every template is sound Python, documented, and trains."""

import subprocess
import sys
from importlib.resources import files

import pytest

from muster.cli.new import NEEDS, TEMPLATES


def test_every_template_is_listed_and_every_listed_one_is_there():
    folder = files("muster") / "templates"
    assert {part.name for part in folder.iterdir() if part.is_dir()} == set(TEMPLATES)
    assert set(NEEDS) == set(TEMPLATES)


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_keeps_the_house_style(shell, template):
    shell("new", template, "mine")
    written = shell.folder / "mine"
    text = (written / "plan.py").read_text(encoding="utf-8")
    compile(text, "plan.py", "exec")
    assert text.startswith('"""')
    assert max(len(line) for line in text.splitlines()) <= 100
    assert (written / "README.md").read_text(encoding="utf-8").startswith("# ")
    assert "muster run" in text
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "E,F,B,UP"]
    told = subprocess.run(
        [*ruff, "--line-length", "100", str(written)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert told.returncode == 0, told.stdout + told.stderr


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_trains(shell, template):
    for package in NEEDS[template]:
        pytest.importorskip(package)
    shell("new", template, "mine")
    summary = shell.json("run", "mine/plan.py", "--rounds", "1", "--workers", "1")[-1]
    assert summary["rounds"] == 1
    assert 0 <= summary["metrics"]["accuracy"] <= 1


def test_the_digits_template_learns(shell):
    pytest.importorskip("sklearn")
    shell("new", "digits", "mine")
    assert shell.json("run", "mine/plan.py")[-1]["metrics"]["accuracy"] > 0.93


def test_the_csv_template_is_better_together(shell):
    pytest.importorskip("pandas")
    shell("new", "csv", "mine")
    summary = shell.json("run", "mine/plan.py", "--baselines")[-1]
    local = summary["baselines"]["local"]
    assert summary["metrics"]["accuracy"] > local["metrics"]["accuracy"]


OWN = """who;size;shape;kind
ann;1.0;round;good
ann;2.0;flat;bad
ann;;flat;bad
bob;3.0;round;odd
bob;4.0;round;good
bob;5.0;flat;bad
eve;6.0;flat;bad
"""


def test_the_csv_template_takes_another_table_by_its_names_alone(shell):
    """Words as classes and features, a gap, a column that is constant, a site of one row."""
    pytest.importorskip("pandas")
    shell("new", "csv", "mine")
    (shell.folder / "mine/data.csv").write_text(OWN.replace(";", ","))
    told = shell.fails("run", "mine/plan.py")
    assert "'cholesterol'" in told and "not found" in told
    plan = shell.folder / "mine/plan.py"
    text = plan.read_text()
    for old, new in (
        ('SITE = "site"', 'SITE = "who"'),
        ('TARGET = "ill"', 'TARGET = "kind"'),
        ('["age", "pressure", "cholesterol", "smoker"]', '["size", "shape"]'),
    ):
        assert old in text
        text = text.replace(old, new)
    plan.write_text(text)
    found = shell.json("data", "mine/plan.py")[0]
    assert found["clients"] == ["ann", "bob", "eve"]
    assert len(found["labels"][0]) == 3
    assert shell.json("run", "mine/plan.py")[-1]["rounds"] == 20
