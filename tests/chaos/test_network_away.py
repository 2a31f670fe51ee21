# SPDX-License-Identifier: Apache-2.0
"""Sites that stay away, fail, or hang on a slow or a half-open line: the run goes on."""

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
    with Federation("most", ALONE, lease=LEASE, enough=3) as federation:
        federation.begin()
        federation.round(1)
        federation.the("site-3").kill()
        began = time.monotonic()
        federation.round(2, again=False)
        assert time.monotonic() - began < LEASE + 3
        federation.finish(again=False)
        records = history.sound(federation)
    assert len(records) == ROUNDS
    assert not records[1]["abandoned"]
    late = [record["round"] for record in records if "site-3" in str(record.get("late"))]
    assert late and late[0] in (1, 2)  # it may have died with its first update acknowledged
    assert "site-3" not in records[-1]["invited"]  # nobody waits for it for ever


def test_a_round_with_too_few_is_abandoned_and_nobody_remembers_it():
    with Federation("most", ALONE, lease=LEASE) as federation:
        federation.begin()
        for name in ("site-2", "site-3"):
            federation.the(name)  # they are there
        federation.round(1)
        lost = [federation.the(name) for name in ("site-2", "site-3")]
        for one in lost:
            one.kill()
        federation.round(2, again=False)
        for one in lost:
            federation.start(one.role)
        federation.finish()
        records = history.sound(federation)
    assert [record["abandoned"] for record in records] == [False, True, False, False, False]
    assert records[1]["accepted"] == []


def test_what_was_acknowledged_counts_also_when_its_site_stays_away():
    with Federation("most", ALONE, lease=LEASE, enough=3) as federation:
        federation.server()
        for clients in ALONE:
            dying = {"trap": ("site: after upload", 2)} if clients == ("site-1",) else {}
            federation.site(clients, **dying)
        federation.finish(again=False)
        assert federation.deaths == 1
        records = history.sound(federation)
    assert [("site-1" in record["accepted"]) for record in records][:2] == [True, True]


def test_an_error_in_a_sites_code_shows_at_the_server_at_once():
    with Federation("most", ALONE, enough=3) as federation:
        federation.server(gates=("round: closed",))
        for clients in ALONE:
            federation.site(clients, faults={"fails": {"site-1": (2, 3, 4)}})
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
        return "drip" if seen.what.startswith(("PUT", "GET")) else None

    with Federation("scaffold", lease=1.2) as federation:  # a body takes 1.6 s
        with Proxy(federation.port, schedule) as proxy:
            federation.through = proxy.port
            federation.begin().finish()
        assert len([one for one in proxy.seen if one.fault == "drip"]) >= 3 * ROUNDS
        history.same(federation)


def test_a_line_that_does_not_move_loses_its_lease():
    def schedule(seen):
        held = b"site-2" in seen.head and f"/v1/updates/2/" in seen.what
        return "stall" if held else None

    with Federation("most", lease=LEASE, enough=3) as federation:
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
    def schedule(seen):
        return "hang" if seen.what.startswith(what) and seen.count % 3 == 0 else None

    with Federation("scaffold") as federation, Proxy(federation.port, schedule) as proxy:
        federation.through = proxy.port
        federation.begin(None, {"faults": {"patience": 0.5}, "wait": 0.2}).finish()
        assert any(one.fault for one in proxy.seen)
        history.same(federation)


def test_a_newer_line_goes_on_where_a_stalled_one_stopped():
    def schedule(seen):
        return "stall" if seen.what.startswith("PUT") and seen.count % 2 else None

    with Federation("scaffold") as federation, Proxy(federation.port, schedule) as proxy:
        federation.through = proxy.port
        federation.begin(None, {"faults": {"patience": 0.5}, "wait": 0.2}).finish()
        stalled = [one for one in proxy.seen if one.fault == "stall"]
        offers = [json.loads(o.answer.partition(b"\r\n\r\n")[2]) for o in proxy.seen if o.status == 200
                  and o.what.startswith("POST /v1/updates")]  # fmt: skip
        assert stalled and any(offer.get("offset") for offer in offers)
        history.same(federation)
