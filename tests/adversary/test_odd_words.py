# SPDX-License-Identifier: Apache-2.0
"""Odd words of a secure sum on the server's disk: the sum goes on with the rest.

The door refuses such words; an older version may have stored them, or somebody altered them.
"""

import pytest

pytest.importorskip("sqlalchemy")

from tests.federation.coordinator.masked import NAMES, Federation, plan_of

from muster.federation.coordinator.events import Said, row_of
from muster.federation.protocol.claims import odd_member
from muster.secagg.messages import HEAD, Advert, Quit
from muster.store.records import SecAggEvent

LIAR = "site-3"
QUIT, ADVERT = str(Quit.kind), str(Advert.kind)
WORDS = {
    "a farewell that is none": SecAggEvent(
        LIAR, QUIT, HEAD + bytes([14]) + b"\xff" * 9, digest="a"
    ),
    "a farewell of nobody": SecAggEvent("mallory", QUIT, Quit("STOPPED").to_bytes(), digest="a"),
    "octets that are gone": SecAggEvent(LIAR, "9", blob="masked-000001-gone", digest="a"),
    "octets that are none": SecAggEvent(LIAR, ADVERT, b"\0" * 40, digest="a"),
    "metrics that are none": SecAggEvent(LIAR, ADVERT, b"junk", digest="a", metrics={"rows": -1.0}),
    "a kind that is none": SecAggEvent(LIAR, "seventy", b"junk", digest="a"),
}


@pytest.mark.parametrize("name", WORDS)
def test_an_odd_word_costs_the_run_nothing(tmp_path, name):
    told = []

    def at(label):
        if label == "secure: advertise begins" and not told:
            row = row_of(Said(1, 1, WORDS[name]))
            federation.ledger.write(lambda turn: turn.append([row], leads=False)).result()
            federation.round_state.follow()
            told.append(name)

    def rested(name, method, path, body):
        """Wake whoever seems to have declined: nobody rests for a lease."""
        if path == "/v1/poll" and b'"settled"' in body:
            federation.round_state.volatile.resting.clear()
            federation.round_state.news.ring()
        return body

    federation = Federation(tmp_path, plan_of(), at=at)
    federation.between = rested
    federation.mute = federation.away | {LIAR}
    records = federation.play()
    assert told and [record["abandoned"] for record in records] == [False, False]
    honest = [one for one in NAMES if one != LIAR]
    assert set(honest) <= set(records[0]["accepted"])
    assert not federation.round_state.excluded.keys() & set(honest)
    assert not any(odd_member(one) for one in federation.round_state.members.values())
