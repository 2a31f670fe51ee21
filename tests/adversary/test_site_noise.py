# SPDX-License-Identifier: Apache-2.0
"""Noise that a site adds is drawn once for an assignment, and charged before it can leave.

The attack: a server asks for one round again and again, a little different each time. Averaged,
independently noised copies of one update give the update away, and the ledger had one entry.
"""

from dataclasses import replace

import pytest
from tests.adversary.rogue import NOON, Rogue, Site
from tests.federation.site.scene import Killed, plan, spoil

from muster import pipeline, rounds
from muster.federation.protocol.message import Decline
from muster.federation.site.policy import Policy

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
    ((run, attempt, model, secret),) = seen
    assert (run, attempt, model) == ("r1", "1", rogue.model) and len(secret) == 64


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
