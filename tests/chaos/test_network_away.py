# SPDX-License-Identifier: Apache-2.0
"""Sites that stay away, fail, or hang on a slow or a half-open line: the run goes on."""

import itertools
import json
import time

import pytest
from tests.chaos import history
from tests.chaos.actor import CLIENTS, ROUNDS
from tests.chaos.federation import Federation
from tests.chaos.proxy import Proxy

LEASE = 3.0
ALONE = tuple((client,) for client in CLIENTS)


def test_a_round_ends_within_a_lease_of_a_site_that_does_not_come_back():
    with Federation("mean", ALONE, lease=LEASE) as federation:
        federation.gather(enough=3)
        federation.round(1)
        federation.the("site-3").kill()
        began = time.monotonic()
        federation.round(2, again=False)
        assert time.monotonic() - began < LEASE + 5
        federation.finish(again=False)
        records = history.sound(federation)
    assert [record["abandoned"] for record in records] == [False] * ROUNDS
    late = [r["round"] for r in records if "site-3" in [o["client"] for o in r.get("late", ())]]
    assert late[:1] in ([2], [3])  # its update to round 2 may have been acknowledged
    assert "site-3" not in records[-1]["invited"]  # nobody waits for it for ever


def test_a_replay_knows_who_was_enrolled():
    with Federation("most", ALONE, lease=LEASE) as federation:
        federation.gather(enough=3)
        federation.round(1)
        federation.the("site-3").kill()
        federation.finish(again=False)
        history.sound(federation)


def test_a_site_that_enrols_while_a_cohort_is_drawn_is_of_the_next_round():
    gate = "round: before it is opened"
    with Federation("most", ALONE) as federation:
        server = federation.server(enough=3, gates=(gate,), trap=("round: closed", 1))
        for clients in ALONE[:3]:
            federation.site(clients)
        federation.at(gate)
        federation.site(ALONE[3])
        federation.told({"event": "enrolled", "site": "site-3"})
        server.tell()
        federation.finish()
        assert federation.deaths == 1
        records = history.sound(federation)
    assert [len(record["invited"]) for record in records] == [3, 4, 4, 4, 4]


def test_a_round_with_too_few_is_abandoned_and_nobody_remembers_it():
    with Federation("most", ALONE, lease=LEASE) as federation:
        federation.told_to = {c: {"trap": ("site: in step", 5)} for c in ALONE[2:]}  # of round 2
        federation.gather()
        federation.round(2, again=False)
        assert federation.deaths == 2
        for clients in ALONE[2:]:
            federation.site(clients)
        federation.finish()
        records = history.sound(federation)
    assert [record["abandoned"] for record in records] == [False, True, False, False, False]


def test_what_was_acknowledged_counts_also_when_its_site_stays_away():
    with Federation("mean", ALONE, lease=LEASE) as federation:
        federation.told_to = {("site-1",): {"trap": ("site: after upload", 2)}}
        federation.gather(enough=3)
        federation.finish(again=False)
        assert federation.deaths == 1
        records = history.sound(federation)
    assert ["site-1" in record["accepted"] for record in records][:3] == [True, True, False]


def test_an_error_in_a_sites_code_shows_at_the_server_at_once():
    fails = {"faults": {"fails": {"site-1": (2, 3, 4)}}}
    with Federation("mean", ALONE, lease=LEASE) as federation:
        federation.told_to = {("site-1",): fails}
        federation.gather(enough=3, gates=("round: closed",))
        server = federation.at("round: closed", 2)
        (seat,) = [s for s in federation.status()["seats"] if s["client"] == "site-1"]
        assert (seat["standing"], seat["reason"]) == ("failed", "train")
        assert "ValueError" in seat["text"] and "in raising" in seat["text"]
        assert "17" not in seat["text"].rpartition("ValueError")[2]  # no value of anybody's data
        server.tell()
        federation.finish()
        records = history.sound(federation)
    assert [len(record.get("failed", ())) for record in records] == [0, 1, 1, 1, 0]
    assert records[1]["failed"][0]["client"] == "site-1"
    assert "site-1" not in records[4]["invited"]  # after three in a row


def test_a_slow_line_that_moves_keeps_its_lease():
    def schedule(seen):
        return "drip" if seen.what.startswith("PUT") else None

    with Federation("scaffold", lease=1.2) as federation:  # a body takes 1.6 s
        with Proxy(federation.port, schedule) as proxy:
            federation.through = proxy.port
            federation.begin().finish()
        assert len([one for one in proxy.seen if one.fault == "drip"]) >= 3 * ROUNDS
        history.same(federation)


def test_a_line_that_does_not_move_loses_its_lease():
    def schedule(seen):
        held = b"site-2" in seen.head and "/v1/updates/2/" in seen.what
        return "stall" if held else None

    with Federation("most", lease=LEASE) as federation:
        with Proxy(federation.port, schedule) as proxy:
            federation.through = proxy.port
            federation.begin()
            federation.round(2)
            proxy.release()
            federation.finish()
        records = history.sound(federation)
    assert [one["client"] for one in records[1]["late"]] == ["site-2"]
    assert "site-2" in records[-1]["accepted"]  # and is back


@pytest.mark.parametrize("what", ["POST /v1/poll", "POST /v1/updates", "GET /v1/models"])
def test_a_half_open_line_is_given_up(what):
    asked = itertools.count()

    def schedule(seen):
        return "hang" if seen.what.startswith(what) and next(asked) in (0, 5) else None

    with Federation("scaffold") as federation, Proxy(federation.port, schedule) as proxy:
        federation.through = proxy.port
        federation.begin(None, {"faults": {"patience": 0.5}, "wait": 0.2}).finish()
        assert len([one for one in proxy.seen if one.fault]) == 2
        history.same(federation)


def test_a_newer_line_goes_on_where_a_stalled_one_stopped():
    def schedule(seen):
        return "stall" if seen.what.startswith("PUT") and seen.count % 2 else None

    with Federation("scaffold") as federation, Proxy(federation.port, schedule) as proxy:
        federation.through = proxy.port
        federation.begin(None, {"faults": {"patience": 0.5}, "wait": 0.2}).finish()
        stalled = [one for one in proxy.seen if one.fault == "stall"]
        announced = [o for o in proxy.seen if o.what.startswith("POST /v1/updates")]
        offers = [json.loads(one.answer.partition(b"\r\n\r\n")[2]) for one in announced]
        assert stalled and any(offer.get("offset") for offer in offers)
        history.same(federation)
