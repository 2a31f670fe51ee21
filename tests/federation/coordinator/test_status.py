# SPDX-License-Identifier: Apache-2.0
"""An operator sees who is here and what is open, as plain data and without certificates."""

import json

from muster.federation.coordinator.facts import FederationFacts
from muster.federation.coordinator.lifecycle import Call
from muster.federation.coordinator.round_state import RoundState
from muster.federation.coordinator.status import lacking, status
from muster.store.ledger import FederationStore
from muster.store.records import Assignment, Member, OpenWork


def test_what_an_operator_sees(tmp_path):
    ledger = FederationStore(tmp_path)
    now = [0.0]
    round_state = RoundState(
        ledger, FederationFacts("r", "f" * 64, {}, max, None, 8), clock=lambda: now[0]
    )
    round_state.enter(Member("ann", "ann", 3, "-----BEGIN CERTIFICATE-----"))
    now[0] = 31.0
    round_state.enter(Member("bob", 7, 4))
    opened = OpenWork(1, "train", (7,), (1,), ((7, 4),), "m" * 64, 0.0)
    round_state.show(opened, {7: Assignment(7, "failed", "train", "ValueError")}, Call(1))
    round_state.refusals["late"] += 2
    seen = json.loads(json.dumps(status(round_state)))
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
        round_state.enter(Member(name, name, 3))
    now[0] = 31.0
    for name in ("liar", "bad", "ann"):
        round_state.enter(Member(name, name, 3))
    round_state.exclude("liar", "lied")
    round_state.failures["bad"] = 3
    said = lacking(round_state, 6)
    ledger.close()
    assert (said["event"], said["present"], said["enough"]) == ("waiting", 1, 6)
    assert said["text"] == (
        "no round begins: 1 of the 6 clients that it needs are here; left out: liar; "
        "failing or resting: bad; away: gone; never seen: 2"
    )
