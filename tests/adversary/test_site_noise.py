# SPDX-License-Identifier: Apache-2.0
"""Noise that a site adds is drawn once for an assignment, and charged before it can leave.

The attack: a server asks for one round again and again, a little different each time. Averaged,
independently noised copies of one update give the update away, and the ledger had one entry.
"""

import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
from tests.adversary.rogue import NOON, Rogue, Site
from tests.federation.site import scene
from tests.federation.site.scene import Killed, plan, spoil

from muster import pipeline, rounds
from muster.errors import RunError
from muster.federation.protocol.message import Decline
from muster.federation.site.policy import Policy
from muster.federation.site.trainer import Habits
from muster.runs.privacy.site import accounts, studies

NOISY = Policy(clip=1.0, noise=4.0, budget_epsilon=8.0, budget_delta=1e-5, rounds_per_day=1)
PLANS = {
    "plain": plan(weighting="equal"),
    "rounded": plan(weighting="equal", pipeline=[pipeline.Clip(2.0), pipeline.Quantize(8)]),
}


def killed_at(label):
    """Dies where it comes by a label."""

    def at(passed):
        if passed == label:
            raise Killed

    return at


@pytest.mark.parametrize("name", PLANS)
def test_one_round_asked_in_117_ways_gives_one_copy_for_one_charge(name, tmp_path):
    site, rogue = Site(tmp_path, PLANS[name], NOISY), Rogue(PLANS[name], [])
    other = rogue.publish(rounds.start(replace(PLANS[name], seed=7)).sent())
    changes = [{"times": n} for n in range(1, 60)] + [{"peers": n} for n in range(1, 58)]
    rogue.script = [rogue.task(**more) for more in [*changes, {"model": other}]]
    site.attend(rogue)
    assert len(rogue.bodies()) == 1 and len(site.charged) == 1
    assert len(rogue.of(Decline)) == 116
    assert all("was begun with another" in said.text for said in rogue.of(Decline))


def test_the_same_round_asked_again_has_the_same_bits_for_one_charge(tmp_path):
    site, rogue = Site(tmp_path, PLANS["rounded"], NOISY), Rogue(PLANS["rounded"], [])
    rogue.script = [rogue.task() for _ in range(20)]
    site.attend(rogue)
    rogue.script = [rogue.task(lease=1.0) for _ in range(20)]
    site.attend(rogue)
    assert len(rogue.updates) == 40 and len(rogue.bodies()) == 1 and len(site.charged) == 1


@pytest.mark.parametrize(
    "label",
    [
        "site: before assignment is begun",
        "site: assignment is begun",
        "site: in step",
        "site: before update kept",
        "site: in update kept",
        "site: after update kept",
        "site: before upload",
        "site: after upload",
    ],
)
def test_a_kill_between_training_and_upload_changes_no_bit_of_the_noise(label, tmp_path):
    """Resuming is free of limits: one round a day, and it is tomorrow night by then."""
    given, bodies = PLANS["rounded"], []
    for number in range(2):
        site = Site(tmp_path / f"{number}", given, NOISY)
        site.home.mkdir()
        rogue = Rogue(given, [])
        rogue.script = [rogue.task()] * 2
        fixed = {"entropy": lambda size: b"7" * size}
        with pytest.raises(Killed):
            site.attend(rogue, at=killed_at(label if number else "site: before upload"), **fixed)
        rogue.script = [rogue.task()]
        site.policy = replace(NOISY, hours=(3, 4))
        if label == "site: before assignment is begun" and number:
            site.policy = NOISY  # nothing was begun
        site.attend(rogue, wall=lambda: NOON, **fixed)
        assert len(rogue.bodies()) == 1 and len(site.charged) == 1
        bodies.append(rogue.bodies())
    assert bodies[0] == bodies[1]


def test_a_damaged_update_is_made_again_with_the_noise_it_had(tmp_path):
    site, rogue = Site(tmp_path, PLANS["plain"], NOISY), Rogue(PLANS["plain"], [])
    rogue.script = [rogue.task()]
    site.attend(rogue)
    (path,) = (tmp_path / "vault").glob("update-*")
    spoil(path)
    rogue.script = [rogue.task()]
    site.attend(rogue)
    assert len(rogue.updates) == 2 and len(rogue.bodies()) == 1 and len(site.charged) == 1


@pytest.mark.parametrize("lost", ["the vault", "its secret"])
def test_an_assignment_whose_secret_is_gone_is_not_trained_again(lost, tmp_path):
    """With another secret it would be another release of the same update."""
    site, rogue = Site(tmp_path, PLANS["plain"], NOISY), Rogue(PLANS["plain"], [])
    rogue.script = [rogue.task()]
    site.attend(rogue)
    if lost == "its secret":
        for path in [*(tmp_path / "vault").glob("noise-*"), *(tmp_path / "vault").glob("update-*")]:
            path.unlink()
    rogue.script = [rogue.task()]
    site.attend(rogue, site_store="vault" if lost == "its secret" else "another")
    assert len(rogue.updates) == 1 and len(site.charged) == 1
    (decline,) = rogue.of(Decline)
    assert "the secret of its noise is gone" in decline.text
    assert [said["rule"] for said in site.logged("declined")] == ["secret"]


def test_limits_count_assignments_of_all_runs_and_attempts_of_the_study(tmp_path):
    policy = replace(NOISY, rounds_per_day=3, new_runs=9, repeated_rounds=1)
    site, day = Site(tmp_path, PLANS["plain"], policy), 86400
    first = Rogue(PLANS["plain"], [])
    first.script = [first.task(1), first.settled(1), first.task(1, attempt=2)]
    first.script += [first.settled(1, attempt=2)]
    site.attend(first)
    second = Rogue(PLANS["plain"], [], run="r2")
    second.script = [second.task(1), second.settled(1), second.task(2)]
    site.attend(second)
    assert [u.attempt for u, _ in first.updates] == [1, 2] and len(second.updates) == 1
    assert [d.text for d in second.of(Decline)] == ["the site's policy allows 3 rounds a day"]
    second.script = [second.task(2)]
    site.attend(second, wall=lambda: NOON + day)
    assert len(second.updates) == 2 and len(site.charged) == 4
    assert len(first.bodies() | second.bodies()) == 4, "each has noise of its own"


def test_a_training_is_in_the_ledger_before_it_begins(tmp_path):
    site, rogue = Site(tmp_path, PLANS["plain"], NOISY), Rogue(PLANS["plain"], [])
    rogue.script, seen = [rogue.task()], []

    def at(label):
        if label == "site: assignment is begun":
            seen.extend(entry.charge.run.split("/") for entry in site.charged)

    site.attend(rogue, at=at)
    ((run, part, model, seal),) = seen
    assert (run, part.partition(".")[0], model) == ("r1", "1", rogue.model) and len(seal) == 64


def test_a_spent_budget_outlives_vaults_and_runs(tmp_path):
    site = Site(tmp_path, PLANS["plain"], replace(NOISY, rounds_per_day=None, new_runs=99))
    trained = 0
    for number in range(40):
        rogue = Rogue(PLANS["plain"], [], run=f"r{number}")
        rogue.script = [rogue.task()]
        site.attend(rogue, site_store=f"vault-{number}")
        trained += len(rogue.updates)
    assert 0 < trained == len(site.charged) < 40
    assert site.charged[-1].epsilon <= 8.0
    assert "budget of privacy" in rogue.of(Decline)[0].text


def lived(home, rogue, policy, data, at=None):
    """One life of a site with these rows."""
    home.mkdir(exist_ok=True)
    habits = Habits(policy=policy, wall=lambda: NOON)
    return scene.attend(
        PLANS["plain"],
        rogue,
        home / "vault",
        data=data,
        at=at,
        habits=habits,
        study=home / "studies" / "default",
    )


@pytest.mark.parametrize("how", ["damaged", "put back"])
def test_noise_of_one_assignment_is_on_no_second_update_of_other_rows(how, tmp_path):
    """One patient comes in another's place, and what was kept of the update is gone.

    Made again with the same noise, the two updates would differ by that patient alone.
    """
    rogue, home = Rogue(PLANS["plain"], []), tmp_path / "noised"
    x, y = scene.rows()
    other = np.concatenate([x[1:], x[:1] + 3]), np.concatenate([y[1:], (y[:1] + 1) % 3])

    def at(label):
        if label == "site: in step" and not (tmp_path / "copy").exists():
            shutil.copytree(home / "vault", tmp_path / "copy")

    rogue.script = [rogue.task()]
    lived(home, rogue, NOISY, (x, y), at)
    if how == "put back":
        shutil.rmtree(home / "vault")
        shutil.copytree(tmp_path / "copy", home / "vault")
    else:
        (path,) = (home / "vault").glob("update-*")
        spoil(path)
    kept = shutil.copytree(home, tmp_path / "kept")
    rogue.script = [rogue.task()]
    lived(home, rogue, NOISY, other)
    assert len(rogue.updates) == 1
    (decline,) = rogue.of(Decline)
    assert "its rows, plan or policy are others" in decline.text
    rogue.script = [rogue.task()]
    lived(kept, rogue, NOISY, (x, y))
    assert len(rogue.updates) == 2 and len(rogue.bodies()) == 1, "of the same rows the same bits"


def test_what_was_charged_is_what_is_trained_also_under_another_policy(tmp_path):
    """Begun and charged with much noise; by the time that a model comes the policy has less."""
    site = Site(tmp_path, PLANS["plain"], replace(NOISY, budget_epsilon=1e3))
    rogue = Rogue(PLANS["plain"], [])
    rogue.script = [rogue.task()]
    with pytest.raises(Killed):
        site.attend(rogue, at=killed_at("site: assignment is begun"))
    site.policy = replace(site.policy, noise=0.5)
    rogue.script = [rogue.task()]
    site.attend(rogue)
    assert not rogue.updates and len(site.charged) == 1
    assert "its rows, plan or policy are others" in rogue.of(Decline)[0].text


@pytest.mark.parametrize("how", ["gone", "put back"])
def test_a_ledger_that_is_gone_or_put_back_is_noticed(how, tmp_path):
    """The ledger alone says what was spent of the budget; the record knows how much that was."""
    policy = replace(NOISY, rounds_per_day=None)
    site, rogue = Site(tmp_path, PLANS["plain"], policy), Rogue(PLANS["plain"], [])
    book = site.study / "privacy.json"
    rogue.script = [rogue.task(1), rogue.settled(1)]
    site.attend(rogue)
    old = book.read_bytes()
    rogue.script = [rogue.task(2), rogue.settled(2)]
    site.attend(rogue)
    whole = book.read_bytes()
    assert len(site.charged) == 2
    book.unlink() if how == "gone" else book.write_bytes(old)
    rogue.script = [rogue.task(3)]
    with pytest.raises(RunError, match=r"has [01] entries, and .* record beside it knows of 2"):
        site.attend(rogue)
    assert len(rogue.updates) == 2
    with pytest.raises(RunError, match=r"privacy\.json is gone or was put back"):
        accounts(tmp_path)
    book.write_bytes(whole)
    rogue.script = [rogue.task(3)]
    site.attend(rogue)
    assert len(rogue.updates) == len(site.charged) == 3


def test_a_training_without_a_budget_is_in_what_is_shown_as_spent(tmp_path):
    policy = replace(NOISY, rounds_per_day=None)
    site, rogue = Site(tmp_path, PLANS["plain"], policy), Rogue(PLANS["plain"], [])
    for round in (1, 2, 3):
        off = replace(policy, budget_epsilon=None, budget_delta=None, metrics="hidden")
        site.policy = off if round == 2 else policy
        rogue.script = [rogue.task(round), rogue.task(round), rogue.settled(round)]
        site.attend(rogue)
        (found,) = accounts(tmp_path)
        assert (found.parts[0].trainings, found.parts[0].last) == (round, round)
        assert (found.spent < math.inf) == (round == 1)
    assert found.uncounted == (("r1", 2, 1),) and found.parts[0].epsilon == math.inf
    assert found.epsilon == site.charged[-1].epsilon and len(site.charged) == 2
    (study,) = studies(tmp_path)
    reader = study.threats[-1]
    assert "nothing bounds it" in reader.learns
    assert "1 training of this study was without a budget" in reader.rests_on


def test_a_training_that_was_charged_is_not_uncounted_because_the_budget_went(tmp_path):
    """It goes on after a kill, under a policy that has no budget any more."""
    policy = replace(NOISY, rounds_per_day=None)
    site, rogue = Site(tmp_path, PLANS["plain"], policy), Rogue(PLANS["plain"], [])
    rogue.script = [rogue.task()]
    with pytest.raises(Killed):
        site.attend(rogue, at=killed_at("site: before upload"))
    site.policy = replace(policy, budget_epsilon=None, budget_delta=None, metrics="hidden")
    rogue.script = [rogue.task()]
    site.attend(rogue)
    (found,) = accounts(tmp_path)
    assert len(rogue.updates) == 1 and found.uncounted == () and found.parts[0].trainings == 1
