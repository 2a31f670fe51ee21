# SPDX-License-Identifier: Apache-2.0
"""An operator sees who is here and what is open, as plain data and without certificates."""

import json

from muster.federation.coordinator.commands import BeginWork, DecideAssignments, Exclude, SayHello
from muster.federation.coordinator.facts import FederationFacts
from muster.federation.coordinator.round_state import RoundState
from muster.federation.protocol.message import VERSIONS, Hello
from muster.store.ledger import FederationStore
from muster.store.records import Assignment, OpenWork


def enter(round_state, name, rows=3, certificate=""):
    hello = Hello(VERSIONS, name, "f" * 64, rows)
    round_state.do(SayHello(name, hello, certificate))


def test_what_an_operator_sees(tmp_path):
    ledger = FederationStore(tmp_path)
    now = [0.0]
    facts = FederationFacts("r", "f" * 64, {}, max, None, 8, names={"bob": 7})
    round_state = RoundState(ledger, facts, clock=lambda: now[0])
    enter(round_state, "ann", 3, "-----BEGIN CERTIFICATE-----")
    now[0] = 31.0
    enter(round_state, "bob", 4)
    opened = OpenWork(1, "train", (7,), (1,), ((7, 4),), "m" * 64, 0.0)
    round_state.do(BeginWork(opened))
    failed = Assignment(7, "failed", "train", "ValueError")
    round_state.do(DecideAssignments(1, "train", (failed,)))
    round_state.refusals["late"] += 2
    seen = json.loads(json.dumps(round_state.status()))
    ledger.close()
    assert (seen["run"], seen["round"], seen["asked"], seen["committed"]) == ("r", 1, "train", 0)
    assert [(m["name"], m["rows"], m["present"]) for m in seen["members"]] == [
        ("ann", 3, False),
        ("bob", 4, True),
    ]
    assert "BEGIN" not in json.dumps(seen)
    assert seen["seats"][0]["text"] == "ValueError" and seen["refusals"] == {"late": 2}


def test_who_is_missing_and_where_they_are(tmp_path):
    ledger = FederationStore(tmp_path)
    now = [0.0]
    round_state = RoundState(
        ledger, FederationFacts("r", "f" * 64, {}, max, None, 8), clock=lambda: now[0]
    )
    for name in ("gone", "liar", "bad"):
        enter(round_state, name)
    now[0] = 31.0
    for name in ("liar", "bad", "ann"):
        enter(round_state, name)
    round_state.do(Exclude("liar", "lied"))
    round_state.volatile.failures["bad"] = 3
    said = round_state.lacking(6)
    ledger.close()
    assert (said["event"], said["present"], said["enough"]) == ("waiting", 1, 6)
    assert said["text"] == (
        "no round begins: 1 of the 6 clients that it needs are here; left out: liar; "
        "failing or resting: bad; away: gone; never seen: 2"
    )
