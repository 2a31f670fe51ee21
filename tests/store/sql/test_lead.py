# SPDX-License-Identifier: Apache-2.0
"""One leads, the others wait, and a lead that is let go or lost goes to one who waits."""

import subprocess
import sys
import threading

import pytest
from tests.store.scene import at_once, begin, opened, opening

pytest.importorskip("sqlalchemy")

from muster.errors import RunError

WAITS = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
psycopg = pytest.importorskip("psycopg")


def test_of_many_one_leads_at_a_time(shared):
    ledgers = [shared(lead=False) for _ in range(3)]
    leading, most, lock = [0], [0], threading.Lock()

    def work(caller):
        assert ledgers[caller].lead(threading.Event())
        with lock:
            leading[0] += 1
            most[0] = max(most[0], leading[0])
        begin(ledgers[caller], opening(caller + 1))
        with lock:
            leading[0] -= 1
        ledgers[caller].close()

    at_once(work, 3)
    assert (leading, most) == ([0], [1])
    assert {one.round for one in opened(shared())} == {1, 2, 3}


def test_who_waits_can_be_stopped(shared):
    shared()
    other, stop, found = shared(lead=False), threading.Event(), []
    thread = threading.Thread(target=lambda: found.append(other.lead(stop)))
    thread.start()
    stop.set()
    thread.join()
    assert found == [False]
    assert not other.lead(stop)
    with pytest.raises(RunError, match="does not lead"):
        begin(other, opening())


def test_one_who_is_closed_waits_no_more(shared, postgres):
    leader, other, found = shared(), shared(lead=False), []
    thread = threading.Thread(target=lambda: found.append(other.lead(threading.Event())))
    thread.start()
    while not _asked(postgres.url(), WAITS):
        pass
    other.close()
    thread.join()
    assert found == [False]
    begin(leader, opening())


def test_closing_hands_the_lead_over(shared):
    one, other, found = shared(), shared(lead=False), []
    thread = threading.Thread(target=lambda: found.append(other.lead(threading.Event())))
    thread.start()
    one.close()
    thread.join()
    assert found == [True]
    begin(other, opening())


LEADER = """
import sys, threading
from muster.store.ledger import FederationStore
ledger = FederationStore(*sys.argv[1:])
ledger.lead(threading.Event())
print("leads", flush=True)
sys.stdin.read()
"""


def test_a_leader_that_is_killed_is_followed(shared):
    command = [sys.executable, "-c", LEADER, str(shared.folder), shared.url]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as leader:
        assert leader.stdout.readline() == "leads\n"
        other, found = shared(lead=False), []
        thread = threading.Thread(target=lambda: found.append(other.lead(threading.Event())))
        thread.start()
        leader.kill()
        thread.join()
    assert found == [True]
    begin(other, opening())


def test_one_may_take_the_lead_again(shared):
    ledger = shared()
    epoch = ledger._epoch
    assert ledger.lead(threading.Event())
    assert ledger._epoch > epoch
    begin(ledger, opening())


def test_one_who_waits_outlives_a_session_that_ends(shared, postgres):
    one, other, found = shared(), shared(lead=False), []
    thread = threading.Thread(target=lambda: found.append(other.lead(threading.Event())))
    thread.start()
    while not (rows := _asked(postgres.url(), WAITS)):
        pass
    _asked(postgres.url(), f"SELECT pg_terminate_backend({rows[0][0]}, 10000)")
    one.close()
    thread.join()
    assert found == [True]


def _asked(url, query):
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(query).fetchall()
