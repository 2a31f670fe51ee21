# SPDX-License-Identifier: Apache-2.0
"""Secure sums with two servers on one PostgreSQL: sites speak to either, and either may die."""

import pytest
from tests.chaos import actor, history
from tests.chaos.pair import Pair
from tests.chaos.test_secure_kill import Hidden, alike, alone, forgotten


class Masked(Pair, Hidden):
    """Masked sites before two servers."""

    def __init__(self, database, plan="masked"):
        super().__init__(database, alone(plan), plan=plan)

    def all(self, first=None, second=None):
        """Two servers, of which the first leads, and then the sites."""
        self.both(first, second)
        for clients in self.sites:
            self.site(clients)
        return self


def same(federation):
    """The simulation's state and history, each round once, and no secret is left."""
    found = alike(federation)
    plan = actor.PLANS[federation.role.plan]
    history.once(plan, actor.population(federation.role.plan), found[1][1:])
    forgotten(federation, found[1])


@pytest.mark.parametrize("plan", ["masked", "grouped"])
def test_sites_may_speak_to_either(database, plan):
    with Masked(database, plan) as federation:
        federation.all().finish()
        assert not federation.deaths
        same(federation)


@pytest.mark.parametrize(
    ("label", "count", "again"),
    [
        ("round: opened", 2, False),
        ("secure: share begins", 2, True),
        ("secure: a message is recorded", 9, False),
        ("secure: unmask begins", 2, False),
        ("secure: opened", 1, True),
        ("secure: seats are decided", 2, False),
    ],
)
def test_the_server_that_leads_is_killed(database, label, count, again):
    with Masked(database) as federation:
        federation.all({"trap": (label, count)}).finish(again=again)
        assert federation.deaths == 1, "the trap was not reached"
        same(federation)


@pytest.mark.parametrize("label", ["secure: mask begins", "secure: a message is recorded"])
def test_a_server_that_follows_is_killed(database, label):
    with Masked(database) as federation:
        federation.all(second={"trap": (label, 2)}).finish()
        assert federation.deaths == 1, "the trap was not reached"
        same(federation)
