# SPDX-License-Identifier: Apache-2.0
"""A process that is killed as it takes a run back leaves it where it was, or where it goes."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import product

import pytest
from tests.chaos import scene, victim

import muster
from muster.runs.replay import replay
from muster.runs.rollback import roll_back
from muster.runs.run import Run
from muster.store import sqlite
from muster.store.sqlite import BACK, SQLiteStore

LOGGED = "the log has it"  # and the run does not know of it yet
POINTS = (LOGGED, *BACK)
KEEP = muster.Keep(every=3)
BY = {"by": "ann", "reason": "the disk of c03 was read wrongly"}


def train(folder, *, resume=False):
    people, plan = victim.population(), replace(victim.PLANS["scaffold"], keep=KEEP)
    return muster.simulate(plan, people, people.pooled(), path=folder, resume=resume)


def die_at(label):
    """A trap that takes this process away at the label, as a power cut does."""

    def at(now):
        if now == label:
            os.kill(os.getpid(), signal.SIGKILL)

    return at


def go_back(folder, kind, label):
    """Take the run of this folder back to its round 3; the process dies at the label."""
    at = die_at(label)
    if kind == "ledger":
        from muster.store.ledger import FederationStore

        store = FederationStore(folder, at=at)
    else:
        store = SQLiteStore(folder, at=at)
    roll_back(store, 3, **BY, note=lambda *_, **__: at(LOGGED))


@pytest.mark.parametrize(
    ("kind", "label", "large"), tuple(product(("store", "ledger"), POINTS, (0, 1)))
)
def test_killed_as_it_goes_back(tmp_path, monkeypatch, kind, label, large):
    pytest.importorskip("sqlalchemy")
    monkeypatch.setattr(sqlite, "LARGE", 1 if large else 1 << 30)
    folder = tmp_path / "run"
    whole = train(folder)
    before = scene.outcome(folder)
    script = (
        f"from tests.chaos.test_rollback_kill import go_back; from pathlib import Path; "
        f"go_back(Path({str(folder)!r}), {kind!r}, {label!r})"
    )
    process = subprocess.run([sys.executable, "-c", script], cwd=scene.ROOT, check=False)
    assert process.returncode == -signal.SIGKILL, "the trap was not reached"
    done = label == BACK[-1]
    found = Run(folder, whole.plan)
    assert found.round == (3 if done else victim.ROUNDS)
    assert len(found.superseded) == (victim.ROUNDS - 3 if done else 0)
    if not done:
        assert scene.outcome(folder) == before, "not the smallest part of it was done"
        with SQLite(folder) as store:
            roll_back(store, 3, **BY)
    assert Run(folder).rounds_kept == [0, 3]
    again = train(folder, resume=True)
    assert scene.outcome(folder) == before
    assert [one["to"] for one in again.rollbacks] == [3]
    assert again.rounds_kept == [0, 3, 6, victim.ROUNDS]
    states = {path.name for path in folder.iterdir() if path.name.startswith("state-")}
    assert len(states) == (4 if large else 0), "nothing is left over"
    assert replay(folder, again.plan, victim.population()).identical


class SQLite(SQLiteStore):
    """A store that is closed when a block ends."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
