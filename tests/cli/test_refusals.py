# SPDX-License-Identifier: Apache-2.0
"""Bad input is refused in one sentence, with exit code 1; wrong usage with 2."""

import pytest


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--set", "algorithm.nu=1"), "FedAvg has no field 'nu'; it has server"),
        (("--set", "algorithm=FedFoo()"), "unknown class 'FedFoo'"),
        (("--set", "sampling=Uniform(fraction=2)"), "the fraction must lie in (0, 1]"),
        (("--set", "sampling=Uniform(count=20)"), "asks for more than the 3 clients enrolled"),
        (("--set", "rounds"), "write field=value"),
        (("--set", "cap=many"), "cap"),
        (("--set", "share=3"), "share"),
        (("--rounds", "0"), "a whole number above 0 is needed"),
        (("--engine", "warp"), "engine='warp': use one of auto, loop, matrix, fused"),
        (("--resume",), "there is nothing to resume"),
        (("--resume", "fedavg-9"), "there is no run 'fedavg-9'"),
    ],
)
def test_run_refuses(shell, words, message):
    told = shell.fails("run", "plan.py", *words)
    assert told.startswith("error: ")
    assert message in told
    assert len(told.splitlines()) == 1
    assert not (shell.folder / "runs").exists()


def test_a_resume_with_another_plan_names_the_field(shell):
    shell("run", "plan.py", "--quiet", "--rounds", "2")
    told = shell.fails("run", "plan.py", "--resume", "fedavg-1", "--set", "local.epochs=3")
    assert "local.epochs: 2 then, 3 now" in told
    assert len(told.splitlines()) == 1
    told = shell.fails("replay", "fedavg-1", "plan.py", "--set", "local.epochs=3")
    assert "local.epochs" in told


def test_a_folder_that_holds_a_run_is_not_overwritten(shell):
    shell("run", "plan.py", "--quiet", "--path", "mine")
    assert "mine already holds a run" in shell.fails("run", "plan.py", "--path", "mine")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "gone.py"), "the plan file gone.py does not exist"),
        (("run", "empty.py"), "empty.py has no plan"),
        (("new", "digitz"), "there is no template 'digitz'; use digits"),
        (("new", "digits", "."), "already exists and is not empty"),
        (("new", "digits", "plan.py"), "already exists and is not empty"),
        (("show",), "there is no run in runs/ yet"),
        (("report", "nope"), "there is no run 'nope'"),
        (("compare", "one"), "needs two runs or more"),
        (("compare", "one", "two"), "there is no run 'one'"),
        (("replay", "nope", "plan.py"), "there is no run 'nope'"),
        (("ls", "nowhere"), "the folder nowhere does not exist"),
        (("data", "plan.py", "--out", "who.xyz"), "who.xyz cannot be written"),
        (("data", "plan.py", "--out", "gone/who.png"), "gone/who.png cannot be written"),
    ],
)
def test_commands_refuse(shell, words, message):
    (shell.folder / "empty.py").write_text("x = 1\n")
    told = shell.fails(*words)
    assert message in told
    assert len(told.splitlines()) == 1


def test_a_name_that_is_nearly_right_is_hinted_at(shell):
    shell("run", "plan.py", "--quiet")
    assert "did you mean fedavg-1?" in shell.fails("show", "fedavg-2")


def test_a_metric_that_no_run_has(shell):
    for seed in ("0", "1"):
        shell("run", "plan.py", "--quiet", "--seed", seed)
    assert "'f1'" in shell.fails("compare", "fedavg-1", "fedavg-2", "--metric", "f1")


def test_a_damaged_run_is_listed_and_named(shell):
    shell("run", "plan.py", "--quiet")
    (shell.folder / "runs/fedavg-1/run.db").write_bytes(b"nonsense" * 1000)
    assert shell.json("ls")[0]["state"] == "unreadable"
    assert "unreadable" in shell("ls")
    assert "cannot be read" in shell.fails("show")


OWN_RULE = """
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Twice:
    def met(self, seen, lower):
        return len(seen) >= 2


plan = replace(plan, stop=(Twice(),))
"""


def test_a_stop_rule_of_ones_own_does_not_hide_the_runs(shell):
    with (shell.folder / "plan.py").open("a") as stream:
        stream.write(OWN_RULE)
    shell("run", "plan.py", "--quiet")
    assert [(run["rounds"], run["state"]) for run in shell.json("ls")] == [(2, "finished")]


def test_rounds_that_counted_for_nothing_are_told(shell):
    few = ("--set", "minimum=3", "--set", "sampling=Poisson(0.4)", "--seed", "4")
    told = shell("run", "plan.py", "--quiet", "--rounds", "2", *few)
    assert "2 of them had too few replies" in told
    assert "✓" not in told


@pytest.mark.parametrize("more", [(), ("--processes", "2")])
def test_what_can_never_count_is_refused_naming_who_is_missing(shell, more):
    said = shell.fails("run", "plan.py", "--set", "minimum=9", *more)
    assert "the 3 clients there are ('a', 'b', 'c')" in said and "6 more are missing" in said
    assert not (shell.folder / "runs").exists() or not list((shell.folder / "runs").iterdir())


def test_an_empty_list_says_how_to_begin(shell):
    assert "muster new digits" in shell("ls")


@pytest.mark.parametrize(
    "words",
    [
        ("rum",),
        ("run",),
        ("run", "plan.py", "--engin", "loop"),
        ("run", "plan.py", "--workers", "0"),
    ],
)
def test_wrong_usage_exits_with_2(shell, words):
    assert shell.fails(*words, code=2)


def test_an_error_in_a_users_function_shows_where(shell):
    with (shell.folder / "plan.py").open("a") as stream:
        stream.write("\n\ndef evaluate_on():\n    return 1 / 0\n")
    told = shell.fails("run", "plan.py")
    assert "failed in evaluate_on(): ZeroDivisionError" in told
    assert "return 1 / 0" in told
    assert told.count("File ") == 1
