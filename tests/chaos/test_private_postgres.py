# SPDX-License-Identifier: Apache-2.0
"""Two servers on one PostgreSQL, whose leader is killed: a round has one noise all the same."""

import pytest
from tests.chaos import confession, seams
from tests.chaos.actor import CLIENTS, PLANS
from tests.chaos.federation import port
from tests.chaos.proxy import Balancer
from tests.chaos.test_private_kill import Watched, lives, spends
from tests.chaos.test_shared_ledger import ready

psycopg = pytest.importorskip("psycopg")

LABELS = (
    *seams.GUARD, "round: opened", "round: summed", "evaluate: opened", "evaluate: closed",
    "commit: before the transaction ends", "commit: after the transaction",
)  # fmt: skip
SECRET = ("secret", 3)
LEADS = """
    SELECT pg_terminate_backend(pid) FROM pg_locks
    WHERE locktype = 'advisory' AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


class Pair(Watched):
    """A federation of two servers behind a balancer that sites dial; one of them leads."""

    def __init__(self, database, plan, **role):
        role = {"lease": 6.0} | role
        super().__init__(plan, url=f"{database}?run=shared", secret=True, **role)
        self.second, self.database = port(), database
        self.balancer = Balancer((self.port, self.second))

    def __enter__(self):
        self.balancer.__enter__()
        self.through = self.balancer.port
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.balancer.__exit__(*error)

    def both(self, **more):
        """Both servers; whoever is first leads."""
        self.server(**more, trap=self.trap_of("server"))
        self.until(ready)
        self.server(**more, trap=self.trap_of("server"), number=1, port=self.second)
        self.until(ready)
        return self

    def depose(self):
        """End the session that holds the lead: its server does not know."""
        with psycopg.connect(self.database, autocommit=True) as connection:
            assert connection.execute(LEADS).fetchall() == [(True,)]


def test_the_server_that_takes_over_releases_the_same_noise(database):
    with Pair(database, "noise") as federation:
        federation.traps["server"] = lives(LABELS)
        federation.gather(trap=federation.trap_of("server"))
        federation.until(ready)
        federation.server(number=1, port=federation.second, trap=federation.trap_of("server"))
        federation.finish()
        assert federation.deaths == len(LABELS), "a trap was not reached"
        records, said = confession.sound(federation)
        leaders = {name for _, name, say in federation.log if say and say[0] == "secret"}
    assert leaders == {"server-0", "server-1"}
    assert len(set(said.secrets.values())) == len(records) == PLANS["noise"].rounds


def test_a_server_that_has_lost_the_lead_overwrites_no_secret(database):
    label, count = "server: before its facts", 8  # a secret of its own for round 3, not yet kept
    with Pair(database, "noise") as federation:
        federation.gather(gates=(label,))
        federation.until(ready)
        federation.server(number=1, port=federation.second, gates=("round: closed",))
        stale = federation.at(label, count)
        federation.depose()
        other, (_, _, seed) = federation.until(lambda one, said: said and said[:2] == SECRET)
        assert other.role.number == 1
        federation.until(lambda one, said: one is other and said[:3] == ("shown", 3, "train"))
        stale.tell()
        while stale in federation.actors or not closed(federation):
            one, said = federation.next()
            assert one is not None, federation.report()
            if one is stale and said is not None and said[0] == "at":
                stale.tell()
        with confession.reading(federation) as store:
            assert store.meta("secret") == {"round": 3, "seed": seed.hex()}
        assert stale.process.exitcode == 1
        text = (federation.home / "server-0.errors").read_text()
        assert "does not lead" in text and "another has taken the lead since" in text, text
        other.kill()
        federation.finish()
        assert federation.deaths == 1
        confession.sound(federation)


def closed(federation):
    """Whether the other server waits with the round's updates, before it draws the noise."""
    return any(said == ("at", "round: closed", 1) for _, _, said in federation.log)


def test_a_budget_that_is_spent_ends_both_servers(database):
    with Pair(database, "two", lease=2.0, wait=0.5) as federation:

        def begin():
            federation.both()
            federation.site(CLIENTS)

        spends(federation, begin)
