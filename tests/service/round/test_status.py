# SPDX-License-Identifier: Apache-2.0
"""An operator sees who is here and what is open, as plain data and without certificates."""

import json

from muster.service.round.facts import Facts
from muster.service.round.hall import Hall
from muster.service.round.lifecycle import Call
from muster.service.round.status import lacking, status
from muster.store.ledger import Ledger
from muster.store.records import Member, Opened, Seat


def test_what_an_operator_sees(tmp_path):
    ledger = Ledger(tmp_path)
    now = [0.0]
    hall = Hall(ledger, Facts("r", "f" * 64, {}, max, None, 8), clock=lambda: now[0])
    hall.enter(Member("ann", "ann", 3, "-----BEGIN CERTIFICATE-----"))
    now[0] = 31.0
    hall.enter(Member("bob", 7, 4))
    opened = Opened(1, "train", (7,), (1,), ((7, 4),), "m" * 64, 0.0)
    hall.show(opened, {7: Seat(7, "failed", "train", "ValueError")}, Call(1))
    hall.refusals["late"] += 2
    seen = json.loads(json.dumps(status(hall)))
    ledger.close()
    assert (seen["run"], seen["round"], seen["asked"], seen["committed"]) == ("r", 1, "train", 0)
    assert [(m["name"], m["rows"], m["present"]) for m in seen["members"]] == [
        ("ann", 3, False), ("bob", 4, True),
    ]  # fmt: skip
    assert "BEGIN" not in json.dumps(seen)
    assert seen["seats"][0]["text"] == "ValueError" and seen["refusals"] == {"late": 2}


def test_who_is_missing_and_where_they_are(tmp_path):
    ledger = Ledger(tmp_path)
    now = [0.0]
    hall = Hall(ledger, Facts("r", "f" * 64, {}, max, None, 8), clock=lambda: now[0])
    for name in ("gone", "liar", "bad"):
        hall.enter(Member(name, name, 3))
    now[0] = 31.0
    for name in ("liar", "bad", "ann"):
        hall.enter(Member(name, name, 3))
    hall.exclude("liar", "lied")
    hall.failures["bad"] = 3
    said = lacking(hall, 6)
    ledger.close()
    assert (said["event"], said["present"], said["enough"]) == ("waiting", 1, 6)
    assert said["text"] == (
        "no round begins: 1 of the 6 clients that it needs are here; left out: liar; "
        "failing or resting: bad; away: gone; never seen: 2"
    )
