# SPDX-License-Identifier: Apache-2.0
"""The commands in the order in which a newcomer meets them."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

MUSTER = [sys.executable, "-c", "from muster.cli import main; main()"]


def test_new_run_ls_show_report_compare_replay(shell):
    pytest.importorskip("sklearn")
    assert "next   muster run demo/plan.py" in shell("new", "digits", "demo")
    told = shell("run", "demo/plan.py", "--rounds", "3")
    assert "3/3" in told
    assert "✓ 3 rounds in" in told
    shell("run", "demo/plan.py", "--rounds", "3", "--set", "algorithm=FedProx(mu=0.1)", "--quiet")
    listed = shell("ls")
    assert listed.index("fedprox-1") < listed.index("fedavg-1")
    assert "finished" in listed
    shown = shell("show", "fedavg-1")
    assert "MLP(sizes=[64, 64, 10]" in shown
    assert "accuracy" in shown
    assert "FedProx(mu=0.1" in shell("compare", "fedavg-1", "fedprox-1", "--out", "both.html")
    assert (shell.folder / "both.html").read_text().startswith("<!")
    assert "report.html" in shell("report")
    assert (shell.folder / "runs/fedprox-1/report.html").exists()
    assert "every bit agrees" in shell("replay", "fedavg-1", "demo/plan.py")
    assert "10 clients" in shell("data", "demo/plan.py", "--out", "who.png")
    assert (shell.folder / "who.png").stat().st_size > 1000


def test_run_in_json_is_a_line_per_round_and_a_summary(shell):
    *rounds, summary = shell.json("run", "plan.py")
    assert [record["round"] for record in rounds] == [0, 1, 2, 3, 4]
    assert {record["event"] for record in rounds} == {"round"}
    assert summary["event"] == "summary"
    assert summary["rounds"] == 4
    assert summary["metrics"] == rounds[-1]["metrics"]


def test_every_command_speaks_json(shell):
    shell("run", "plan.py", "--quiet")
    shell("run", "plan.py", "--quiet", "--seed", "1")
    assert [entry["id"] for entry in shell.json("ls")] == ["fedavg-2", "fedavg-1"]
    assert shell.json("show", "fedavg-1")[0]["plan"]["rounds"] == 4
    assert shell.json("report")[0]["report"].endswith("report.html")
    first, second = shell.json("compare", "fedavg-1", "fedavg-2")
    assert (first["differs"], second["differs"]) == ({"seed": 0}, {"seed": 1})
    assert shell.json("replay", "fedavg-2", "plan.py", "--seed", "1")[0]["identical"] is True
    assert shell.json("data", "plan.py")[0]["rows"] == [12, 12, 12]
    assert shell.json("run", "plan.py", "--explain")[0]["workers"] == 1
    assert set(shell.json("new", "--list")[0]) >= {"digits", "hospitals", "keyboard", "torch"}
    assert shell.json("new", "csv", "mine")[0]["next"] == "muster run mine/plan.py"


def test_settings_that_need_one_another_come_in_any_order(shell):
    both = ("sampling=Weighted(2)", "weighting=equal")
    for first, second in (both, both[::-1]):
        shell("run", "plan.py", "--quiet", "--set", first, "--set", second)
    plan = shell.json("show")[0]["plan"]
    assert (plan["sampling"]["class"], plan["weighting"]) == ("Weighted", "equal")


def test_quiet_prints_the_result_only(shell):
    assert len(shell("run", "plan.py", "--quiet").splitlines()) == 2


def test_baselines_stand_in_one_table(shell):
    told = shell("run", "plan.py", "--baselines")
    table = told.split("accuracy, test rows")[1]
    assert [n for n in ("federated", "centralized", "local-only") if n in table] == [
        "federated",
        "centralized",
        "local-only",
    ]
    summary = shell.json("run", "plan.py", "--baselines")[-1]
    assert set(summary["baselines"]) == {"centralized", "local"}


def test_a_longer_run_resumes_and_equals_one_that_never_stopped(shell):
    shell("run", "plan.py", "--quiet", "--rounds", "2")
    assert shell.json("ls")[0]["state"] == "finished"
    told = shell("run", "plan.py", "--resume")
    assert "after round 2" in told
    shell("run", "plan.py", "--quiet", "--path", "whole")
    models = [shell.json("show", name)[0]["history"][-1]["model"] for name in ("fedavg-1", "whole")]
    assert models[0] == models[1]


def test_resume_takes_a_run_a_path_or_nothing_before_the_plan(shell):
    shell("run", "plan.py", "--quiet", "--rounds", "2")
    shell("run", "--resume", "plan.py", "--quiet", "--rounds", "3")
    shell("run", "plan.py", "--quiet", "--resume", "runs/fedavg-1")
    assert [entry["rounds"] for entry in shell.json("ls")] == [4]


def test_the_settings_reach_the_plan(shell):
    words = ("--set", "local.epochs=1", "--set", "sampling=Uniform(count=2)", "--seed", "5")
    shell("run", "plan.py", "--quiet", *words)
    plan = shell.json("show")[0]["plan"]
    assert (plan["local"]["epochs"], plan["sampling"]["count"], plan["seed"]) == (1, 2, 5)


def test_help_and_version(shell):
    listed = shell("--help")
    assert all(name in listed for name in ("new", "run", "ls", "replay", "data"))
    assert shell("--version").startswith("muster ")
    assert "--baselines" in shell("run", "--help")


def test_ctrl_c_says_what_is_safe_and_how_to_go_on(shell):
    plan = (shell.folder / "plan.py").read_text().replace("rounds=4", "rounds=100000")
    (shell.folder / "plan.py").write_text(plan)
    command = [*MUSTER, "run", "plan.py", "--json", "--workers", "1"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=shell.folder)
    assert [json.loads(child.stdout.readline())["round"] for _ in range(2)] == [0, 1]
    os.kill(child.pid, signal.SIGINT)
    out, _ = child.communicate(timeout=60)
    last = json.loads(out.splitlines()[-1])
    assert child.returncode == 130
    assert last["resume"] == "muster run plan.py --json --workers 1 --resume fedavg-1"
    assert last["rounds"] == len(shell.json("show")[0]["history"]) - 1 >= 1
    assert shell.json("ls")[0]["state"] == "resumable"


def test_a_run_that_is_being_trained_is_listed_so(shell):
    plan = (shell.folder / "plan.py").read_text().replace("rounds=4", "rounds=100000")
    (shell.folder / "plan.py").write_text(plan)
    command = [*MUSTER, "run", "plan.py", "--json"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=shell.folder)
    try:
        child.stdout.readline()
        assert shell.json("ls")[0]["state"] == "training"
        assert "being trained by another process" in shell.fails("run", "plan.py", "--resume")
    finally:
        child.kill()
        child.communicate(timeout=60)


def test_help_comes_at_once():
    began = time.process_time()
    command = [*MUSTER, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "Begin with: muster new digits" in done.stdout
    assert time.process_time() - began < 5


def test_without_central_rows_the_clients_are_what_is_shown(shell):
    plan = (shell.folder / "plan.py").read_text().replace(", test=rows", "")
    (shell.folder / "plan.py").write_text(plan)
    assert "clients' mean accuracy" in shell("run", "plan.py")
    (entry,) = shell.json("ls")
    assert entry["metric"] == "clients' accuracy"
    assert 0 < entry["value"] <= 1
    shell("run", "plan.py", "--quiet", "--seed", "1")
    assert "accuracy" in shell("compare", "fedavg-1", "fedavg-2")


MODEL = '''

def start():
    """A model."""
    return {"w": np.full(3, 2.0)}


def fit(arrays, rows, config):
    """Moves it."""
    return {"w": arrays["w"] + 1.0}


def measure(arrays, rows):
    return {"loss": 0.0}


plan = muster.Plan(
    task=tasks.custom.Custom(start, fit, measure), algorithm=algorithms.FedAvg(),
    local=muster.Local(epochs=1, batch=4), rounds=2,
)
'''


def test_code_that_changed_is_told_apart_by_resume_compare_and_replay(shell):
    file = shell.folder / "plan.py"
    text = file.read_text() + MODEL
    file.write_text(text)
    shell("run", "plan.py", "--quiet", "--path", "runs/a")
    file.write_text(text.replace('"""Moves it."""', "# moves").replace("rounds=2", "rounds=3"))
    shell("run", "plan.py", "--quiet", "--resume")  # a comment, and a longer run
    file.write_text(text.replace('["w"] + 1.0', '["w"] + 2.0'))
    shell("run", "plan.py", "--quiet", "--path", "runs/b", "--rounds", "3")
    said = shell.fails("run", "plan.py", "--resume", "a", "--rounds", "4")
    assert "the code of plan:fit is another" in said and "--override" in said
    assert "code.plan:fit" in " ".join(shell("compare", "a", "b").split())
    assert "the code of plan:fit is another" in shell.fails("replay", "a", "plan.py")
    assert "no run in runs/ is one of this plan" not in shell("replay", "b", "plan.py")
    shell("run", "plan.py", "--quiet", "--resume", "a", "--rounds", "4", "--override")
    assert "after round 3" in shell.fails("replay", "a", "plan.py")
    assert "after round 3" in shell("compare", "a", "b")
    assert "plan:fit" in shell("show", "a")


def test_other_releases_are_named_when_a_replay_differs(shell, monkeypatch):
    shell("run", "plan.py", "--quiet")
    text = (shell.folder / "plan.py").read_text()
    (shell.folder / "plan.py").write_text(text.replace("default_rng(0)", "default_rng(1)"))
    assert "on other data, or on another machine?" in shell("replay", "latest", "plan.py", code=1)
    monkeypatch.setattr("numpy.__version__", "9.9")
    said = " ".join(shell("replay", "latest", "plan.py", code=1).split())
    assert "trained with other releases: numpy" in said
