# SPDX-License-Identifier: Apache-2.0
"""Members enrol, a round opens, and every seat is decided once, whoever asks and how often."""

import threading

import pytest
from tests.store.scene import CLIENTS, arrived, at_once, opening

pytest.importorskip("sqlalchemy")

from muster.errors import RunError
from muster.store.records import Assignment, Member


def test_members_are_enrolled_once_and_again_with_other_rows(place):
    ledger = place()
    one, other = Member("site-a", "a", 10), Member("site-b", 1, 0)
    assert ledger.enrol(one).result() == one and ledger.enrol(other).result() == other
    before = ledger.version()
    assert ledger.enrol(one).result() == one and ledger.version() == before
    more = Member("site-a", "a", 1 << 40)
    assert ledger.enrol(more).result() == more and ledger.version() > before
    with pytest.raises(RunError, match="'site-c' would enrol as client 'a', which 'site-a' is"):
        ledger.enrol(Member("site-c", "a", 1)).result()
    ledger.close()
    assert place().members() == {"site-a": more, "site-b": other}


def test_what_is_open_is_there_after_a_restart(place):
    ledger = place()
    assert ledger.opened() is None and ledger.seats(1, "train") == {}
    ledger.open(opening())
    ledger.close()
    ledger = place()
    invited = {client: Assignment(client) for client in CLIENTS}
    assert ledger.opened() == (opening(), invited)
    ledger.decide(1, "train", [arrived("a")]).result()
    ledger.open(opening(kind="evaluate", model="1" * 64, clients=("b",)))
    ledger.close()
    ledger = place()
    assert ledger.opened() == (
        opening(kind="evaluate", model="1" * 64, clients=("b",)),
        {"b": Assignment("b")},
    )
    assert ledger.seats(1, "train") == invited | {"a": arrived("a")}
    ledger.commit(1, {}, {"round": 1}, ["a"])
    assert ledger.opened() is None
    assert ledger.seats(1, "train") == ledger.seats(1, "evaluate") == {}


def test_opening_the_same_again_changes_nothing_and_another_is_refused(place):
    ledger = place()
    ledger.open(opening())
    ledger.decide(1, "train", [Assignment("b", "late")]).result()
    before = ledger.version()
    ledger.open(opening())
    assert ledger.seats(1, "train")["b"] == Assignment("b", "late") and ledger.version() == before
    with pytest.raises(RunError, match=r"round 1 is open already in .* another model"):
        ledger.open(opening(model="f" * 64))
    ledger.commit(1, {}, {"round": 1}, [])
    with pytest.raises(RunError, match=r"round 1 cannot be opened in .* go on with round 2"):
        ledger.open(opening())
    ledger.open(opening(2, clients=()))
    assert ledger.opened() == (opening(2, clients=()), {})


def test_a_seat_is_decided_once(place):
    ledger = place()
    ledger.open(opening())
    failed = Assignment("a", "failed", "crashed", "Traceback…\n  é ✓\n")
    assert ledger.decide(1, "train", [arrived("a")]).result() == {"a": arrived("a")}
    assert ledger.decide(1, "train", [failed]).result() == {"a": arrived("a")}
    assert ledger.decide(1, "train", [Assignment("1", "declined")]).result() == {
        "1": Assignment("1", "declined")
    }
    late = [Assignment(client, "late") for client in (*CLIENTS, "stranger")]
    assert (
        ledger.decide(1, "train", late).result()
        == ledger.seats(1, "train")
        == {
            "a": arrived("a"),
            "b": Assignment("b", "late"),
            1: Assignment(1, "late"),
            "1": Assignment("1", "declined"),
        }
    )
    for round, kind, some in ((1, "evaluate", "a"), (2, "train", "a"), (1, "train", "stranger")):
        assert ledger.decide(round, kind, [Assignment(some, "late")]).result() == {}
    assert ledger.decide(1, "train", []).result() == {}


def test_many_decide_the_same_seats_at_once(place):
    cohort = tuple(range(40))
    ledger = place()
    ledger.open(opening(clients=cohort))
    gate, found = threading.Barrier(8), []

    def decide(caller):
        gate.wait()
        futures = [
            ledger.decide(1, "train", [Assignment(c, "arrived", digest=str(caller))])
            for c in cohort
        ]
        found.append([future.result()[c].digest for c, future in zip(cohort, futures, strict=True)])

    at_once(decide, 8)
    held = [seat.digest for _, seat in sorted(ledger.seats(1, "train").items())]
    assert found == [held] * 8


def test_two_servers_decide_the_same_seats_at_once(shared):
    cohort = tuple(range(30))
    ledgers = [shared(), shared(lead=False)]
    ledgers[0].open(opening(clients=cohort))
    gate, found = threading.Barrier(2), {}

    def decide(which):
        gate.wait()
        order = cohort if which else cohort[::-1]
        asked = [[Assignment(c, "arrived", digest=str(which))] for c in order]
        asked.append([Assignment(c, "late") for c in order])
        futures = [ledgers[which].decide(1, "train", seats) for seats in asked]
        found[which] = [future.result() for future in futures][-1]

    at_once(decide, 2)
    assert found[0] == found[1] == ledgers[0].seats(1, "train") == ledgers[1].seats(1, "train")
    assert all(seat.standing == "arrived" for seat in found[0].values())
