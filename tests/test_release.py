# SPDX-License-Identifier: Apache-2.0
"""The tools behind `make cover` and `make release`: what they add up, and what they refuse."""

import json
import subprocess

import pytest

import cover
import floors
import release


def report(**files):
    """A coverage report: (covered, all) branches by file of the package."""
    return {
        "files": {
            f"src/muster/{name}": {"summary": {"covered_branches": a, "num_branches": b}}
            for name, (a, b) in files.items()
        }
    }


def test_branches_are_counted_by_room():
    found = report(**{"plan/plan.py": (3, 4), "plan/kinds.py": (4, 4), "keys.py": (0, 0)})
    assert cover.shares(found) == {"plan": 87.5, "keys": 100.0}


def test_a_room_below_its_floor_fails_and_is_named(tmp_path, capsys):
    path = tmp_path / "found.json"
    good = {"rounds.py": (9, 9), "cli/run.py": (96, 100)}
    path.write_text(json.dumps(report(**good)))
    assert cover.main([str(path)]) == 0
    for name, found in (("rounds.py", (8, 9)), ("cli/run.py", (94, 100))):
        path.write_text(json.dumps(report(**good | {name: found})))
        assert cover.main([str(path)]) == 1
        assert "BELOW" in capsys.readouterr().out


def test_every_room_up_to_the_rounds_is_covered_whole():
    assert {name for name in floors.FLOORS if cover.floor_of(name) == 100.0} == {
        name for name, floor in floors.FLOORS.items() if floor <= floors.FLOORS["rounds"]
    }


@pytest.mark.parametrize(
    ("version", "changelog", "changes", "why"),
    [
        ("1.0.0", "## 1.0.0 (2026-12-01)\n", "", ""),
        ("1.0.0", "## 1.0.0 (2026-12-01)\n", " M a.py", "not committed"),
        ("1.0.0", "## 1.0.0 (unreleased)\n", "", "no heading"),
        ("1.0.0", "## 11.0.0 (2026-12-01)\n", "", "no heading"),
        ("1.0.0", "## 1x0.0 (2026-12-01)\n", "", "no heading"),
    ],
)
def test_nothing_is_released_that_is_not_written_down(version, changelog, changes, why):
    found = release.refusal(version, changelog, changes)
    assert why in found and bool(found) == bool(why)


def test_a_program_that_fails_ends_the_release():
    with pytest.raises(subprocess.CalledProcessError):
        release.run("false")
