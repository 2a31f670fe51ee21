# SPDX-License-Identifier: Apache-2.0
"""Nothing is done that the plan does not say: no extra round, no settled round again.

The attack: a server asks for rounds beyond the plan, or for rounds that are settled, with models of
its choice; full batches on one model, asked again and again, are one more look at the same rows.
"""

from dataclasses import replace

import pytest
from tests.adversary.rogue import Rogue, Site
from tests.federation.site.scene import Killed, plan

from muster import algorithms, rounds
from muster.errors import RunError
from muster.federation.protocol.message import Decline, Wait
from muster.federation.site.agent import LAG
from muster.federation.site.policy import Policy

PLAN = plan(weighting="equal", rounds=3)
PATIENT = [1] * (LAG + 1)  # as long as a server may lag


def played(rogue, *rounds_, attempt=1):
    """Rounds that are trained and settled."""
    for round in rounds_:
        rogue.script += [rogue.task(round, attempt=attempt), rogue.settled(round, attempt=attempt)]
    return rogue


def trained(rogue):
    return [(update.round, update.attempt) for update, _ in rogue.updates]


def test_a_settled_round_is_trained_no_second_time(tmp_path):
    site, rogue = Site(tmp_path, PLAN), Rogue(PLAN, [])
    other = rogue.publish(rounds.start(replace(PLAN, seed=5)).sent())
    played(rogue, 1)
    rogue.script += [rogue.task(1) for _ in PATIENT] + [rogue.task(1, model=other) for _ in PATIENT]
    site.attend(rogue)
    assert trained(rogue) == [(1, 1)]
    assert "is settled here" in rogue.of(Decline)[0].text
    assert site.logged("declined")[0]["rule"] == "settled"


def test_no_round_is_asked_for_after_a_later_one(tmp_path):
    """Round 1 was somebody else's; a server that asks for it after round 2 was put back."""
    site, rogue = Site(tmp_path, PLAN), played(Rogue(PLAN, []), 2)
    rogue.script += [rogue.task(1) for _ in PATIENT]
    site.attend(rogue)
    assert trained(rogue) == [(2, 1)]
    assert "raises its attempt" in rogue.of(Decline)[0].text


def test_no_round_is_beyond_the_plan_without_the_sites_word(tmp_path):
    site, rogue = Site(tmp_path, PLAN), Rogue(PLAN, [])
    rogue.script = [rogue.task(4), rogue.task(1 << 31)]
    site.attend(rogue)
    assert not rogue.updates
    assert "is none of the 3 rounds of this site's plan" in rogue.of(Decline)[0].text
    site.policy = Policy(extra_rounds=2)
    longer = played(Rogue(PLAN, []), 3, 4, 5, 6)
    site.attend(longer)
    assert trained(longer) == [(3, 1), (4, 1), (5, 1)]
    assert "and 2 more by its policy" in longer.of(Decline)[0].text


def test_the_fate_of_a_round_comes_before_the_next(tmp_path):
    site, rogue = Site(tmp_path, PLAN), Rogue(PLAN, [])
    rogue.script = [rogue.task(1)] + [rogue.task(2) for _ in PATIENT]
    site.attend(rogue)
    assert trained(rogue) == [(1, 1)]
    assert "the fate of round 1 was not told yet" in rogue.of(Decline)[0].text


@pytest.mark.parametrize("settled", [True, False])
def test_no_round_is_trained_again_without_the_sites_word(settled, tmp_path):
    """A server that says that it went back is not believed; the fate of a round changes nothing."""
    site, rogue = Site(tmp_path, PLAN, Policy(extra_rounds=9)), Rogue(PLAN, [])
    rogue.script = [rogue.task(1), *([rogue.settled(1)] if settled else [])]
    rogue.script += [rogue.task(1, attempt=n) for n in range(2, 20)]
    site.attend(rogue)
    assert trained(rogue) == [(1, 1)]
    assert "repeated_rounds in site.toml" in rogue.of(Decline)[0].text
    assert {said["rule"] for said in site.logged("declined")} == {"again"}


def test_so_many_rounds_are_trained_again_as_the_site_says(tmp_path):
    """In all, whatever attempts and rounds; a round that it has not trained is none of them."""
    site, rogue = Site(tmp_path, PLAN), played(Rogue(PLAN, []), 1, 2, 3)
    site.attend(rogue)
    site.policy = Policy(repeated_rounds=2)
    played(rogue, 2, 3, attempt=2)
    site.attend(rogue)
    assert trained(rogue)[3:] == [(2, 2), (3, 2)], "also where all rounds of the plan were trained"
    assert [task.get("again") for task in site.logged("task")] == [None] * 3 + [1, 1]
    rogue.script = [rogue.task(n % 3 + 1, attempt=n) for n in range(3, 50)]
    site.attend(rogue)
    assert len(rogue.updates) == 5
    assert "has trained 2 rounds again" in rogue.of(Decline)[0].text


def test_a_round_that_was_never_trained_here_is_none_again(tmp_path):
    """Somebody else was drawn for it, before the server went back."""
    site, rogue = Site(tmp_path, PLAN), played(Rogue(PLAN, []), 2)
    played(rogue, 1, attempt=2)
    played(rogue, 3, attempt=3)
    site.attend(rogue)
    assert trained(rogue) == [(2, 1), (1, 2), (3, 3)] and not rogue.of(Decline)


def test_the_fate_of_one_attempt_is_not_that_of_another(tmp_path):
    site, rogue = Site(tmp_path, PLAN, Policy(repeated_rounds=1)), Rogue(PLAN, [])
    rogue.script = [
        rogue.task(1),
        rogue.task(1, attempt=2),
        rogue.settled(1),
        rogue.task(1, attempt=2),
    ]
    rogue.script += [rogue.settled(1, run="r9", attempt=2), Wait(0.0)]
    site.attend(rogue)
    assert trained(rogue) == [(1, 1), (1, 2), (1, 2)] and len(rogue.bodies()) == 1
    assert len(site.logged("update")) == 2, "what is kept of the second is sent again"
    assert (rogue.polls[-1].pending, rogue.polls[-1].attempt) == (1, 2), "its fate is open"
    rogue.script = [rogue.settled(1, attempt=2), Wait(0.0)]
    site.attend(rogue)
    assert rogue.polls[-1].pending == 0


@pytest.mark.parametrize("label", ["site: in settle", "site: after settle"])
def test_a_fate_that_was_heard_before_a_kill_is_known_after_it(label, tmp_path):
    site, rogue = Site(tmp_path, PLAN), played(Rogue(PLAN, []), 1)

    def at(passed):
        if passed == label:
            raise Killed

    with pytest.raises(Killed):
        site.attend(rogue, at=at)
    rogue.script = [rogue.settled(1)] + [rogue.task(1) for _ in PATIENT]
    site.attend(rogue)
    assert trained(rogue) == [(1, 1)]
    (begun,) = site.begun(rogue.task(1))
    assert begun.accepted is True and "is settled here" in rogue.of(Decline)[0].text


def test_a_run_knows_a_site_by_one_id(tmp_path):
    """Under another the same assignment would draw other batches: one more look at the rows."""
    site, rogue = Site(tmp_path, PLAN), Rogue(PLAN, [])
    rogue.script = [rogue.task(1)]
    site.attend(rogue)
    for site_store in ("vault", "another"):
        other = Rogue(PLAN, [], client="b")
        other.script = [other.task(1)]
        with pytest.raises(RunError):
            site.attend(other, site_store=site_store)
        assert not other.updates


def test_no_attempt_before_the_highest_is_trained(tmp_path):
    site, rogue = Site(tmp_path, PLAN), played(Rogue(PLAN, []), 1, attempt=7)
    rogue.script += [rogue.task(2, attempt=6) for _ in PATIENT]
    site.attend(rogue)
    assert trained(rogue) == [(1, 7)]
    assert "has seen attempt 7" in rogue.of(Decline)[0].text


@pytest.mark.parametrize("site_store", ["vault", "another"])
def test_who_remembers_never_goes_back(site_store, tmp_path):
    given = plan(algorithms.Scaffold(), rounds=9)
    site, rogue = Site(tmp_path, given), played(Rogue(given, []), 1, 2)
    site.attend(rogue)
    rogue.script = [rogue.task(2, attempt=2)]
    with pytest.raises(RunError, match="was put back to round 2, and what this site remembers"):
        site.attend(rogue, site_store=site_store)
    assert trained(rogue) == [(1, 1), (2, 1)] and site.logged("declined")[0]["rule"] == "put back"


def test_another_run_than_the_one_joined_is_not_trained_for(tmp_path):
    site, rogue = Site(tmp_path, PLAN), Rogue(PLAN, [])
    rogue.script = [rogue.task(1, run="r9")]
    site.attend(rogue)
    assert not rogue.updates and site.logged("declined")[0]["rule"] == "run"


def test_a_server_that_lags_is_given_time(tmp_path):
    """As one of several behind one address may be, for a moment."""
    site, rogue = Site(tmp_path, PLAN), played(Rogue(PLAN, []), 1)
    rogue.script += [rogue.task(1), Wait(0.0), rogue.task(1)]
    played(rogue, 2)
    site.attend(rogue)
    assert trained(rogue) == [(1, 1), (2, 1)] and not rogue.of(Decline)
