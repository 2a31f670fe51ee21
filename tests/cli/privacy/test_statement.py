# SPDX-License-Identifier: Apache-2.0
"""`muster privacy`, and ε wherever a run is shown."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

NOISY = (
    "--set",
    "pipeline=[Clip(0.5), Noise(2.0)]",
    "--set",
    "aggregation=Mean('expected')",
    "--set",
    "weighting=equal",
    "--set",
    "budget=Budget(20.0, 1e-3)",
)


@pytest.fixture
def noisy(shell):
    """The tiny plan with noise, trained in `runs/noisy`."""
    shell("run", "plan.py", "--path", "runs/noisy", "--quiet", *NOISY)
    return shell


def test_the_statement_is_printed_and_given_as_json(noisy):
    text = noisy("privacy", "noisy")
    assert text.startswith("No privacy is claimed for this run:")
    assert "this is a simulation" in text
    found = json.loads(noisy("privacy", "noisy", "--json"))
    assert (found["id"], found["private"], len(found["items"])) == ("noisy", False, 11)
    assert found["items"]["privacy"].endswith("the budget is 20 at delta 0.001")


def test_epsilon_stands_wherever_a_run_is_shown(noisy):
    assert "ε" in noisy("ls").splitlines()[0]
    (entry,) = [json.loads(line) for line in noisy("ls", "--json").splitlines()]
    shown = noisy("show", "noisy")
    assert "of 20, at delta 0.001" in shown
    assert "muster privacy noisy" in shown
    facts = json.loads(noisy("show", "noisy", "--json"))
    assert facts["history"][-1]["privacy"]["epsilon"] == entry["epsilon"]


def test_the_report_has_a_section_and_no_ledger(noisy):
    noisy("report", "noisy")
    page = Path("runs/noisy/report.html").read_text(encoding="utf-8")
    assert 'id="privacy"' in page
    assert "this is a simulation" in page
    assert "epsilon so far by round" in page
    assert "&quot;entries&quot;" not in page


ROWS = (
    "--set",
    "local.examples=PerExample(1.0, 2.0)",
    "--set",
    "evaluate=Every(clients=0)",
    "--set",
    "budget=Budget(50.0, 1e-3)",
)


def test_rows_have_a_statement_of_their_own(shell):
    text = shell("run", "plan.py", "--path", "runs/rows", *ROWS)
    assert "enough for" in text and "rounds of any one client" in text
    assert "ε" in next(line for line in text.splitlines() if "replies" in line)
    text = shell("privacy", "rows")
    assert text.startswith("No privacy of single rows is claimed for this run:")
    assert "zero-out" in text
    (found,) = [json.loads(line) for line in shell("privacy", "rows", "--json").splitlines()]
    assert (found["unit"], found["private"], len(found["items"])) == ("example", False, 11)
    assert "of 50, at delta 0.001, for one row of " in shell("show", "rows")
    shell("report", "rows")
    page = Path("runs/rows/report.html").read_text(encoding="utf-8")
    assert "epsilon so far by round" in page
    assert "The statement about one example" in page


def test_clients_and_rows_are_stated_one_after_the_other(shell):
    words = [*NOISY, *ROWS[:4]]
    shell("run", "plan.py", "--path", "runs/both", "--quiet", *words)
    text = shell("privacy", "both")
    assert text.index("No privacy is claimed") < text.index("No privacy of single rows is claimed")
    lines = [json.loads(line) for line in shell("privacy", "both", "--json").splitlines()]
    assert [one["unit"] for one in lines] == ["client", "example"]
    assert "epsilon of a row" in shell("show", "both")


def test_a_run_without_noise_has_no_column_for_it(shell):
    shell("run", "plan.py", "--path", "runs/plain", "--quiet")
    assert "ε" not in shell("ls")
    assert "epsilon" not in shell("show", "plain")
    assert "no stage adds noise" in shell("privacy", "plain")


def test_the_table_of_rounds_has_a_column_and_the_budget_stands_above(shell):
    text = shell("run", "plan.py", "--path", "runs/noisy", *NOISY)
    assert "the budget of epsilon 20 at delta 0.001 is enough for" in text
    head = next(line for line in text.splitlines() if "round" in line and "replies" in line)
    assert "ε" in head
    assert "epsilon" in text.splitlines()[-2]


def test_a_spent_budget_is_said_and_exits_with_zero(shell):
    words = [w.replace("20.0", "3.0") for w in NOISY]
    text = shell("run", "plan.py", "--path", "runs/spent", "--quiet", *words)
    assert "! stopped: the next release would bring epsilon" in text
    assert "past the budget of 3" in text
    assert json.loads(shell("ls", "--json"))["state"] == "spent"
    more = shell("run", "plan.py", "--resume", "spent", "--quiet", *NOISY)
    assert "stopped" not in more
    assert json.loads(shell("ls", "--json"))["state"] == "finished"


def test_runs_share_a_ledger_that_is_named(shell):
    for name in "ab":
        shell("run", "plan.py", "--path", f"runs/{name}", "--quiet", "--ledger", "all.json", *NOISY)
    found = {e["id"]: e["epsilon"] for e in map(json.loads, shell("ls", "--json").splitlines())}
    assert found["b"] > found["a"] > 0


@pytest.mark.parametrize(
    "stages", ["[Clip(0.5), Noise(2.0)]", "[Clip(0.5), LocalNoise(3.0, 1e-3)]"]
)
def test_processes_have_the_noise_of_the_loop(shell, stages):
    words = [f"pipeline={stages}" if "pipeline" in word else word for word in NOISY]
    loop = ("run", "plan.py", "--path", "runs/loop", "--quiet", "--engine", "loop", *words)
    shell(*loop)
    real = ("run", "plan.py", "--path", "runs/real", "--quiet", "--processes", "2", *words)
    command = [sys.executable, "-c", "from muster.cli import main; main()", *real]
    subprocess.run(command, check=True, capture_output=True)
    models = [
        [record["model"] for record in json.loads(shell("show", name, "--json"))["history"]]
        for name in ("loop", "real")
    ]
    assert models[0] == models[1]
    assert "this is a simulation" in shell("privacy", "real")


def test_who_learns_what_is_printed_with_its_tests(shell):
    shell("run", "plan.py", "--path", "runs/plain", "--quiet")
    text = shell("privacy", "plain")
    assert "Who learns what of a client" in text
    assert "this is a simulation" in text and "trust in the server alone" in text
    lines = json.loads(shell("privacy", "plain", "--json"))["threats"]
    assert len(lines) == 6 and {*lines[0]} == {"reader", "learns", "rests_on", "test"}


def test_a_policy_beside_a_run_has_its_rules_in_the_table(shell):
    masked = ("--set", "pipeline=[Clip(1.0), Quantize(12), SecureSum()]")
    hidden = ("--set", "weighting=equal", "--set", "evaluate=Every(clients=0)")
    shell("run", "plan.py", "--path", "runs/masked", "--quiet", *masked, *hidden)
    Path("site.toml").write_text('peers = ["b", "c"]\n')
    assert "rules of sites are not known here" in shell("privacy", "masked")
    told = shell("privacy", "masked", "--policy", "site.toml")
    assert "keys of its own under the names that this site gives" in told
