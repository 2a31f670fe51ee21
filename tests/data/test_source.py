# SPDX-License-Identifier: Apache-2.0
"""Lazy rows: loaded when asked for, few kept, checked each time."""

import numpy as np
import pytest

from muster.data.source import Lazy
from muster.errors import DataError


def rows(client):
    return np.full((client + 1, 2), client, np.float32), np.zeros(client + 1, np.int64)


def test_few_clients_are_kept():
    asked = []

    def load(client):
        asked.append(client)
        return rows(client)

    source = Lazy(tuple(range(200)), load, None, None)
    source.pair(3)
    source.pair(3)
    assert asked == [3]
    for client in range(100, 170):
        source.pair(client)
    source.pair(3)
    assert asked.count(3) == 2
    assert len(source._kept) == 64


def test_unknown_sizes_are_found_by_loading_each_client_once():
    asked = []
    source = Lazy((0, 1, 2), lambda c: (asked.append(c), rows(c))[1], None, None)
    assert not source.sizes_known
    assert source.sizes.tolist() == [1, 2, 3]
    assert source.sizes.tolist() == [1, 2, 3]
    assert asked == [0, 1, 2]


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({0: 1}, "no client 1"),
        ([1, 2, 3], "one size per client"),
        (0, "empty"),
        ([1, 0], "client 1 is empty"),
    ],
)
def test_bad_sizes_are_refused(sizes, words):
    with pytest.raises(DataError, match=words):
        Lazy((0, 1), rows, sizes, None)


def test_a_wrong_size_is_found_at_load():
    with pytest.raises(DataError, match="client 1 loaded 2 rows but sizes says 5"):
        Lazy((0, 1), rows, 5, None).pair(1)


def test_a_loader_that_raises_names_its_client():
    source = Lazy((7,), lambda client: 1 / 0, 1, None)
    with pytest.raises(DataError, match="loading client 7 raised ZeroDivisionError"):
        source.pair(0)


def test_a_client_unlike_the_first_is_refused():
    def load(client):
        return np.ones((1, 2 + client)), np.zeros(1)

    source = Lazy((0, 1), load, 1, None)
    source.pair(0)
    with pytest.raises(DataError, match="client 1 has x float64"):
        source.pair(1)


def test_a_cohort_is_concatenated():
    source = Lazy(tuple(range(5)), rows, None, lambda c: rows(c) if c else None)
    x, _, starts, sizes = source.gather(np.array([4, 1]))
    assert starts.tolist() == [0, 5]
    assert sizes.tolist() == [5, 2]
    assert x[:, 0].tolist() == [4] * 5 + [1] * 2
    assert source.gather(np.array([], np.int64)).x.shape == (0, 2)
    assert len(source.pooled()[0]) == 15
    assert len(source.pooled_test()[0]) == 14
    assert source.test_pair(0) is None
    assert Lazy((0,), rows, None, lambda c: None).pooled_test() is None
