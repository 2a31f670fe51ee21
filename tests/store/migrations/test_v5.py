# SPDX-License-Identifier: Apache-2.0
"""A federation of each older format goes on where it stood; `vN.sql` is one of format N.

It stopped in its third round: a member is left out, one update has arrived, a message was said.
"""

import sqlite3
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")

from muster.errors import RunError
from muster.federation.coordinator.apply import fold
from muster.federation.coordinator.events import read_event
from muster.federation.coordinator.facts import FederationFacts, raised
from muster.federation.coordinator.state import CoordinatorState
from muster.store.ledger import FederationStore
from muster.store.records import Assignment, Member, OpenWork

METRICS = {"rows": 10.0, "loss": 4.0, "steps": 2.0, "drift": 0.5}
FORMATS = sorted(path.stem for path in Path(__file__).parent.glob("v*.sql"))


def weigh(rows, times):
    return float(rows * times)


def restored(folder, name):
    """A run's folder as a release has left it."""
    folder.mkdir()
    script = Path(__file__).with_name(f"{name}.sql").read_text()
    with sqlite3.connect(folder / "run.db") as database:
        database.executescript(script)
    database.close()
    return folder


@pytest.mark.parametrize("name", FORMATS)
def test_a_federation_of_an_older_format_goes_on_where_it_stood(tmp_path, name):
    ledger = FederationStore(restored(tmp_path / "run", name))
    facts = FederationFacts("run-1", "f" * 64, {}, weigh, None, 500, raised=raised(ledger))
    rows = ledger.rows()
    state = fold(CoordinatorState(facts), ((row.position, read_event(row)) for row in rows))
    assert state.members == {
        "ann": Member("ann", 7, 10, "PEM of ann"),
        "bob": Member("bob", "bob", 20, "PEM of bob"),
        "eve": Member("eve", "eve", 30, "PEM of eve"),
    }
    assert (state.wanted, state.excluded, state.odd) == ("pause", {"eve": "it lied"}, {})
    assert (state.committed, state.fates) == (2, {1: {7}, 2: frozenset()})
    piece = state.piece(3, "train")
    roster = ((7, 10), ("bob", 20), ("eve", 30))
    cohort, groups = (7, "bob", "eve"), ((7, "bob"),)
    work = OpenWork(3, "train", cohort, (1, 2, 1), roster, "c" * 64, 99.5, groups)
    assert (piece.opened, piece.attempt, list(state.works.values())) == (work, 2, [piece])
    assert piece.assignments == {
        7: Assignment(7, "arrived", "", "", "d" * 64, 100, 10.0, METRICS),
        "bob": Assignment("bob"),
        "eve": Assignment("eve"),
    }
    assert piece.said == {("", "certificates"): (1, ""), ("ann", "11"): (2, "e" * 64)}
    assert [row.data for row in ledger.said(3)] == [b"{}", b"\x00\xff"]
    assert (state.position, ledger.position()) == (rows[-1].position, rows[-1].position)
    assert ledger.latest()[0] == 2 and ledger.meta("excluded") is None
    ledger.commit(3, {}, {"round": 3, "accepted": [7]}, [7])
    ledger.close()
    again = FederationStore(tmp_path / "run")
    topics = [row.topic for row in again.rows()]
    assert topics.count("committed") == 3 and "opened" not in topics and "said" not in topics
    again.close()


def test_there_is_one_of_this_format():
    assert FORMATS == ["v3", "v5"]


def test_one_of_a_newer_format_is_refused_by_its_version(tmp_path):
    folder = restored(tmp_path / "run", "v5")
    with sqlite3.connect(folder / "run.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '6'")
    database.close()
    with pytest.raises(RunError, match=r"newer muster \(schema 6\); upgrade muster"):
        FederationStore(folder)
