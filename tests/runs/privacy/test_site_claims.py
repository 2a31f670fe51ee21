# SPDX-License-Identifier: Apache-2.0
"""A site's own table claims what holds: of the plan that it has, for the unit of its ledger."""

import math
from dataclasses import replace

import pytest
from tests.adversary.rogue import Rogue, Site
from tests.adversary.sums import Session, Sums
from tests.adversary.test_site_noise import NOISY, PLANS
from tests.federation.coordinator.masked import plan_of
from tests.runs.privacy.test_site import ROWS, RULES, dealt, plan, said, trained

from muster import Local, pipeline
from muster.errors import RunError
from muster.federation.site import joined
from muster.federation.site.policy import Policy
from muster.federation.site.study import STUDIES, StudyRecord
from muster.federation.site.trainer import Habits
from muster.privacy import spent
from muster.privacy.statement import rounded_up
from muster.runs.privacy.site import accounts, studies

LOCALLY = plan(Local(epochs=1, batch=4), pipeline.Clip(1.0), pipeline.LocalNoise(3.0, 1e-5))


@pytest.mark.parametrize("first", ["rows", "shares"])
def test_a_ledger_of_rows_and_of_shares_is_about_a_row_and_counts_shares_so(first, tmp_path):
    """A row that goes turns an update into another one: twice the bound that shares are charged."""
    home, big = tmp_path / "lyon", replace(RULES, budget_epsilon=1e4)
    runs = [(plan(), "vault-1"), (dealt(), "vault-2")]
    for number, (given, vault) in enumerate(runs if first == "rows" else runs[::-1]):
        trained(home, 3, given, big, run=f"r{number}", site_store=vault)
    (found,) = accounts(home)
    rows = [c for c in found.ledger.charges if not c.release.discrete]
    shares = [c for c in found.ledger.charges if c.release.discrete]
    assert len(rows) == len(shares) == 3 and found.unit.startswith("one row of this site")
    true = spent([*rows, *(c.doubled() for c in shares)], found.ledger.delta).epsilon
    assert found.epsilon == true > found.ledger.epsilon
    assert found.left == 1e4 - true
    of_shares = found.parts[1 if first == "rows" else 0]
    assert of_shares.epsilon == spent([c.doubled() for c in shares], found.ledger.delta).epsilon
    (own,) = accounts(home, replace(big, own_share_only=True))
    assert own.epsilon > found.epsilon


def test_a_ledger_of_shares_alone_is_about_updates_and_not_doubled(tmp_path):
    trained(tmp_path, 3, dealt())
    (found,) = accounts(tmp_path)
    assert found.epsilon == found.ledger.epsilon and "masked sum" in found.unit


@pytest.mark.parametrize("pipe", [(), (pipeline.Clip(1.0), pipeline.Quantize(8))])
def test_a_plan_without_noise_is_claimed_nothing_by_the_ledger_of_an_earlier_run(pipe, tmp_path):
    home = tmp_path / "lyon"
    trained(home, 3)  # with PerExample, charged
    bare = replace(plan(Local(epochs=1)), pipeline=pipe)
    joined.write(home / STUDIES / "default", joined.Joined.of(bare, Policy(), ROWS, plain=False))
    (study,) = studies(home)
    assert study.account.ledger.entries
    assert "each client's update by itself" in said(study, "the server")
    reader = said(study, "a reader of the model")
    assert "nothing bounds it" in reader
    assert "neither plan nor policy has this site add any" in reader
    assert "covered by noise" not in said(study, "another client")


@pytest.mark.parametrize(
    ("first", "then", "unit"),
    [
        (dealt(), plan(), "one row of this site"),
        (LOCALLY, LOCALLY, "its update is this one, or any other"),
        (dealt(), LOCALLY, "its update in a masked sum is this one, or zero"),
    ],
)
def test_a_claim_is_for_the_unit_that_the_plan_at_hand_keeps_too(first, then, unit, tmp_path):
    """Before its first training: of an update that this plan shows, no claim about updates."""
    home, big = tmp_path / "lyon", replace(RULES, budget_epsilon=1e4)
    trained(home, 2, first, big)
    joined.write(home / STUDIES / "default", joined.Joined.of(then, big, ROWS, plain=False))
    (study,) = studies(home)
    assert unit in said(study, "a reader of the model")
    if then == plan():
        doubled = [charge.doubled() for charge in study.account.ledger.charges]
        epsilon = rounded_up(spent(doubled, 1e-4).epsilon)
        assert f"With epsilon {epsilon} at delta" in said(study, "a reader of the model")
        assert f"share alone epsilon is {epsilon}" not in said(study, "a reader of the model")


def test_a_ledger_that_is_gone_with_its_note_is_noticed(tmp_path):
    home = tmp_path / "lyon"
    trained(home, 2)
    kept = home / STUDIES / "default"
    joined.write(kept, joined.Joined.of(plan(), RULES, ROWS, plain=False))
    for name in ("privacy.json", "budget.json"):
        (kept / name).unlink()
    with pytest.raises(RunError, match="it has 0 entries"):
        studies(home)


def test_a_plan_without_masks_is_not_said_to_show_sums_alone(tmp_path):
    """The first run of the study masked its sums; the second, which it joined since, does not."""
    masked = plan_of(rounds=5)
    liar = Sums(tmp_path / "fed", plan=masked)
    liar.late = ()
    liar.lead(Session(liar.names, most=math.inf), habits=Habits(wait=0.0))
    home = liar.home / "ann"
    (study,) = studies(home)
    assert "sums of at least" in said(study, "the server")
    bare = replace(masked, pipeline=masked.pipeline[:2])  # Clip and Quantize
    assert bare.secure is None
    joined.write(home / STUDIES / "default", joined.Joined.of(bare, Policy(), 9, plain=False))
    (study,) = studies(home)
    assert "each client's update by itself" in said(study, "the server")


def test_noise_that_a_site_has_switched_off_is_not_claimed(tmp_path):
    """A round under the policy's noise, one without any, one with it again: all are released."""
    noisy = replace(NOISY, rounds_per_day=None)
    site, rogue = Site(tmp_path, PLANS["plain"], noisy), Rogue(PLANS["plain"], [])
    for round, policy in enumerate((noisy, Policy(), noisy), 1):
        site.policy = policy
        rogue.script = [rogue.task(round), rogue.settled(round)]
        site.attend(rogue)
        (study,) = studies(site.study)
        line = said(study, "a reader of the model")
        assert ("this site's noise hides" in line) == (round == 1), line
    assert len(rogue.updates) == 3 and len(site.charged) == 2


def test_a_join_that_is_refused_changes_no_table_and_no_budget(tmp_path):
    """`joined.json` and `budget.json` are of what it joined, and here it joined nothing."""
    site, rogue = Site(tmp_path, PLANS["plain"], NOISY), Rogue(PLANS["plain"], [])
    rogue.script = [rogue.task(1), rogue.settled(1)]
    site.attend(rogue)
    before = {path.name: path.read_bytes() for path in site.study.glob("*.json")}
    assert before.keys() == {"joined.json", "budget.json", "privacy.json"}
    other = Rogue(PLANS["plain"], [], run="r2")  # a further run, which needs a word
    site.policy = replace(NOISY, noise=8.0, budget_epsilon=99.0)
    with pytest.raises(RunError, match="a further run"):
        site.attend(other)
    assert not other.updates
    assert before == {path.name: path.read_bytes() for path in site.study.glob("*.json")}


def test_a_ledger_is_read_while_its_site_is_at_work(tmp_path):
    trained(tmp_path, 2)
    study = StudyRecord(tmp_path / STUDIES / "default", "default")
    try:
        (found,) = accounts(tmp_path)
        assert found.parts[0].trainings == 2
    finally:
        study.close()


def test_a_record_that_cannot_be_read_is_said(tmp_path):
    trained(tmp_path, 2)
    for rest in (tmp_path / STUDIES / "default").glob("study.db*"):
        rest.write_bytes(b"nothing of the kind" * 99)
    with pytest.raises(RunError, match=r"study\.db cannot be read"):
        accounts(tmp_path)
