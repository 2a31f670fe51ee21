# SPDX-License-Identifier: Apache-2.0
"""`muster privacy --site`: what a site reads of its own ledger, and what it is told without one."""

import json
import re

import pytest
from tests.runs.privacy.test_site import ROWS, RULES, dealt, plan, trained

from muster.federation.site import joined
from muster.federation.site.policy import Policy
from muster.privacy.threats import READERS

NAMES = ("spent", "left")


@pytest.fixture
def site(shell, tmp_path):
    """A site, lyon, that has trained in three rounds; the shell beside it."""
    trained(tmp_path / "lyon", 3)
    return shell


@pytest.mark.parametrize("option", ["--site", "--identity"])
def test_the_ledger_is_printed(site, option):
    lines = site("privacy", option, "lyon").splitlines()
    assert lines[0] == "lyon/studies/default/privacy.json"
    text = "\n".join(lines)
    for part in (
        "one row of this site",
        "in 3 trainings of 1 run",
        "epsilon 6 at delta 0.0001",
        "more like the last",
        "epsilon alone",
        "1-3",
    ):
        assert part in text, part


def test_and_given_as_json(site):
    (found,) = site.json("privacy", "--site", "lyon")
    assert (found["budget"], found["delta"]) == (6.0, 1e-4)
    assert found["left"] == 6.0 - found["spent"]
    assert [(r["run"], r["trainings"]) for r in found["runs"]] == [("r", 3)]
    assert found["rdp"] >= found["spent"] > 0


def test_trainings_without_a_budget_are_told_and_nothing_is_said_to_bound_them(site, tmp_path):
    trained(tmp_path / "lyon", 5, policy=Policy(), run="s", site_store="vault-2")
    text = " ".join(site("privacy", "--site", "lyon").split())
    assert "5 trainings without a budget: nothing bounds what is spent" in text
    assert "without those, in 8 trainings of 2 runs" in text
    (found,) = site.json("privacy", "--site", "lyon")
    assert (found["spent"], found["uncounted"]) == (None, 5) and found["charged"] > 0
    assert [(r["run"], r["epsilon"] is None) for r in found["runs"]] == [("r", False), ("s", True)]


def test_a_policy_is_asked_instead(site, tmp_path):
    (tmp_path / "site.toml").write_text("budget_epsilon = 20.0\nbudget_delta = 1e-4\n")
    (found,) = site.json("privacy", "--site", "lyon", "--policy", "site.toml")
    assert found["budget"] == 20.0


def test_before_the_first_round_and_without_a_budget(shell, tmp_path):
    trained(tmp_path / "nice", 0)
    text = shell("privacy", "--site", "nice")
    assert "nothing yet, at delta 0.0001" in text
    assert f"epsilon {RULES.budget_epsilon:g} at delta" in text
    trained(tmp_path / "nice", 1)
    (tmp_path / "nice/studies/default/budget.json").unlink()
    text = shell("privacy", "--site", "nice")
    assert "not known; name it with --policy site.toml" in text
    assert "in 1 training of 1 run" in text
    assert json.loads(shell("privacy", "--site", "nice", "--json"))["budget"] is None


def test_what_is_asked_wrongly_is_refused(site):
    assert "nowhere is no folder" in site.fails("privacy", "--site", "nowhere")
    assert "a site keeps one when its policy" in site.fails("privacy", "--site", ".")
    assert "give one of them" in site.fails("privacy", "last", "--site", "lyon")


def test_who_learns_what_of_a_site_stands_below_its_ledger(site, tmp_path):
    assert "is known once it has joined a run" in site("privacy", "--site", "lyon")
    assert site.json("privacy", "--site", "lyon")[0]["threats"] is None
    kept = tmp_path / "lyon/studies/default"
    joined.write(kept, joined.Joined.of(plan(), RULES, ROWS, plain=False))
    text = site("privacy", "--site", "lyon")
    assert text.index("more like the last") < text.index("Who learns what of a client")
    (found,) = site.json("privacy", "--site", "lyon")
    assert [line["reader"] for line in found["threats"]] == list(READERS)
    assert found["faults"] == [] and found["study"].endswith("studies/default")
    shown = " ".join(text.split())
    for line in found["threats"]:
        assert line["reader"] in shown and line["learns"][:20] in shown


def test_without_a_ledger_the_table_is_there_all_the_same(shell, tmp_path):
    kept = tmp_path / "nice/studies/default"
    kept.mkdir(parents=True)
    joined.write(kept, joined.Joined.of(plan(), Policy(), ROWS, plain=False))
    text = shell("privacy", "--site", "nice")
    assert "No ledger is kept: the policy has no budget_epsilon" in text
    assert "its ledger holds none; give budget_epsilon in site.toml" in " ".join(text.split())
    assert shell.json("privacy", "--site", "nice")[0]["ledger"] is None


def test_no_epsilon_of_noise_in_shares_is_shown_without_what_it_assumes(shell, tmp_path):
    trained(tmp_path / "caen", 1, dealt())
    text = " ".join(shell("privacy", "--site", "caen").split())
    assert "it is assumed that of the 4 shares of noise in each sum 2 besides" in text
    assert "by its own share alone: epsilon" in text
    (found,) = shell.json("privacy", "--site", "caen")
    assert found["assumes"]["others"] == 2 and found["assumes"]["spent_alone"] > found["spent"]
    rules = "budget_epsilon = 20.0\nbudget_delta = 1e-4\nown_share_only = true\n"
    (tmp_path / "site.toml").write_text(rules)
    told = ("privacy", "--site", "caen", "--policy", "site.toml")
    assert "this site's own share alone (own_share_only)" in " ".join(shell(*told).split())
    (own,) = shell.json(*told)
    assert own["assumes"] is None and own["spent"] == found["assumes"]["spent_alone"]


def test_no_epsilon_is_shown_smaller_than_it_is(site):
    """To the digits that are shown, what is spent is rounded up and what is left down."""
    (found,) = site.json("privacy", "--site", "lyon")
    text = " ".join(site("privacy", "--site", "lyon").split())
    shown, left = (float(re.search(rf"{word} epsilon ([0-9.]+)", text)[1]) for word in NAMES)
    assert found["spent"] <= shown < found["spent"] * 1.001
    assert found["left"] * 0.999 < left <= found["left"]
    rdp = float(re.search(r"by RDP ([0-9.]+)", text)[1])
    assert found["rdp"] <= rdp
