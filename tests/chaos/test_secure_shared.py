# SPDX-License-Identifier: Apache-2.0
"""Secure sums with two servers on one PostgreSQL: sites speak to either, and either may die."""

import pytest
from tests.chaos import actor, history
from tests.chaos.federation import port
from tests.chaos.proxy import Balancer
from tests.chaos.test_secure_kill import ALONE, Hidden, alike, forgotten
from tests.chaos.test_shared_ledger import ready


class Pair(Hidden):
    """Masked sites before two servers; `other` is the port of the second."""

    def __init__(self, database, plan="masked"):
        super().__init__(ALONE, plan=plan, url=f"{database}?run=masked", lease=6.0)
        self.other = port()
        self.balancer = Balancer((self.port, self.other))

    def __enter__(self):
        self.balancer.__enter__()
        self.through = self.balancer.port
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.balancer.__exit__(*error)

    def both(self, first=None, second=None):
        """Two servers, of which the first leads, and then the sites."""
        self.server(**first or {})
        self.until(ready)
        self.server(number=1, port=self.other, **second or {})
        self.until(ready)
        for clients in self.sites:
            self.site(clients)
        return self


def same(federation):
    """The simulation's state and history, each round once, and no secret is left."""
    found = alike(federation)
    plan = actor.PLANS[federation.role.plan]
    history.once(plan, actor.population(), found[1])
    forgotten(federation, found[1])


@pytest.mark.parametrize("plan", ["masked", "grouped"])
def test_sites_may_speak_to_either(database, plan):
    with Pair(database, plan) as federation:
        federation.both().finish()
        assert not federation.deaths
        same(federation)


@pytest.mark.parametrize(
    ("label", "count", "again"),
    [
        ("round: opened", 2, False), ("secure: share begins", 2, True),
        ("secure: a message is recorded", 9, False), ("secure: unmask begins", 2, False),
        ("secure: opened", 1, True), ("secure: seats are decided", 2, False),
    ],
)  # fmt: skip
def test_the_server_that_leads_is_killed(database, label, count, again):
    with Pair(database) as federation:
        federation.both({"trap": (label, count)}).finish(again=again)
        assert federation.deaths == 1, "the trap was not reached"
        same(federation)


@pytest.mark.parametrize("label", ["secure: mask begins", "secure: a message is recorded"])
def test_a_server_that_follows_is_killed(database, label):
    with Pair(database) as federation:
        federation.both(second={"trap": (label, 2)}).finish()
        assert federation.deaths == 1, "the trap was not reached"
        same(federation)
