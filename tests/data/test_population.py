# SPDX-License-Identifier: Apache-2.0
"""A population: sorted clients, rows stored once, and the three ways to build one."""

import pickle
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster import keys
from muster.data import Population
from muster.errors import DataError


def rows(client, n=2):
    return np.full((n, 3), hash(client) % 97, np.float32), np.arange(n, dtype=np.int64)


def load(client):
    return rows(client, 2 + client % 3)


def people(test=None):
    return Population.from_arrays({"b": rows(2, 3), "a": rows(1, 2), "c": rows(3, 4)}, test)


def test_clients_are_sorted_and_counted():
    population = people()
    assert population.clients == tuple(population) == ("a", "b", "c")
    assert population.sizes.tolist() == [2, 3, 4]
    assert population.index("c") == 2
    assert len(population) == 3
    assert "b" in population
    assert "z" not in population
    assert (population.numbers == keys.numbers(["a", "b", "c"])).all()
    assert population.numbers is population.numbers
    assert repr(population) == "<Population clients=3, rows=9>"


@given(st.dictionaries(st.text(max_size=3), st.integers(1, 5), min_size=1, max_size=8), st.data())
def test_gather_finds_every_clients_own_rows(sizes, data):
    given = {client: rows(client, n) for client, n in sizes.items()}
    population = Population.from_arrays(given)
    asked = data.draw(st.lists(st.sampled_from(population.clients), max_size=6))
    x, y, starts, counts = population.gather(asked)
    assert x is population.gather(asked).x
    for client, start, size in zip(asked, starts, counts, strict=True):
        assert (x[start : start + size] == given[client][0]).all()
        assert (y[start : start + size] == given[client][1]).all()


def test_gather_copies_nothing_and_cannot_be_written_to():
    population = people()
    x = population.gather(["a", "c"]).x
    assert np.shares_memory(x, population["b"][0])
    assert np.shares_memory(x, population.pooled()[0])
    with pytest.raises(ValueError, match="read-only"):
        x[0] = 0


def test_strangers_are_refused_everywhere():
    population = people()
    for ask in (population.index, population.__getitem__, population.test):
        with pytest.raises(DataError, match="'z' is not enrolled"):
            ask("z")
    for asked in (["z"], ["a", "z"]):
        with pytest.raises(DataError, match="'z' is not enrolled"):
            population.gather(asked)


@pytest.mark.parametrize(
    ("given", "test", "words"),
    [
        ({}, None, "no client"),
        ({"a": rows(1), 2: rows(2)}, None, "two types"),
        ({"a": rows(1), "b": rows(1, 0)}, None, "client 'b' is empty"),
        ({"a": rows(1), "b": (np.ones((1, 2), np.float32), np.ones(1, int))}, None, "client 'b'"),
        ({"a": rows(1)}, {"b": rows(1)}, "client 'b' has test rows but no training rows"),
        ({"a": rows(1)}, {"a": (np.ones((1, 2)), np.ones(1, int))}, "client 'a'"),
    ],
)
def test_bad_arrays_are_refused(given, test, words):
    with pytest.raises(DataError, match=words):
        Population.from_arrays(given, test)


def test_test_rows_of_some_clients():
    population = people({"c": rows(9, 2), "a": rows(8, 1)})
    assert population.has_test
    assert population.test("b") is None
    assert len(population.test("c")[0]) == 2
    assert population.pooled_test()[1].tolist() == [0, 0, 1]
    assert not people().has_test
    assert people().pooled_test() is None
    assert people().test("a") is None


def test_only_some_clients():
    population = people({"c": rows(9, 2), "a": rows(8, 1)})
    part = population.only(["c", "b"])
    assert part.clients == ("b", "c")
    assert part.pooled()[1].tolist() == [0, 1, 2, 0, 1, 2, 3]
    assert part.pooled_test()[1].tolist() == [0, 1]
    assert np.shares_memory(part["b"][0], population["b"][0])
    assert part.only(["b"]).pooled_test() is None
    with pytest.raises(DataError, match="not enrolled"):
        part.only(["a"])


def test_fingerprint_is_of_the_rows_not_of_their_place():
    population = people({"a": rows(8, 1)})
    small = Population.from_arrays({"b": rows(2, 3), "c": rows(3, 4)})
    assert population.only(["b", "c"]).fingerprint() == small.fingerprint()
    assert population.fingerprint() == population.shared().fingerprint()
    assert population.fingerprint() != people().fingerprint()
    x, y = rows(2, 3)
    for other in ((x + 1, y), (x, y + 1), (x.astype(np.float64), y)):
        changed = Population.from_arrays({"b": other})
        assert changed.fingerprint() != small.only(["b"]).fingerprint()


def test_pickled_and_back():
    population = people({"a": rows(8, 1)})
    again = pickle.loads(pickle.dumps(population))
    assert again.fingerprint() == population.fingerprint()
    lazy = pickle.loads(pickle.dumps(Population.lazy(range(9), load)))
    assert lazy[4][0].shape == (3, 3)


def test_a_hundred_thousand_lazy_clients_are_quick():
    start = time.perf_counter()
    population = Population.lazy(range(100_000), load, sizes={i: 2 + i % 3 for i in range(100_000)})
    assert time.perf_counter() - start < 5
    assert population.sizes[:4].tolist() == [2, 3, 4, 2]
    assert population.gather([99_999, 5]).starts.tolist() == [0, 2]
    assert population.handle().fds == ()


def test_lazy_sizes_follow_the_clients_as_given():
    population = Population.lazy([5, 3], load, sizes=[4, 2])
    assert population.clients == (3, 5)
    assert population.sizes.tolist() == [2, 4]
    assert population.only([5]).sizes.tolist() == [4]
    assert population.shared() is population
    assert not population.has_test
    with pytest.raises(DataError, match="3 entries for 2 clients"):
        Population.lazy([5, 3], load, sizes=[4, 2, 1])


def test_lazy_equals_stored():
    lazy = Population.lazy(range(6), load, test=load)
    stored = Population.from_arrays({i: load(i) for i in range(6)})
    assert repr(lazy) == "<Population clients=6>"
    assert (lazy.pooled()[0] == stored.pooled()[0]).all()
    assert (lazy.pooled_test()[0] == stored.pooled()[0]).all()
    assert (lazy.sizes == stored.sizes).all()
    assert lazy.fingerprint() == Population.lazy(range(6), load).fingerprint()
    assert lazy.only([1, 2])[2][1].tolist() == load(2)[1].tolist()


def frame():
    return pd.DataFrame(
        {
            "hospital": ["x", "y", "x", "y"],
            "a": [1, 2, 3, 4],
            "b": [0.5, 0, 1, 2],
            "y": [0, 1, 1, 0],
        }
    )


def test_a_frame_gives_one_client_per_value():
    population = Population.from_frame(frame(), client="hospital")
    assert population.clients == ("x", "y")
    assert population["x"][0].tolist() == [[1, 0.5], [3, 1]]
    assert population["x"][0].dtype == np.float32
    assert population["x"][1].dtype == np.int64
    some = Population.from_frame(frame(), "hospital", features=["b"], target="a", test=0.5)
    assert some["y"][0].shape == (1, 1)
    assert len(some.test("y")[0]) == 1
    real = Population.from_frame(frame(), "hospital", features=["a"], target="b")
    assert real["x"][1].dtype == np.float32
    coded = frame().assign(hospital=pd.Categorical(["x", "y", "x", "y"], ["x", "y", "z"]))
    assert Population.from_frame(coded, "hospital").clients == ("x", "y")


@pytest.mark.parametrize(
    ("change", "asked", "words"),
    [
        ({}, {"client": "site"}, "'site' is not in the frame"),
        ({}, {"target": "label"}, "'label' is not in the frame"),
        ({"hospital": ["x", None, "x", "y"]}, {}, "without a client id"),
        ({"hospital": [1.5, 2, 1.5, 2]}, {}, "client id 1.5"),
        ({"a": list("pqrs")}, {}, "column 'a' is of dtype"),
        ({"b": [1, None, 2, 3]}, {}, "client 'y' has NaN or Inf in x at row 0"),
        ({"y": pd.array([1, None, 0, 1], "Int64")}, {}, "client 'y' has NaN or Inf in y"),
        ({}, {"test": 1.5}, "fraction"),
    ],
)
def test_bad_frames_are_refused(change, asked, words):
    with pytest.raises(DataError, match=words):
        Population.from_frame(frame().assign(**change), **{"client": "hospital", **asked})
