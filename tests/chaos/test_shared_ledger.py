# SPDX-License-Identifier: Apache-2.0
"""Two servers on one PostgreSQL behind one address: either may be killed, and the run goes on."""

import pytest
from tests.chaos import history
from tests.chaos.pair import Pair, ready

PIECES = {"faults": {"small pieces": 200}}


@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize(
    ("label", "count"),
    [
        ("round: opened", 2),
        ("round: closed", 2),
        ("evaluate: opened", 3),
        ("commit: before the transaction ends", 2),
        ("commit: after the transaction", 3),
        ("server: before an update is acknowledged", 5),
    ],
)
def test_the_server_that_leads_is_killed(database, label, count, again):
    with Pair(database) as federation:
        federation.server(trap=(label, count), gates=("round: before it is opened",))
        federation.site(federation.sites[0], **PIECES)
        leader = federation.at("round: before it is opened")
        federation.server(number=1, port=federation.other)
        federation.until(ready)
        leader.tell()
        federation.finish(again=again)
        assert federation.deaths == 1
        leaders = [name for _, name, said in federation.log if said and said[0] == "round"]
        assert again or set(leaders) == {"server-0", "server-1"}
        history.same(federation)


@pytest.mark.parametrize(
    "label", ["server: in mid-upload", "server: before an update is acknowledged"]
)
def test_a_server_that_follows_is_killed(database, label):
    with Pair(database) as federation:
        federation.server()
        federation.until(ready)
        federation.server(number=1, port=federation.other, trap=(label, 1))
        federation.until(ready)
        federation.site(federation.sites[0], **PIECES)
        federation.finish()
        assert federation.deaths == 1
        history.same(federation)
