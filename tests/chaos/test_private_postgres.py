# SPDX-License-Identifier: Apache-2.0
"""Two servers on one PostgreSQL, whose leader is killed: a round has one noise all the same."""

import pytest
from tests.chaos import confession, seams
from tests.chaos.actor import CLIENTS, PLANS
from tests.chaos.pair import Pair, ready
from tests.chaos.test_private_kill import Watched, lives, spends

psycopg = pytest.importorskip("psycopg")

LABELS = (
    *seams.GUARD,
    "round: opened",
    "round: summed",
    "evaluate: opened",
    "evaluate: closed",
    "commit: before the transaction ends",
    "commit: after the transaction",
)
SECRET = ("secret", 3)
LEADS = """
    SELECT pg_terminate_backend(pid) FROM pg_locks
    WHERE locktype = 'advisory' AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


class Private(Pair, Watched):
    """Two servers whose noise is drawn from secrets."""

    def __init__(self, database, plan, **role):
        super().__init__(database, plan, secret=True, **role)

    def twice(self, **more):
        """Both servers, each with the traps of its lives; whoever is first leads."""
        both = [more | {"trap": self.trap_of("server")} for _ in range(2)]
        return self.both(*both)

    def depose(self):
        """End the session that holds the lead: its server does not know."""
        with psycopg.connect(self.database, autocommit=True) as connection:
            assert connection.execute(LEADS).fetchall() == [(True,)]


def test_the_server_that_takes_over_releases_the_same_noise(database):
    with Private(database, "noise") as federation:
        federation.traps["server"] = lives(LABELS)
        federation.gather(trap=federation.trap_of("server"))
        federation.until(ready)
        federation.server(number=1, port=federation.other, trap=federation.trap_of("server"))
        federation.finish()
        assert federation.deaths == len(LABELS), "a trap was not reached"
        records, said = confession.sound(federation)
        leaders = {name for _, name, say in federation.log if say and say[0] == "secret"}
    assert leaders == {"server-0", "server-1"}
    assert len(set(said.secrets.values())) == len(records) == PLANS["noise"].rounds


def test_a_server_that_has_lost_the_lead_overwrites_no_secret(database):
    label, count = "server: before its facts", 8  # a secret of its own for round 3, not yet kept
    with Private(database, "noise") as federation:
        federation.gather(gates=(label,))
        federation.until(ready)
        federation.server(number=1, port=federation.other, gates=("round: closed",))
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
    """Return whether the other server waits with the round's updates, before it draws the noise."""
    return any(said == ("at", "round: closed", 1) for _, _, said in federation.log)


def test_a_budget_that_is_spent_ends_both_servers(database):
    with Private(database, "two", lease=2.0, wait=0.5) as federation:

        def begin():
            federation.twice()
            federation.site(CLIENTS)

        spends(federation, begin)
