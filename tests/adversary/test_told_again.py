# SPDX-License-Identifier: Apache-2.0
"""A server that tells a site again what it was told: after a restart, and out of another run.

All that a site is told when it asks what there is to do, forwards and backwards, under the same
vault and under a new one. Nothing of it is trained or measured a second time. (Words of secure
sums: `test_sites_messages`.)
"""

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("zstandard")

from tests.adversary.rogue import Rogue, Site
from tests.federation.site.scene import plan

from muster import Every
from muster.errors import MusterError
from muster.federation.protocol.message import (
    Evaluate,
    Measured,
    RunEnded,
    Settled,
    TrainAssignment,
    Wait,
)

OPEN = plan(weighting="equal", rounds=7, evaluate=Every(1))
TOLD = {TrainAssignment, Evaluate, Settled, Wait, RunEnded}  # when a site asks what there is to do


def script(rogue, run=None):
    """Return an honest server's words of three rounds."""
    more = {} if run is None else {"run": run}
    return [
        Wait(0.0),
        rogue.task(1, **more),
        rogue.settled(1, **more),
        rogue.evaluate(1, **more),
        rogue.task(2, **more),
        rogue.settled(2, accepted=False, **more),
        rogue.evaluate(2, counted=True, **more),
        rogue.task(3, **more),
    ]


@pytest.fixture
def site(tmp_path):
    """A site that has heard all of it once."""
    made, rogue = Site(tmp_path, OPEN), Rogue(OPEN, [])
    rogue.script = script(rogue)
    made.attend(rogue)
    made.first = rogue
    return made


def test_all_that_a_site_may_be_told_is_told(site):
    assert {type(told) for told in script(site.first)} | {RunEnded} == TOLD
    assert [update.round for update, _ in site.first.updates] == [1, 2, 3]
    assert [said.round for said in site.first.of(Measured)] == [1, 2]


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("site_store", ["vault", "another"])
def test_after_a_restart_nothing_is_done_a_second_time(site_store, backwards, site):
    """But what was kept and is not settled is sent again, with the same octets."""
    charged, before = len(site.charged), site.first.bodies(3)
    rogue = Rogue(OPEN, [])
    told = script(rogue)
    rogue.script = (told[::-1] if backwards else told) * 3
    try:
        site.attend(rogue, site_store=site_store)
    except MusterError as error:
        assert site_store == "another", error
    assert rogue.bodies() <= before
    for said in rogue.of(Measured):
        (first,) = [one for one in site.first.of(Measured) if one.round == said.round]
        assert said == first
    assert len(site.charged) == charged
    assert {entry["round"] for entry in site.logged("update")} == {1, 2, 3}


def test_nothing_that_was_told_in_one_run_is_done_in_another(site):
    """The site has joined another run of its study, by a word of its own."""
    rogue = Rogue(OPEN, [], run="r9")
    rogue.script = script(rogue, run="r1") * 3 + [rogue.task(4)]
    site.attend(rogue, site_store="of r9", new_run=True)
    assert [(update.run, update.round) for update, _ in rogue.updates] == [("r9", 4)]
    assert not rogue.of(Measured)
    assert {entry["rule"] for entry in site.logged("declined")} == {"run"}


def test_another_run_is_not_joined_because_it_tells_of_this_one(site):
    rogue = Rogue(OPEN, [], run="r9")
    rogue.script = script(rogue, run="r1")
    with pytest.raises(MusterError, match="was last in the run r1"):
        site.attend(rogue)
    assert not rogue.updates and not rogue.answers
