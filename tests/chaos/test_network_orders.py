# SPDX-License-Identifier: Apache-2.0
"""Orders of operators in every state of a round, orderly ends, clocks that jump, full disks."""

import signal

import pytest
from tests.chaos import history
from tests.chaos.actor import CLIENTS, ROUNDS
from tests.chaos.federation import Federation
from tests.chaos.proxy import Proxy

# where the server stands in round n when the order comes: one state a round
STATES = (
    "round: before it is opened",
    "round: opened",
    "round: closed",
    "evaluate: opened",
    "commit: begin",
)


def ordered(federation, number, word, count=None):
    """Give an order in the state of this round; what the server says then."""
    server = federation.at(STATES[number - 1], count or number)
    said = federation.want(word)
    assert said["wanted"] == word
    server.tell()
    return said


def test_pause_finishes_the_round_and_begins_no_other_until_run():
    with Federation("scaffold") as federation:
        federation.begin({"gates": STATES})
        for number in range(1, ROUNDS):
            ordered(federation, number, "pause")
            federation.round(number)
            status = federation.status()
            assert (status["wanted"], status["committed"]) == ("pause", number)
            assert status["round"] is None
            federation.want("run")
        federation.finish()
        history.same(federation)


def test_drain_finishes_the_round_and_ends_the_server():
    with Federation("scaffold") as federation:
        federation.begin({"gates": STATES})
        for number in range(1, ROUNDS):
            ordered(federation, number, "drain", 1)  # the first round of this life
            ended(federation, "drain")
            federation.server(gates=STATES)
        federation.finish()
        history.same(federation)


@pytest.mark.parametrize("label", STATES)
def test_stop_leaves_the_round_open_for_the_next_life(label):
    with Federation("scaffold", lease=2.0) as federation:
        server = federation.begin({"gates": (label,)}).at(label)
        federation.want("stop")
        server.tell()
        ended(federation, "stop")
        federation.close()
        federation.begin({"lease": 20.0}).finish()
        history.same(federation)


def ended(federation, why):
    """Go on until the server has ended for this reason; nobody starts it again."""
    federation.until(lambda one, said: said == ("ended", why))
    federation.until(lambda one, said: not one.role.clients and said is None)
    federation.over = False


@pytest.mark.parametrize("label", [*STATES, "commit: before the transaction ends"])
def test_a_server_that_is_told_to_end_ends_in_order_and_goes_on_later(label):
    with Federation("scaffold") as federation:
        server = federation.begin({"gates": (label,)}).at(label, 2)
        server.kill(signal.SIGTERM)
        server.tell()
        ended(federation, "closing")
        federation.server()
        federation.finish()
        assert federation.deaths == 0
        history.same(federation)


@pytest.mark.parametrize("label", ["site: in step", "site: before upload", "site: in settle"])
def test_a_site_that_is_told_to_end_ends_in_order_and_goes_on_later(label):
    with Federation("scaffold") as federation:
        site = federation.begin(None, {"gates": (label,)}).at(label, 4)
        site.kill(signal.SIGTERM)
        site.tell()
        heard = federation.until(lambda one, said: one is site and said is None)
        assert heard[0].process.exitcode == 0
        federation.site(CLIENTS)
        federation.finish()
        history.same(federation)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"speaks": (1,)}, ("speaks version 2 of", "speaks 1", "upgrade muster")),
        ({"another plan": "a" * 64}, ("wrong fingerprint", "same plan file")),
    ],
)
def test_another_release_and_another_plan_are_refused(fault, words):
    with Federation("scaffold") as federation:
        federation.server()
        federation.site(CLIENTS[:1], faults=fault)
        while True:
            one, said = federation.next()
            if one is not None and one.role.clients and said is None:
                break
        assert one.process.exitcode == 1
        text = (federation.home / f"{one.role.name}.errors").read_text()
        assert all(word in text for word in words), text
        assert federation.status()["members"] == []
        for clients in federation.sites:
            federation.site(clients)
        federation.finish()  # whoever speaks and holds the same is taken


@pytest.mark.parametrize("seconds", [-400 * 86400, 400 * 86400])
def test_a_wall_clock_that_jumps_changes_nothing(tmp_path, seconds):
    wall = tmp_path / "seconds"
    wall.write_text("0")
    with Federation("deadline") as federation:
        faults = {"gates": ("round: opened", "round: closed"), "faults": {"wall": str(wall)}}
        federation.begin(faults)
        for label, number in (("round: opened", 2), ("round: closed", 3), ("round: opened", 4)):
            server = federation.at(label, number)
            wall.write_text(str(seconds * (number % 2)))
            server.tell()
        federation.finish()
        history.same(federation)


@pytest.mark.parametrize("prefix", ["update-", "model-", "state-"])
def test_a_server_whose_disk_is_full_goes_on_when_there_is_room(tmp_path, prefix):
    full, gate = tmp_path / "full", "round: before it is opened"
    full.write_text("")
    lease = 20.0 if prefix == "update-" else 2.0
    with Federation("broad", lease=lease) as federation:
        with Proxy(federation.port) as proxy:
            federation.through = proxy.port
            federation.begin({"gates": (gate,), "faults": {"full": str(full), "ask again": 1}})
            server = federation.at(gate, 2)
            full.write_text(prefix)
            server.tell()
            if prefix == "update-":
                federation.until(lambda _, said: "no room" in str(said))
            else:
                federation.at(gate, 3)  # it has tried, waited for room, and tries again
            full.write_text("")
            if prefix != "update-":
                server.tell()
            federation.finish()
        refused = [one for one in proxy.seen if one.status == 507]
        assert bool(refused) == (prefix == "update-")
        assert all(b"retry-after" in one.answer.lower() for one in refused)
        history.same(federation)


# whether the state is written at a settling or at the keeping of an update is a matter of chance


@pytest.mark.parametrize("prefix", ["update-", "memory-", "model-", "state.json"])
def test_a_site_whose_disk_is_full_goes_on_when_there_is_room(tmp_path, prefix):
    full = tmp_path / "full"
    full.write_text("")
    with Federation("scaffold") as federation:
        federation.begin(None, {"faults": {"full": str(full)}})
        federation.round(1)
        full.write_text(prefix)
        federation.told({"event": "full"})
        full.write_text("")
        federation.finish()
        history.same(federation)
