# SPDX-License-Identifier: Apache-2.0
"""A further run asks the same people again: a site says so, once, or its policy does.

The attack: the server begins the same plan anew under another run id, with fewer peers; the
difference of two sums is somebody's update. A run id is no key: the server picks it.
"""

from dataclasses import replace

import pytest
from tests.adversary.rogue import Rogue, Site
from tests.federation.site.scene import plan

from muster.errors import RunError
from muster.federation.protocol.message import Decline
from muster.federation.site.agent import LAG
from muster.federation.site.policy import Policy

PLAN = plan(weighting="equal")


def run(name, times=1, **more):
    """A server that asks for the first round of a run, so many times."""
    rogue = Rogue(PLAN, [], run=name, **more)
    rogue.script = [*(rogue.task() for _ in range(times)), rogue.settled()]
    return rogue


@pytest.fixture
def site(tmp_path):
    """A site that has been in one run."""
    found = Site(tmp_path, PLAN)
    found.attend(first := run("r1"))
    assert len(first.updates) == 1
    return found


@pytest.mark.parametrize("site_store", ["vault", "another"])
def test_a_further_run_needs_a_word_whatever_folder_is_left(site, site_store):
    with pytest.raises(
        RunError, match=r"the run r2, .* in the run r1 .* --new-run, or by new_runs"
    ):
        site.attend(again := run("r2"), site_store=site_store)
    assert not again.updates and not again.polls, "refused before it asked for anything"
    assert "r2" in site.logged("refused")[0]["text"]


def test_one_word_is_for_one_run(site):
    site.attend(second := run("r2"), new_run=True)
    assert len(second.updates) == 1
    third = run("r3")
    third.script.insert(0, lambda poll: third.handle_as("r4"))
    with pytest.raises(RunError, match=r"the run r4, .* in the run r3"):
        site.attend(third, new_run=True)
    site.attend(again := run("r2", times=LAG + 1))
    assert again.of(Decline), "a run that was joined needs no word, and does nothing twice"


def test_a_rule_lets_so_many_further_runs_in(site):
    site.policy = replace(site.policy, new_runs=2)
    for name in ("r2", "r3"):
        site.attend(run(name))
    with pytest.raises(RunError, match="the run r4"):
        site.attend(run("r4"))
    site.attend(last := run("r4"), new_run=True)
    assert len(last.updates) == 1, "a word is beside the rule"


def test_what_was_trained_is_not_forgotten_between_two_runs(site):
    site.policy = Policy(new_runs=1)
    site.attend(run("r2"))
    site.attend(again := run("r1", times=LAG + 1))
    assert not again.updates and "is settled here" in again.of(Decline)[0].text


def test_the_server_of_another_study_is_refused(tmp_path):
    site = Site(tmp_path, PLAN, Policy(study="hearts"))
    with pytest.raises(
        RunError, match="belongs to the study 'default', and this site's policy to 'he"
    ):
        site.attend(run("r1"))
    site.attend(right := run("r1", study="hearts"))
    assert len(right.updates) == 1
    assert (tmp_path / "studies" / "hearts" / "study.db").exists()


def test_another_study_is_about_other_people_and_needs_no_word(site):
    site.policy = Policy(study="lungs")
    site.attend(other := run("r2", study="lungs"), site_store="another")
    assert len(other.updates) == 1


def test_a_study_that_is_gone_or_put_back_is_said(site, tmp_path):
    """The amount spent would be forgotten with it."""
    copy = (tmp_path / "studies/default/study.db").read_bytes()
    site.policy = Policy(new_runs=1)
    site.attend(run("r2"))
    (tmp_path / "studies/default/study.db").write_bytes(copy)
    with pytest.raises(RunError, match="put back to an older copy"):
        site.attend(run("r2"))
    (tmp_path / "studies/default/study.db").unlink()
    with pytest.raises(RunError, match="another record of the study 'default', which is gone"):
        site.attend(run("r2"))
