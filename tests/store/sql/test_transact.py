# SPDX-License-Identifier: Apache-2.0
"""A connection that breaks is made again once, and nothing is done twice or half."""

import threading

import pytest
from tests.store.scene import (
    arrived,
    at_once,
    begin,
    decide,
    enrol,
    members,
    opened,
    opening,
    order,
    seats,
    wanted,
)

from muster.errors import RunError
from muster.store.records import Member, Transition

psycopg = pytest.importorskip("psycopg")
STEP = Transition(0.0, 1, "a", "b", "c")


def broken(connection):
    """The line is cut."""
    connection.dbapi_connection.close()
    raise psycopg.OperationalError("the connection is lost")


@pytest.fixture(params=["before", "after"])
def cut(request, shared):
    """A ledger, and a function that cuts the line at its next COMMITs, before or after it."""
    ledger = shared()
    begin(ledger, opening())
    dialect = ledger._transactions.engine.dialect
    commit, left = dialect.do_commit, []

    def do_commit(connection):
        if not left:
            return commit(connection)
        left.pop()
        if request.param == "after":
            commit(connection)
        broken(connection)

    dialect.do_commit = do_commit
    yield ledger, left, request.param == "after"
    dialect.do_commit = commit


def test_a_line_that_is_cut_at_a_commit_is_no_harm(cut):
    ledger, left, _ = cut
    for write in (
        lambda: decide(ledger, 1, [arrived("a")]).result(),
        lambda: ledger.record(STEP),
        lambda: enrol(ledger, Member("a", "a", 1)).result(),
        lambda: order(ledger, "pause"),
        lambda: ledger.blobs.append("blob", 0, b"abc"),
        lambda: ledger.blobs.append("blob", 3, b"de"),
        lambda: ledger.blobs.finish("blob"),
        lambda: ledger.beat({"a": 1}),
    ):
        decide(ledger, 1, []).result()  # nothing waits
        left.append(True)
        write()
        decide(ledger, 1, []).result()
        assert not left
    assert ledger.transitions() == [STEP]
    assert seats(ledger) == {"a": arrived("a")}
    assert (wanted(ledger), members(ledger)) == ("pause", {"a": Member("a", "a", 1)})
    assert bytes(ledger.blobs.whole("blob")) == b"abcde"


def test_a_round_is_committed_once_though_the_line_is_cut(cut):
    ledger, left, _ = cut
    cuts = []
    ledger._at = lambda label: _once(label, cuts, left)
    ledger.commit(1, {"x": 1.0}, {"round": 1}, ["a"])
    assert cuts and not left
    assert (ledger.latest()[0], ledger.history()) == (1, [{"round": 1}])
    assert [step.after for step in ledger.transitions()] == ["committed"]


def _once(label, cuts, left):
    if label == "commit: before the transaction ends" and not cuts:
        cuts.append(True)
        left.append(True)


def test_a_line_that_is_cut_twice_is_an_error_and_the_state_is_whole(cut):
    ledger, left, after = cut
    before = ledger.position()
    left.extend([True, True])
    with pytest.raises(RunError, match=r"could not write its journal \(the connection is lost\)"):
        order(ledger, "pause")
    assert (wanted(ledger), ledger.position() > before) == (
        ("pause", True) if after else ("run", False)
    )
    order(ledger, "pause")
    left.extend([True, True])
    with pytest.raises(RunError, match="could not write its journal"):
        enrol(ledger, Member("a", "a", 1)).result()
    assert (len(members(ledger)) == 1) is after


def test_a_session_that_the_server_ends_is_opened_again(shared, postgres):
    ledger = shared()
    begin(ledger, opening())
    database = shared.url.split("/")[-1].split("?")[0]
    for ask in (
        ledger.position,
        (lambda: opened(ledger)),
        lambda: enrol(ledger, Member("a", "a", 1)).result(),
        lambda: ledger.blobs.append("blob", 0, b"x"),
        ledger.history,
    ):
        postgres.do(
            f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
            f"WHERE datname = '{database}'"
        )
        ask()


def test_a_database_that_is_gone_is_said_in_a_sentence(shared, postgres):
    ledger = shared()
    ledger.position()
    postgres.stop()
    try:
        stop = threading.Event()
        for ask in (ledger.position, lambda: order(ledger, "stop"), lambda: ledger.lead(stop)):
            with pytest.raises(RunError, match=r"the run 'r' of .* could not .*refused"):
                ask()
        with pytest.raises(RunError, match=r"cannot be used .* check that it runs"):
            shared()
    finally:
        postgres.start()
    assert (ledger.position(), wanted(ledger)) == (0, "run")
    assert ledger.lead(threading.Event())


def test_readers_see_one_instant(place):
    ledger, stop, odd = place(), threading.Event(), []

    def work(caller):
        if not caller:
            for round in range(1, 30):
                ledger.commit(round, {"x": float(round)}, {"round": round}, [])
            stop.set()
        while not stop.is_set():
            _, history, latest = ledger.snapshot()
            if (latest[0] if latest else 0) != len(history):
                odd.append((history, latest))

    at_once(work, 3)
    assert odd == []
