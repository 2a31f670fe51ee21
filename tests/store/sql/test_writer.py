# SPDX-License-Identifier: Apache-2.0
"""Jobs that wait are made durable together, and what fails, fails alone."""

import threading

import pytest

pytest.importorskip("sqlalchemy")

from sqlalchemy import event
from tests.store.scene import at_once, begin, decide, enrol, members, opening, seats, write

from muster.errors import RunError
from muster.federation.coordinator.events import MemberEnrolled
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
    begin(ledger, opening(clients=range(300)))
    free, done = blocked(ledger), commits(ledger)
    futures = [decide(ledger, 1, [Assignment(c, "late")]) for c in range(200)]
    free.set()
    assert [future.result() for future in futures] == [None] * 200
    assert len(done) == 2
    assert len(seats(ledger)) == 200


def test_what_fails_fails_alone(place):
    ledger = place()
    begin(ledger, opening())
    free = blocked(ledger)
    good = decide(ledger, 1, [Assignment("a", "late")])
    bad = [
        decide(ledger, 1 << 70, [Assignment("b", "arrived")]),
        decide(ledger, 1, [Assignment("a", "failed")]),  # the database has one already
        write(ledger, MemberEnrolled(Member("\ud800", "x", 1))),
    ]
    other = decide(ledger, 1, [Assignment(1, "late")])
    free.set()
    assert good.result() is other.result() is None
    for failed in bad:
        with pytest.raises(RunError, match="could not write its journal"):
            failed.result()
    assert seats(ledger) == {"a": Assignment("a", "late"), 1: Assignment(1, "late")}
    assert [row.position for row in ledger.rows()] == [1, 2, 3] and ledger.position() == 3


def test_a_job_that_brings_the_transaction_down_takes_no_other_with_it(place):
    ledger = place()
    begin(ledger, opening())
    free = blocked(ledger)
    before = decide(ledger, 1, [Assignment("a", "late")])

    def body(turn):
        turn.connection.connection.dbapi_connection.rollback()
        raise ValueError("the ground gave way")

    bad = ledger._writer.submit("dig", body)
    after = decide(ledger, 1, [Assignment("b", "late")])
    free.set()
    with pytest.raises((RunError, ValueError)):
        bad.result()
    assert before.result() is after.result() is None
    assert seats(ledger).keys() == {"a", "b"}


def test_what_nobody_waits_for_any_more_is_left_out(place):
    ledger = place()
    begin(ledger, opening())
    free = blocked(ledger)
    given_up = decide(ledger, 1, [Assignment("a", "late")])
    assert given_up.cancel()
    kept = decide(ledger, 1, [Assignment("b", "late")])
    free.set()
    kept.result()
    assert seats(ledger).keys() == {"b"}


def test_closing_does_what_waits(place):
    ledger = place()
    free = blocked(ledger)
    futures = [enrol(ledger, Member(f"m{i}", i, 1)) for i in range(50)]
    threading.Timer(0, free.set).start()
    ledger.close()
    assert all(future.done() for future in futures)
    assert len(members(place())) == 50


def test_many_callers(place):
    ledger = place()
    at_once(
        lambda i: [enrol(ledger, Member(f"{i}-{j}", f"{i}-{j}", j)).result() for j in range(5)], 16
    )
    assert len(members(ledger)) == 80
