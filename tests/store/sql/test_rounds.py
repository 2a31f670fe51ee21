# SPDX-License-Identifier: Apache-2.0
"""A round is committed whole or not at all: deaths, full disks, damage, and one copy in memory."""

import errno
import os
import signal
import sqlite3
import subprocess
import sys
import tracemalloc
from contextlib import contextmanager

import numpy as np
import pytest
from tests.store.scene import DIGEST, arrived, begin, decide, opened, opening, put, seats

pytest.importorskip("sqlalchemy")

from sqlalchemy import event

from muster.errors import RunError
from muster.ports import Disk
from muster.store import SQLiteStore
from muster.store.blobs import NoRoom, update_name
from muster.store.records import Transition
from muster.store.sql import states
from muster.store.sqlite import LABELS


@pytest.fixture(params=[False, True], ids=["rows", "blobs"])
def large(request, monkeypatch):
    monkeypatch.setattr(states, "LARGE", 1 if request.param else 1 << 30)
    return request.param


def state(round):
    return {"x": np.arange(500.0) * round, "none": np.zeros((0, 2)), "one": np.array(round)}


def begun(ledger, round):
    """A round with one update, before its commit."""
    begin(ledger, opening(round))
    decide(ledger, round, [arrived("a")]).result()
    put(ledger.blobs, update_name(round, "a", DIGEST))
    ledger.remember(round, "a", {"m": np.full(4, round)})


def committed(ledger, rounds):
    for round in rounds:
        begun(ledger, round)
        ledger.commit(round, state(round), {"round": round}, ["a"])


def stands(ledger, round):
    """The ledger is after this round, and the next is open with its update."""
    found, arrays = ledger.latest()
    assert found == round
    for name, array in state(round).items():
        assert np.array_equal(arrays[name], array) and arrays[name].dtype == array.dtype
    assert [r["round"] for r in ledger.history()] == list(range(1, round + 1))
    assert ledger.last_record() == {"round": round}
    assert ledger.memory(["a", "b"])["a"]["m"].tolist() == [round] * 4
    steps = [step.round for step in ledger.transitions() if step.after == "committed"]
    assert steps == list(range(1, round + 1))


class Death(BaseException):
    """The process ends at a labelled point."""


@pytest.mark.parametrize("label", LABELS)
def test_a_death_at_any_point_leaves_the_round_whole_or_undone(place, large, label):
    ledger = place()
    committed(ledger, [1, 2])
    place.close()

    def at(now):
        if now == label:
            raise Death

    ledger = place(at=at)
    begun(ledger, 3)
    with pytest.raises(Death):
        ledger.commit(3, state(3), {"round": 3}, ["a"])
    ledger = again(place)
    done = 3 if LABELS.index(label) >= 3 else 2
    stands(ledger, done)
    update = update_name(3, "a", DIGEST)
    if done == 2:
        assert opened(ledger) == [opening(3)] and seats(ledger) == {"a": arrived("a")}
        assert bytes(ledger.blobs.whole(update)) == b"body"
        ledger.remember(3, "a", {"m": np.full(4, 3)})
        ledger.commit(3, state(3), {"round": 3}, ["a"])
    assert opened(ledger) == []
    assert ledger.blobs.names("update-") == []
    committed(ledger, [4])
    ledger = again(place)
    stands(ledger, 4)
    assert len(ledger._states.blobs.names("state-")) == large


def again(place):
    place.close()
    return place()


VICTIM = """
import os, signal, sys
import numpy as np
from muster.store.ledger import FederationStore
folder, label = sys.argv[1:]
def at(now):
    if now == label:
        os.kill(os.getpid(), signal.SIGKILL)
ledger = FederationStore(folder, at=at)
ledger.commit(2, {"x": np.full(100_000, 2.0)}, {"round": 2}, [])
"""


@pytest.mark.parametrize("label", LABELS)
def test_a_process_killed_at_any_point(alone, label):
    ledger = alone()
    ledger.commit(1, {"x": np.full(100_000, 1.0)}, {"round": 1}, [])
    alone.close()
    command = [sys.executable, "-c", VICTIM, str(alone.folder), label]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    done = 2 if LABELS.index(label) >= 3 else 1
    reader = SQLiteStore(alone.folder, readonly=True)
    for store in (reader, alone()):
        round, arrays = store.latest()
        assert (round, arrays["x"].tolist()) == (done, [done] * 100_000)
        assert [r["round"] for r in store.history()] == list(range(1, done + 1))
    reader.close()
    left = {path.name for path in alone.folder.iterdir()}
    states = [name for name in left if name.startswith("state-")]
    assert len(states) == 1 and not any(name.endswith(".part") for name in left)


def test_a_round_is_committed_once(place):
    ledger = place()
    committed(ledger, [1, 2])
    for round in (1, 2):
        with pytest.raises(RunError, match=r"has committed round 2; go on with round 3"):
            ledger.commit(round, state(9), {"round": 9}, [])
    stands(ledger, 2)


def test_a_state_that_cannot_be_written_down(place, large):
    ledger = place()
    committed(ledger, [1])
    begun(ledger, 2)
    for arrays, record in (({"x": np.array(["text"])}, {}), (state(2), {"a": {1, 2}})):
        with pytest.raises(Exception, match=r"dtype|serializable|unsupported"):
            ledger.commit(2, arrays, record, ["a"])
    stands(ledger, 1)
    assert len(ledger._states.blobs.names("state-")) == large


def test_facts_are_written_together(place):
    ledger = place()
    ledger.note()
    ledger.note(a=1, b=[None, "x"])
    ledger.note(b=2)
    assert ledger.facts() == {"schema": 2, "a": 1, "b": 2}
    assert ledger.meta("c") is None
    with pytest.raises(TypeError):
        ledger.note(a=5, c={1, 2})
    assert ledger.meta("a") == 1
    facts, history, latest = ledger.snapshot()
    assert (facts["a"], history, latest) == (1, [], None)
    with pytest.raises(RunError, match="no committed round yet"):
        ledger.last_line()


def test_staged_memories_wait_and_are_forgotten(place):
    ledger = place()
    ledger.remember(1, "a", {"m": np.zeros(2)})
    ledger.remember(1, 1, {"m": np.ones(2)})
    assert set(ledger.staged(1, ["a", 1, "1"])) == {"a", 1}
    assert ledger.staged(2, ["a"]) == ledger.memory(["a"]) == {}
    ledger.rollback()
    assert ledger.staged(1, ["a"]) == {}
    committed(ledger, [1])
    ledger.remember(1, "a", {"m": np.zeros(2)})
    assert ledger.staged(1, ["a"]) == {}


@pytest.mark.parametrize("name", ["write", "sync", "replace"])
def test_a_full_disk_beside_the_database(alone, monkeypatch, name):
    monkeypatch.setattr(states, "LARGE", 1)
    full = []

    def fault(*arguments):
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return getattr(Disk(), name)(*arguments)

    ledger = alone(disk=Disk(**{name: fault}))
    committed(ledger, [1, 2])
    begun(ledger, 3)
    full.append(True)
    with pytest.raises(NoRoom, match=r"No space left on device\); make room"):
        ledger.commit(3, state(3), {"round": 3}, ["a"])
    assert len(ledger._states.blobs.names("state-")) == 1
    stands(ledger, 2)
    full.clear()
    ledger.commit(3, state(3), {"round": 3}, ["a"])
    stands(ledger, 3)


def test_a_full_database(alone, large):
    ledger = alone()
    committed(ledger, [1, 2])
    begun(ledger, 3)
    with told(ledger, f"max_page_count={pages(ledger)}"):
        with pytest.raises(NoRoom, match=r"could not commit round 3 \(database or disk is full\)"):
            ledger.commit(3, state(3), {"round": 3, "text": "x" * (1 << 20)}, ["a"])
        assert len(ledger._states.blobs.names("state-")) == large
        with pytest.raises(NoRoom, match="database or disk is full"):
            for step in range(1000):
                ledger.note(**{f"fact-{step}": "x" * 10_000})
        with pytest.raises(RunError, match="full"):
            ledger.record(Transition(0.0, 3, "a", "b", "x" * (1 << 20)))
            decide(ledger, 3, []).result()
            ledger.record()
    stands(ledger, 2)
    ledger.commit(3, state(3), {"round": 3}, ["a"])
    stands(ledger, 3)


@contextmanager
def told(ledger, pragma):
    """Every connection hears a PRAGMA, until the end."""
    engine = ledger._transactions.engine

    def begun(connection, *_):
        connection.execute(f"PRAGMA {pragma}")

    engine.dispose()
    event.listen(engine, "connect", begun)
    yield
    event.remove(engine, "connect", begun)
    engine.dispose()


def pages(ledger):
    with ledger._transactions.engine.connect() as connection:
        return connection.exec_driver_sql("PRAGMA page_count").scalar()


def test_a_stranger_holds_the_database(alone):
    ledger = alone()
    committed(ledger, [1])
    begun(ledger, 2)
    stranger = sqlite3.connect(alone.folder / "run.db", isolation_level=None)
    stranger.execute("BEGIN IMMEDIATE")
    with (
        told(ledger, "busy_timeout=1"),
        pytest.raises(RunError, match=r"could not be written \(database is locked\)"),
    ):
        ledger.commit(2, state(2), {"round": 2}, ["a"])
    stranger.close()
    stands(ledger, 1)


def test_a_commit_holds_a_large_state_once(place):
    ledger = place()
    arrays = {"x": np.ones(3 << 20), "y": np.zeros(1 << 20, "float32")}
    ledger.commit(1, {"x": np.zeros(1)}, {}, [])  # what is imported on the way is no copy
    tracemalloc.start()
    ledger.commit(2, arrays, {}, [])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20 < arrays["x"].nbytes
    assert np.array_equal(ledger.latest()[1]["x"], arrays["x"])


def test_a_state_that_is_replaced_while_it_is_read(place, monkeypatch):
    monkeypatch.setattr(states, "LARGE", 1)
    ledger = place()
    committed(ledger, [1, 2])
    whole, rounds = ledger._states.blobs.whole, iter((3, 4))

    def late(name):
        for round in (next(rounds, None),):
            if round:
                committed(ledger, [round])
        return whole(name)

    monkeypatch.setattr(ledger._states.blobs, "whole", late)
    _, history, (round, arrays) = ledger.snapshot()
    assert (round, len(history)) == (4, 4)
    assert np.array_equal(arrays["x"], state(4)["x"])
    assert ledger.latest()[0] == 4
    arrays["x"][0] = 7.0  # it is the reader's own


def test_an_amended_state_takes_the_place_of_the_last_and_leaves_no_trace(place, large):
    ledger, rows = place(), state(2)["x"].tobytes()
    committed(ledger, [1, 2])
    amended = state(2) | {"x": np.zeros(500)}
    ledger.amend(amended, sealed=True, why="over")
    assert len(ledger._states.blobs.names("state-")) == large
    for _ in range(2):
        round, arrays = ledger.latest()
        assert (round, arrays["x"].any(), int(arrays["one"])) == (2, False, 2)
        assert (ledger.meta("sealed"), ledger.meta("why")) == (True, "over")
        assert [record["round"] for record in ledger.history()] == [1, 2]
        ledger.close()
        if not ledger.shared:
            files = [path for path in place.folder.rglob("*") if path.is_file()]
            assert not any(rows in path.read_bytes() for path in files)
        ledger = place()
    begun(ledger, 3)
    ledger.commit(3, state(3), {"round": 3}, ["a"])
    assert ledger.latest()[0] == 3


def test_one_who_lost_the_lead_amends_nothing(shared, large):
    ledger = shared()
    committed(ledger, [1])
    ledger._epoch -= 1
    with pytest.raises(RunError, match="does not lead"):
        ledger.amend(state(9), sealed=True)
    round, arrays = ledger.latest()
    assert (round, int(arrays["one"]), ledger.meta("sealed")) == (1, 1, None)
