# SPDX-License-Identifier: Apache-2.0
"""SQLiteStore: damage, full disks, strangers and readers meet one sentence and an intact run."""

import errno
import os
import sqlite3

import numpy as np
import pytest

from muster.errors import RunError
from muster.store import SQLiteStore, sqlite
from muster.store.database import PAGE
from muster.store.sqlite import LABELS


@pytest.fixture(params=[False, True], ids=["rows", "files"])
def large(request, monkeypatch):
    monkeypatch.setattr(sqlite, "LARGE", 1 if request.param else 1 << 30)
    return request.param


def state(round):
    return {"x": np.arange(500.0) * round}


def committed(folder, rounds=2):
    store = SQLiteStore(folder)
    for round in range(1, rounds + 1):
        store.remember(round, "a", {"m": np.full(4, round)})
        store.commit(round, state(round), {"round": round}, ["a"])
    return store


def stands(store, round):
    found, arrays = store.latest()
    assert found == round
    assert np.array_equal(arrays["x"], state(round)["x"])
    assert [r["round"] for r in store.history()] == list(range(1, round + 1))
    assert store.memory(["a"])["a"]["m"].tolist() == [round] * 4


def leftovers(folder):
    return [p.name for p in folder.iterdir() if p.suffix == ".part"] + sorted(
        p.name for p in folder.glob("state-*")
    )[1:]


class Full(Exception):
    """Something goes wrong at a labelled point."""


@pytest.mark.parametrize("label", LABELS)
def test_an_error_at_any_point_leaves_the_round_whole_or_undone(tmp_path, large, label):
    committed(tmp_path).close()

    def at(now):
        if now == label:
            raise Full

    store = SQLiteStore(tmp_path, at=at)
    store.remember(3, "a", {"m": np.full(4, 3)})
    with pytest.raises(Full):
        store.commit(3, state(3), {"round": 3}, ["a"])
    done = 3 if LABELS.index(label) >= 3 else 2
    stands(store, done)
    store._at = lambda now: None
    for round in range(done + 1, 5):
        store.remember(round, "a", {"m": np.full(4, round)})
        store.commit(round, state(round), {"round": round}, ["a"])
    stands(store, 4)
    store.close()
    SQLiteStore(tmp_path).close()
    assert not leftovers(tmp_path)


def test_a_full_disk_in_the_database(tmp_path, large):
    store = committed(tmp_path)
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count={pages}")
    for client in range(50):
        with pytest.raises(RunError, match=r"\(database or disk is full\); what was committed"):
            for other in range(50):
                store.remember(3, f"{client}-{other}", {"m": np.zeros(500)})
            store.commit(3, state(3) | {"y": np.zeros(9000)}, {"round": 3, "text": "x" * 9000}, [])
    stands(store, 2)
    store._db.execute("PRAGMA max_page_count=1000000")
    store.remember(3, "a", {"m": np.full(4, 3)})
    store.commit(3, state(3), {"round": 3}, ["a"])
    stands(store, 3)
    store.close()
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("name", ["write_file", "replace"])
def test_a_full_disk_beside_the_database(tmp_path, monkeypatch, name):
    monkeypatch.setattr(sqlite, "LARGE", 1)
    store = committed(tmp_path)

    def full(first, second):
        path = second if name == "write_file" else first
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(sqlite if name == "write_file" else sqlite.os, name, full)
        with pytest.raises(RunError, match="No space left on device"):
            store.commit(3, state(3), {"round": 3}, [])
    assert not leftovers(tmp_path)
    stands(store, 2)
    store.close()


def test_a_damaged_database(tmp_path):
    committed(tmp_path).close()
    (tmp_path / "run.db").write_bytes(b"not a database at all" * 500)
    for readonly in (False, True):
        with pytest.raises(RunError, match=r"run\.db cannot be read \(file is not a database\)"):
            SQLiteStore(tmp_path, readonly=readonly)


def test_damaged_pages(tmp_path):
    committed(tmp_path).close()
    data = bytearray((tmp_path / "run.db").read_bytes())
    data[PAGE:] = b"\xff" * (len(data) - PAGE)
    (tmp_path / "run.db").write_bytes(data)
    with pytest.raises(RunError, match="malformed"):
        SQLiteStore(tmp_path)


@pytest.mark.parametrize("damage", ["short", "flipped", "gone"])
def test_a_damaged_state_file(tmp_path, monkeypatch, damage):
    monkeypatch.setattr(sqlite, "LARGE", 1)
    committed(tmp_path).close()
    (path,) = tmp_path.glob("state-000002-*.safetensors")
    data = bytearray(path.read_bytes())
    data[-9] ^= damage == "flipped"
    path.write_bytes(data[: -1000 if damage == "short" else None])
    if damage == "gone":
        path.unlink()
    store = SQLiteStore(tmp_path, readonly=True)
    for read in (store.latest, store.snapshot):
        with pytest.raises(RunError, match=r"the state of round 2 in .* is damaged"):
            read()
    store.close()


def test_a_newer_schema_is_left_alone(tmp_path):
    committed(tmp_path).close()
    with sqlite3.connect(tmp_path / "run.db") as db:
        db.execute("UPDATE meta SET value='9' WHERE key='schema'")
        db.execute("DROP TABLE memory")
    db.close()
    before = (tmp_path / "run.db").read_bytes()
    for readonly in (False, True):
        with pytest.raises(RunError, match=r"newer muster \(schema 9, this one reads 2\)"):
            SQLiteStore(tmp_path, readonly=readonly)
    assert (tmp_path / "run.db").read_bytes() == before


def test_two_writers(tmp_path):
    store = committed(tmp_path)
    with pytest.raises(RunError, match="is being trained by another process"):
        SQLiteStore(tmp_path)
    store.close()
    SQLiteStore(tmp_path).close()


def test_a_stranger_holds_the_database(tmp_path):
    store = committed(tmp_path)
    store._db.execute("PRAGMA busy_timeout=1")
    stranger = sqlite3.connect(tmp_path / "run.db", isolation_level=None)
    stranger.execute("BEGIN IMMEDIATE")
    with pytest.raises(RunError, match=r"could not commit round 3 \(database is locked\)"):
        store.commit(3, state(3), {"round": 3}, [])
    stranger.close()
    stands(store, 2)
    store.close()


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(RunError, match="holds no run"):
        SQLiteStore(tmp_path / "none", readonly=True)
    (tmp_path / "run.db").touch()  # killed before the first table was made
    with pytest.raises(RunError, match="never begun"):
        SQLiteStore(tmp_path, readonly=True)
    SQLiteStore(tmp_path).close()
    SQLiteStore(tmp_path, readonly=True).close()


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot hold a run"):
        SQLiteStore(tmp_path / "file")


def test_reading_while_it_is_written(tmp_path, large):
    writer = committed(tmp_path)
    for round in range(3, 30):
        reader = SQLiteStore(tmp_path, readonly=True)
        writer.remember(round, "a", {"m": np.full(4, round)})
        stands(reader, round - 1)
        writer.commit(round, state(round), {"round": round}, ["a"])
        facts, history, latest = reader.snapshot()
        assert (facts["schema"], len(history), latest[0]) == (2, round, round)
        reader.close()
    writer.close()


def test_a_state_that_is_replaced_while_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite, "LARGE", 1)
    writer = committed(tmp_path)
    reader = SQLiteStore(tmp_path, readonly=True)
    read, rounds = sqlite.read_file, iter((3, 4))

    def late(path):
        for round in (next(rounds, None),):
            if round:
                writer.commit(round, state(round), {"round": round}, [])
        return read(path)

    monkeypatch.setattr(sqlite, "read_file", late)
    _, history, (round, arrays) = reader.snapshot()
    assert (round, len(history)) == (4, 4)
    assert np.array_equal(arrays["x"], state(4)["x"])
    reader.close()
    writer.close()


def test_a_reader_cannot_write(tmp_path):
    committed(tmp_path).close()
    store = SQLiteStore(tmp_path, readonly=True)
    with pytest.raises(RunError, match="readonly"):
        store.note(plan="other")
    store.close()


def test_facts_are_written_together(tmp_path):
    store = SQLiteStore(tmp_path)
    store.note(a=1, b=[None, "x"])
    store.note(b=2)
    assert store.facts() == {"schema": 2, "a": 1, "b": 2}
    assert store.meta("c") is None
    with pytest.raises(TypeError):
        store.note(a=5, c={1, 2})
    assert store.meta("a") == 1
    store.close()


def test_what_a_death_leaves_over_is_swept_away(tmp_path, large):
    committed(tmp_path).close()
    for name in ("state-000009-0.safetensors", "state-000003-0.safetensors.part", "model.x.part"):
        (tmp_path / name).touch()
    (tmp_path / "notes.txt").touch()
    store = SQLiteStore(tmp_path)
    stands(store, 2)
    store.close()
    assert not leftovers(tmp_path)
    assert (tmp_path / "notes.txt").exists()


def test_an_amended_state_takes_the_place_of_the_last_and_leaves_no_trace(tmp_path, large):
    store, rows = committed(tmp_path), state(2)["x"].tobytes()
    assert any(rows in path.read_bytes() for path in tmp_path.iterdir())
    store.amend({"x": np.zeros(500)}, sealed=True, why="over")
    assert not any(rows in path.read_bytes() for path in tmp_path.iterdir())
    for _ in range(2):
        round, arrays = store.latest()
        assert (round, arrays["x"].any()) == (2, False)
        assert (store.meta("sealed"), store.meta("why")) == (True, "over")
        assert [record["round"] for record in store.history()] == [1, 2]
        assert store.memory(["a"])["a"]["m"].tolist() == [2] * 4
        store.close()
        store = SQLiteStore(tmp_path)
    store.commit(3, state(3), {"round": 3}, [])
    assert store.latest()[0] == 3
    store.close()
    assert not leftovers(tmp_path)


def test_what_was_in_the_database_is_written_over_also_where_less_takes_its_place(tmp_path):
    store, rows = committed(tmp_path), np.random.default_rng(0).normal(size=6000)
    store.commit(3, {"x": rows}, {"round": 3}, [])
    store.amend({"x": np.zeros(9)}, sealed=True)
    store.close()
    parts = rows.reshape(-1, 50)
    data = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert not any(part.tobytes() in data for part in parts)


def test_a_state_that_cannot_be_amended_stays_with_its_facts(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite, "LARGE", 1)
    store = committed(tmp_path)

    def full(arrays, path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(sqlite, "write_file", full)
        with pytest.raises(RunError, match=r"could not amend its state .*No space left"):
            store.amend({"x": np.zeros(500)}, sealed=True)
    stands(store, 2)
    assert store.meta("sealed") is None
    store.close()
    assert not leftovers(tmp_path)


def test_what_a_death_left_of_a_state_is_written_over_when_the_run_is_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite, "LARGE", 1)
    committed(tmp_path).close()
    left, other = tmp_path / "state-000002-00000000.safetensors", tmp_path.parent / "other"
    left.write_bytes(b"rows of noise")
    os.link(left, other)  # the same bytes by another name, to see what became of them
    SQLiteStore(tmp_path).close()
    assert not left.exists()
    assert other.read_bytes() == bytes(len(b"rows of noise"))
