# SPDX-License-Identifier: Apache-2.0
"""An address means one run; what cannot be opened is said in a sentence, without the password."""

import sqlite3
import threading
from pathlib import Path

import pytest
from tests.store.scene import at_once, enrol, members

pytest.importorskip("sqlalchemy")

from muster.errors import RunError
from muster.store import SQLiteStore
from muster.store.ledger import FederationStore
from muster.store.records import Member
from muster.store.sql.connect import run_name


@pytest.mark.parametrize("url", ["mysql://host/db", "nonsense", "", "sqlite:///x"])
def test_an_address_of_something_else(tmp_path, url):
    with pytest.raises(RunError, match=r"give postgresql://USER@HOST/DATABASE\?run=NAME"):
        FederationStore(tmp_path, url)


def test_the_name_of_a_run():
    assert run_name(Path("a/b"), "postgresql://h/d") == "b"
    assert run_name(Path("a/b"), "postgres://h/d?sslmode=require&run=c.d-1") == "c.d-1"
    for url in (
        "postgresql://h/d?run=a%20b",
        'postgresql://h/d?run=a"b',
        "postgresql://h?run=" + "x" * 56,
    ):
        with pytest.raises(RunError, match="cannot name a run"):
            run_name(Path("a"), url)


def test_a_database_that_does_not_answer(tmp_path, postgres):
    url = f"postgresql://me:secret@127.0.0.1:{postgres.port}/none"
    with pytest.raises(RunError, match=r'database "none" does not exist|role "me"') as caught:
        FederationStore(tmp_path, url)
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_two_runs_in_one_database(tmp_path, database):
    ledgers = [FederationStore(tmp_path / name, database) for name in ("one", "two")]
    for ledger in ledgers:
        assert ledger.lead(threading.Event())
    enrol(ledgers[0], Member("a", "a", 1)).result()
    assert [len(members(ledger)) for ledger in ledgers] == [1, 0]
    for ledger in ledgers:
        ledger.close()


def test_servers_that_start_at_one_moment(tmp_path, database):
    made = []
    at_once(lambda i: made.append(FederationStore(tmp_path / str(i), f"{database}?run=r")), 5)
    assert len(made) == 5
    enrol(made[0], Member("a", "a", 1)).result()
    assert [len(members(ledger)) for ledger in made] == [1] * 5
    for ledger in made:
        ledger.close()


def test_a_folder_that_holds_something_else(tmp_path):
    (tmp_path / "run.db").write_bytes(b"not a database at all" * 500)
    with pytest.raises(RunError, match="file is not a database"):
        FederationStore(tmp_path)
    (tmp_path / "run.db").unlink()
    FederationStore(tmp_path).close()  # the lock was let go


def test_the_disk_is_waited_for(tmp_path):
    ledger = FederationStore(tmp_path)
    with ledger._transactions.engine.connect() as connection:
        for pragma, value in (("synchronous", 2), ("journal_mode", "wal"), ("page_size", 16384)):
            assert connection.exec_driver_sql(f"PRAGMA {pragma}").scalar() == value
    ledger.close()


def test_a_newer_run_is_left_alone(tmp_path):
    SQLiteStore(tmp_path).close()
    with sqlite3.connect(tmp_path / "run.db") as connection:
        connection.execute("UPDATE meta SET value='9' WHERE key='schema'")
    connection.close()
    with pytest.raises(RunError, match=r"newer muster \(schema 9, this one reads 2\)"):
        FederationStore(tmp_path)
