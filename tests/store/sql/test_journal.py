# SPDX-License-Identifier: Apache-2.0
"""The journal's rows have one order, stand there once, and go with what makes them needless."""

import random
from dataclasses import replace

import pytest
from tests.store.scene import (
    arrived,
    at_once,
    begin,
    decide,
    enrol,
    events,
    opening,
    order,
    wanted,
    write,
)

pytest.importorskip("sqlalchemy")

from muster.errors import RunError
from muster.federation.coordinator.events import Committed, Said, WentBack
from muster.store import SQLiteStore
from muster.store.journal import RECENT, forgets
from muster.store.records import JournalRow, Member, SecAggEvent
from muster.store.sql.journal import PAGE

BODY = {"a": [1, "x", None], "metrics": {"big": 1e300, "third": 0.1 + 0.2}}


def test_rows_come_back_as_they_were_written(place):
    ledger = place()
    rows = [
        JournalRow("said", 3, "1 ann", BODY, b"\x00\xff"),
        JournalRow("decided", 3, 'train "ü\\n"', BODY),
        JournalRow("decided", 3, "train 1", {}),
    ]
    ledger.write(lambda turn: turn.append(rows, leads=False)).result()
    wanted = [replace(row, position=i) for i, row in enumerate(rows, 1)]
    assert ledger.rows() == wanted and ledger.rows(2) == wanted[2:] and ledger.position() == 3
    ledger.close()
    assert place().rows() == wanted


def test_a_long_journal_is_read_in_pages(place):
    ledger = place()
    rows = [JournalRow("enrolled", 0, str(i), {}) for i in range(PAGE + 10)]
    ledger.write(lambda turn: turn.append(rows, leads=False)).result()
    first = ledger.rows()
    rest = ledger.rows(first[-1].position)
    assert (len(first), len(rest), ledger.rows(rest[-1].position)) == (PAGE, 10, [])
    assert [row.key for row in (*first, *rest)] == [row.key for row in rows]


def test_a_row_stands_there_once(place):
    ledger = place()
    decide(ledger, 1, [arrived("a")]).result()
    with pytest.raises(RunError, match="could not write its journal"):
        decide(ledger, 1, [arrived("a")]).result()
    assert len(ledger.rows()) == 1 == ledger.position()


def drawn(draw, count):
    """Rows of all topics, of few rounds and names."""
    topics = ("enrolled", "ordered", "opened", "decided", "said", "committed", "went back")
    for i in range(count):
        topic, round = draw.choice(topics), draw.choice((1, 2, 3, RECENT + 2))
        if topic in ("enrolled", "ordered"):
            round = 0
        yield JournalRow(topic, round, draw.choice("ab") if topic != "ordered" else "", {"i": i})


def compacted(rows):
    """Return what the journal should hold by the rules alone, without rows that stand twice."""
    kept, written = [], []
    for row in rows:
        left = [one for one in kept if not any(span.covers(one) for span in forgets(row))]
        if any((one.topic, one.round, one.key) == (row.topic, row.round, row.key) for one in left):
            continue
        kept = [*left, replace(row, position=len(written) + 1)]
        written.append(row)
    return written, kept


@pytest.mark.parametrize("seed", range(6))
def test_what_a_row_makes_needless_goes_with_it(place, seed):
    draw = random.Random(seed)
    rows, kept = compacted(drawn(draw, 60))
    ledger = place()
    while rows:
        some = rows[: draw.randint(1, 9)]
        rows = rows[len(some) :]
        ledger.write(lambda turn, some=some: turn.append(some, leads=False)).result()
    assert ledger.rows() == kept


def test_two_servers_append_at_once_and_no_place_is_given_twice(shared):
    ledgers = [shared(), shared(lead=False)]

    def work(which):
        for i in range(40):
            enrol(ledgers[which], Member(f"{which}-{i}", f"{which}-{i}", 1)).result()

    at_once(work, 2)
    assert ledgers[0].rows() == ledgers[1].rows()
    assert [row.position for row in ledgers[0].rows()] == list(range(1, 81))


def test_a_turn_sees_what_others_wrote_before_it(shared):
    one, other = shared(), shared(lead=False)
    enrol(one, Member("a", "a", 1)).result()
    found = other.write(lambda turn: (turn.position, turn.after(0))).result()
    assert found == (1, one.rows())


def test_messages_of_a_round_are_read_in_turns(place):
    ledger = place()
    for i in range(100):
        write(ledger, Said(1, 1, SecAggEvent(f"site-{i}", "1", bytes([i])))).result()
    write(ledger, Said(2, 1, SecAggEvent("a", "1"))).result()
    found = []
    while page := ledger.said(1, len(found)):
        found += page
    assert [row.data for row in found] == [bytes([i]) for i in range(100)]
    ledger.commit(1, {}, {"round": 1, "accepted": []}, ())
    assert ledger.said(1) == [] and len(ledger.said(2)) == 1


def test_a_commit_and_a_rollback_are_events(place):
    ledger = place()
    for round in (1, 2):
        begin(ledger, opening(round))
        ledger.commit(round, {}, {"round": round}, ["a", 1], {1})
    begin(ledger, opening(3))
    assert events(ledger, Committed) == [Committed(1, ("a", 1)), Committed(2, ("a", 1))]
    ledger.go_back(1, 1, raised=[1])
    assert events(ledger, Committed) == [Committed(1, ("a", 1))]
    assert events(ledger, WentBack) == [WentBack(1, (1,))]
    assert {row.topic for row in ledger.rows()} == {"committed", "went back"}


def test_what_a_simulation_commits_and_takes_back_is_known(alone):
    ledger = alone()
    ledger.commit(1, {}, {"round": 1, "accepted": ["a"]}, ["a"])
    alone.close()
    store = SQLiteStore(alone.folder)
    for round in range(2, RECENT + 4):
        store.commit(round, {}, {"round": round, "accepted": [round]}, [], {2})
    store.close()
    ledger = alone()
    last = RECENT + 3
    found = events(ledger, Committed)
    assert found[-1] == Committed(last, (last,)) and len(found) == RECENT
    alone.close()
    assert [row.round for row in alone().rows()][-1] == last, "and it is written down once"
    alone.close()
    store = SQLiteStore(alone.folder)
    store.go_back(2, 1)
    store.close()
    assert events(alone(), WentBack) == [WentBack(2, ())]


def test_the_last_order_stands(place):
    ledger = place()
    for word in ("pause", "run", "drain"):
        order(ledger, word)
    assert wanted(ledger) == "drain" and len(ledger.rows()) == 1
