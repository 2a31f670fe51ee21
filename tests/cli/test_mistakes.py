# SPDX-License-Identifier: Apache-2.0
"""Small things that used to mislead in a shell, each with what is said now."""

import json
import os
import re
import subprocess
import sys

import pytest

from muster.cli.live import LiveRounds


@pytest.mark.parametrize(
    ("words", "kind", "code", "said"),
    [
        (
            ("run", "plan.py", "--set", "algoritm=FedAvg()"),
            "PlanError",
            1,
            "did you mean algorithm",
        ),
        (("run", "nothing.py"), "PlanError", 1, "nothing.py does not exist"),
        (("show", "nothing"), "RunError", 1, "there is no run 'nothing'"),
        (("run", "plan.py", "--epochs", "5"), "usage", 2, "--set local.epochs="),
        (("runn",), "usage", 2, "Did you mean 'run'"),
        (("run",), "usage", 2, "Missing argument"),
        (("compare",), "usage", 2, "Missing argument"),
    ],
)
def test_errors_are_json_where_json_was_asked_for(shell, words, kind, code, said):
    error = json.loads(shell.fails(*words, "--json", code=code))
    assert shell(*words, "--json", code=code) == ""  # of the results there is none
    assert (error["event"], error["kind"]) == ("error", kind)
    assert said in error["error"]
    assert shell.fails(*words, code=code)  # and text where it was not


def test_json_leaves_what_goes_well_as_it_was(shell):
    assert shell.json("run", "plan.py", "--rounds", "1")[-1]["rounds"] == 1
    assert "Usage" in shell("run", "--help", "--json")


@pytest.mark.parametrize(
    ("option", "field"),
    [
        ("--epochs", "local.epochs"),
        ("--batch-size", "local.batch"),
        ("--lr", "local.optimizer.rate"),
        ("--num-rounds", "rounds"),
        ("--sampling", "sampling"),
    ],
)
def test_a_field_given_as_an_option_is_shown_as_a_setting(shell, option, field):
    told = shell.fails("run", "plan.py", option, "5", code=2)
    flat = re.sub(r"[\s│]+", " ", told)
    assert f"there is no option {option}" in flat and f"--set {field}=" in flat
    assert "--set" not in shell.fails("run", "plan.py", "--colour", "5", code=2)


def test_a_resumed_run_goes_to_the_rounds_it_was_begun_with(shell):
    shell("run", "plan.py", "--quiet", "--rounds", "7")
    path = shell.folder / "runs/fedavg-1"
    shell("run", "plan.py", "--quiet", "--rounds", "3", "--path", "short")
    told = shell("run", "plan.py", "--resume", str(path), "--quiet")
    assert "✓ 7 rounds" in told  # not "7 of 4", the plan file's number
    assert json.loads(shell("show", "fedavg-1", "--json"))["plan"]["rounds"] == 7
    assert "✓ 4 rounds" in shell("run", "plan.py", "--resume", "short", "--quiet")
    assert "✓ 9 rounds" in shell("run", "plan.py", "--resume", "short", "--rounds", "9", "--quiet")


def test_ls_sorts_by_what_its_column_says(shell):
    for path in ("one", "two", "three"):
        shell("run", "plan.py", "--quiet", "--path", f"runs/{path}")
    for path, when in (("one", 3e8), ("two", 1e8), ("three", 2e8)):
        for file in (shell.folder / "runs" / path).iterdir():
            os.utime(file, (when, when))
        os.utime(shell.folder / "runs" / path / "lock", (4e8 - when, 4e8 - when))
    listed = shell.json("ls")
    assert [entry["id"] for entry in listed] == ["one", "three", "two"]
    assert [entry["active"] for entry in listed] == sorted(
        (entry["active"] for entry in listed), reverse=True
    )
    head, *rows = shell("ls").splitlines()
    assert head.endswith("active") and "begun" not in head
    assert [row.split()[0] for row in rows] == ["one", "three", "two"]


def test_figures_of_any_size_stand_apart_in_the_live_table(capsys):
    for value in (1.0, 12345.678, -123456.0, 1.23456e-12, 9.87e200):
        part = {"mean": value, "worst": value}
        record = {
            "round": 9999,
            "accepted": list(range(10_000)),
            "invited": list(range(10_000)),
            "train": {"loss": value},
            "metrics": {"loss": value},
            "clients": {"loss": part},
            "privacy": {"epsilon": abs(value)},
            "bytes_up": 123_400_000,
            "seconds": 3599.0,
        }
        with LiveRounds("x", 9999) as watcher:
            watcher.watch(record)
        head, line = capsys.readouterr().out.splitlines()
        cells = re.split(r"\s+", line.strip())
        # round, four figures of the metric, ε, replies, "123.4 MB", "59 min 59 s"
        assert len(cells) == 1 + 4 + 1 + 1 + 2 + 4, line
        assert cells[0] == "9999/9999" and cells[6] == "10000/10000"
        assert {float(cell) for cell in cells[1:6]} <= {float(f"{v:.4g}") for v in (value, -value)}
        assert "  " in head


def test_the_csv_template_says_what_it_leaves_out_and_learns_from_training_rows_alone(shell):
    pandas = pytest.importorskip("pandas")
    np = pytest.importorskip("numpy")
    shell("new", "csv", "mine")
    file = shell.folder / "mine/data.csv"
    table = pandas.read_csv(file)
    table.loc[[3, 5], "age"] = np.nan
    table.loc[5, "smoker"] = np.nan
    table.to_csv(file, index=False)
    words = [
        sys.executable,
        "-c",
        "from muster.cli.app import main; main()",
        "data",
        "mine/plan.py",
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=shell.folder)
    assert "2 of 200 rows have a gap (age 2, smoker 1) and are left out" in done.stderr
    from muster.runs import planfile

    people = planfile.load(shell.folder / "mine/plan.py").enrolled().population
    held = sum(len(people.test(site)[0]) for site in people)
    assert people.sizes.sum() + held == len(table) - 2
    for site in people:
        x, seen = people[site][0], people.test(site)[0]
        np.testing.assert_allclose(x.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(x.std(0), 1, atol=1e-5)
        assert abs(seen.mean(0)).max() > 0.01  # test rows had no part in it


def test_a_system_without_file_locks_is_told_in_a_sentence(shell):
    code = (
        "import sys; sys.modules['fcntl'] = None\n"
        "from muster.cli.app import main\n"
        "main(['run', 'plan.py', '--rounds', '1'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=shell.folder
    )
    assert done.returncode == 1, done.stderr
    (sentence,) = done.stderr.strip().splitlines()
    assert "file locks" in sentence and "WSL" in sentence
    only = "import sys; sys.modules['fcntl'] = None\nimport muster; muster.Local(epochs=1)"
    subprocess.run([sys.executable, "-c", only], check=True)
