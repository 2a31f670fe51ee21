# SPDX-License-Identifier: Apache-2.0
"""Jobs that wait are made durable together, and what fails, fails alone."""

import threading

import pytest

pytest.importorskip("sqlalchemy")

from sqlalchemy import event
from tests.store.scene import at_once, opening

from muster.errors import RunError
from muster.store.records import Assignment, Member


def commits(ledger):
    """A list that grows with each COMMIT."""
    found = []
    event.listen(ledger._transactions.engine, "commit", lambda _: found.append(1))
    return found


def blocked(ledger):
    """The writer is busy until the event is set."""
    busy, free = threading.Event(), threading.Event()

    def body(turn):
        busy.set()
        free.wait()

    ledger._writer.submit("wait", body)
    busy.wait()
    return free


def test_all_that_waits_is_one_transaction(place):
    ledger = place()
    ledger.open(opening(clients=range(300)))
    free, done = blocked(ledger), commits(ledger)
    futures = [ledger.decide(1, "train", [Assignment(c, "late")]) for c in range(200)]
    free.set()
    assert [future.result() for future in futures] == [
        {c: Assignment(c, "late")} for c in range(200)
    ]
    assert len(done) == 2


def test_what_fails_fails_alone(place):
    ledger = place()
    ledger.open(opening())
    free = blocked(ledger)
    good = ledger.decide(1, "train", [Assignment("a", "late")])
    bad = [
        ledger.decide(1, "train", [Assignment("b", "arrived", size=1 << 70)]),
        ledger.decide(1, "train", [Assignment("b", "failed", text="\ud800")]),
    ]
    twice = [ledger.enrol(Member(name, "a", 1)) for name in ("x", "y")]
    other = ledger.decide(1, "train", [Assignment(1, "late")])
    free.set()
    assert good.result() == {"a": Assignment("a", "late")}
    assert other.result() == {1: Assignment(1, "late")}
    assert twice[0].result().name == "x"
    for failed in (*bad, twice[1]):
        with pytest.raises(RunError, match=r"could not decide seats of round 1|would enrol"):
            failed.result()
    assert ledger.seats(1, "train")["b"] == Assignment("b")


def test_a_job_that_brings_the_transaction_down_takes_no_other_with_it(place):
    ledger = place()
    ledger.open(opening())
    free = blocked(ledger)
    before = ledger.decide(1, "train", [Assignment("a", "late")])

    def body(turn):
        turn.connection.connection.dbapi_connection.rollback()
        raise ValueError("the ground gave way")

    bad = ledger._writer.submit("dig", body)
    after = ledger.decide(1, "train", [Assignment("b", "late")])
    free.set()
    with pytest.raises((RunError, ValueError)):
        bad.result()
    assert before.result() == {"a": Assignment("a", "late")}
    assert after.result() == {"b": Assignment("b", "late")}
    assert [seat.standing for seat in ledger.seats(1, "train").values()].count("late") == 2


def test_what_nobody_waits_for_any_more_is_left_out(place):
    ledger = place()
    ledger.open(opening())
    free = blocked(ledger)
    given_up = ledger.decide(1, "train", [Assignment("a", "late")])
    assert given_up.cancel()
    kept = ledger.decide(1, "train", [Assignment("b", "late")])
    free.set()
    kept.result()
    assert ledger.seats(1, "train")["a"] == Assignment("a")


def test_closing_does_what_waits(place):
    ledger = place()
    free = blocked(ledger)
    futures = [ledger.enrol(Member(f"m{i}", i, 1)) for i in range(50)]
    threading.Timer(0, free.set).start()
    ledger.close()
    assert all(future.done() for future in futures)
    assert len(place().members()) == 50


def test_many_callers(place):
    ledger = place()
    at_once(
        lambda i: [ledger.enrol(Member(f"{i}-{j}", f"{i}-{j}", j)).result() for j in range(5)], 16
    )
    assert len(ledger.members()) == 80
