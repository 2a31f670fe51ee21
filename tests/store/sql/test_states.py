# SPDX-License-Identifier: Apache-2.0
"""A ledger and the store in memory do the same, whatever is asked of them; states come and go."""

import shutil
import tempfile

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.chaos.scene import bits

pytest.importorskip("sqlalchemy")

from sqlalchemy import update

from muster.errors import RunError
from muster.store import MemoryStore
from muster.store.blobs import Files
from muster.store.ledger import FederationStore
from muster.store.sql import states
from muster.store.sql.states import States
from muster.store.sql.tables import memory

CLIENTS = ("a", "b", 1, "1")
some = st.lists(st.sampled_from(CLIENTS), unique=True)


class Twins(RuleBasedStateMachine):
    """The same operations on both, the durable one being reopened now and then."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.mkdtemp()
        self.stores = [MemoryStore(), FederationStore(self.folder)]
        self.round = self.number = 0

    @rule(client=st.sampled_from(CLIENTS), value=st.integers(0, 9), ahead=st.integers(-1, 2))
    def remember(self, client, value, ahead):
        for store in self.stores:
            store.remember(self.round + ahead, client, {"m": np.full(3, value), "n": np.array(1.5)})

    @rule(
        value=st.floats(width=32, allow_nan=False),
        accepted=some,
        skip=st.integers(1, 2),
        every=st.integers(1, 4),
    )
    def commit(self, value, accepted, skip, every):
        self.round += skip
        arrays = {"x": np.full(3, value, "float32"), "empty": np.zeros(0), "one": np.array(7)}
        for store in self.stores:
            stays = {version for version in store.versions() if version % every == 0}
            record = {"round": self.round, "value": value}
            store.commit(self.round, arrays, record, accepted, stays)

    @precondition(lambda self: self.stores[0].versions())
    @rule(draw=st.randoms(use_true_random=False))
    def go_back(self, draw):
        self.round = draw.choice(self.stores[0].versions())
        self.number += 1
        for store in self.stores:
            store.go_back(self.round, self.number)

    @precondition(lambda self: self.round)
    @rule(back=st.integers(0, 1))
    def commit_again(self, back):
        for store in self.stores:
            with pytest.raises(RunError, match=f"go on with round {self.round + 1}"):
                store.commit(self.round - back, {}, {}, ())

    @rule()
    def rollback(self):
        for store in self.stores:
            store.rollback()

    @rule(large=st.booleans())
    def reopen(self, large):
        self.stores[1].close()
        self.stores[0].rollback()  # what closing forgets
        states.LARGE = 1 if large else 1 << 16
        self.stores[1] = FederationStore(self.folder)

    @invariant()
    def same(self):
        one, other = self.stores
        assert one.history() == other.history()
        a, b = one.latest(), other.latest()
        assert (a and (a[0], bits(a[1]))) == (b and (b[0], bits(b[1])))
        assert one.versions() == other.versions()
        assert one.superseded() == other.superseded()
        for version in one.versions():
            assert bits(one.state(version)) == bits(other.state(version))
            a, b = (
                {c: bits(m) for c, m in store.memory(CLIENTS, version).items()}
                for store in self.stores
            )
            assert a == b
        for ask in (lambda s: s.memory(CLIENTS), lambda s: s.staged(self.round + 1, CLIENTS)):
            a, b = ({c: bits(m) for c, m in ask(store).items()} for store in self.stores)
            assert a == b

    def teardown(self):
        states.LARGE = 1 << 16
        self.stores[1].close()
        shutil.rmtree(self.folder)


Twins.TestCase.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
TestTwins = Twins.TestCase


def test_two_servers_write_two_blobs(tmp_path):
    kept = States(Files(tmp_path), "the run")
    arrays = {"x": np.arange(50_000.0)}
    files = [kept.written(3, arrays, mark).file for mark in (None, 1, 2)]
    assert len(set(files)) == 3
    for file in files:
        round, found = kept.loaded((3, file, None))
        assert (round, bits(found)) == (3, bits(arrays))
    kept.sweep({files[0]})
    assert kept.blobs.names("") == [files[0]]


def test_a_state_that_is_written_again_is_begun_again(tmp_path):
    kept = States(Files(tmp_path), "the run")
    arrays = {"x": np.arange(50_000.0)}
    file = kept.written(3, arrays, None).file
    kept.blobs.drop(file)
    kept.blobs.append(file, 0, b"torn")
    assert kept.written(3, arrays, None).file == file
    assert bits(kept.loaded((3, file, None))[1]) == bits(arrays)


@pytest.mark.parametrize("damage", ["short", "flipped", "header", "gone"])
def test_a_damaged_state(alone, monkeypatch, damage):
    monkeypatch.setattr(states, "LARGE", 1)
    alone().commit(2, {"x": np.arange(500.0)}, {}, [])
    alone.close()
    (path,) = alone.folder.glob("state-*")
    data = bytearray(path.read_bytes())
    data[9 if damage == "header" else -9] ^= damage in ("flipped", "header")
    path.write_bytes(data[: -1000 if damage == "short" else None])
    if damage == "gone":
        path.unlink()
    ledger = alone()
    for read in (ledger.latest, ledger.snapshot):
        with pytest.raises(RunError, match=r"the state of round 2 in .* is damaged"):
            read()


def test_a_flipped_bit_in_rows(shared, monkeypatch):
    monkeypatch.setattr(states, "LARGE", 1)
    ledger = shared()
    ledger.commit(1, {"x": np.arange(500.0)}, {}, [])
    with ledger._transactions.engine.begin() as connection:
        flip = "UPDATE chunks SET data = set_bit(data, 9999, 1 - get_bit(data, 9999))"
        flip += " WHERE length(data) > 2000"
        connection.exec_driver_sql(flip)
    with pytest.raises(RunError, match=r"the state of round 1 in .* is damaged \(the checksum"):
        ledger.latest()


def test_a_damaged_memory(place):
    ledger = place()
    ledger.remember(1, "a", {"m": np.zeros(2)})
    ledger.commit(1, {}, {}, ["a"])
    harm = update(memory).values(arrays=b"1234")
    ledger._transactions.write("harm", lambda turn: turn.connection.execute(harm))
    with pytest.raises(RunError, match="the memory of client 'a' is damaged"):
        ledger.memory(["b", "a"])
