# SPDX-License-Identifier: Apache-2.0
"""Every store keeps the promises of `Store`, and all do the same, whatever is asked of them."""

import shutil
import tempfile

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.chaos.scene import bits

from muster.errors import RunError
from muster.store import MemoryStore, SQLiteStore, sqlite
from muster.testing import check_store

CLIENTS = ("a", "b", 1, "1")
some = st.lists(st.sampled_from(CLIENTS), unique=True)


def test_the_memory_store_keeps_its_promises():
    kept = MemoryStore()
    check_store(lambda: kept)


@pytest.mark.parametrize("large", [1, 1 << 30])
def test_the_sqlite_store_keeps_its_promises(tmp_path, monkeypatch, large):
    monkeypatch.setattr(sqlite, "LARGE", large)
    made = []
    check_store(lambda: made.append(SQLiteStore(tmp_path)) or made[-1])
    made[-1].close()


def test_what_was_given_may_change_afterwards():
    store, x = MemoryStore(), np.zeros(2)
    store.remember(1, "a", {"m": x})
    store.commit(1, {"x": x}, {}, ["a"])
    x += 1
    assert store.latest()[1]["x"].tolist() == [0, 0]
    assert store.memory(["a"])["a"]["m"].tolist() == [0, 0]


class Twins(RuleBasedStateMachine):
    """The same operations on both stores, the durable one being reopened now and then."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.mkdtemp()
        self.stores = [MemoryStore(), SQLiteStore(self.folder)]
        self.round = self.number = 0
        self.ahead = 0

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
        sqlite.LARGE = 1 if large else 1 << 16
        self.stores[1] = SQLiteStore(self.folder)

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
        sqlite.LARGE = 1 << 16
        self.stores[1].close()
        shutil.rmtree(self.folder)


Twins.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestTwins = Twins.TestCase
