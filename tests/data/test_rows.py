# SPDX-License-Identifier: Apache-2.0
"""Rows of a client: how they must look, and what is said when they do not."""

import numpy as np
import pytest

from muster.data.rows import RowFormat, aligned, checked, fraction, holdout, identities, joined
from muster.errors import DataError

GOOD = np.ones((2, 3), np.float32), np.zeros(2, np.int64)


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        (np.ones(3), "a pair"),
        ((np.ones((3, 1)), np.ones(2)), "3 rows in x but 2 in y"),
        ((np.ones((0, 1)), np.ones(0)), "is empty"),
        ((np.array([[1.0], [np.nan]]), np.ones(2)), "NaN or Inf in x at row 1"),
        ((np.ones((2, 1)), np.array([0.0, np.inf])), "NaN or Inf in y at row 1"),
        ((np.array([["a"]]), np.ones(1)), "array of numbers"),
        (([[1.0], [1.0, 2.0]], [1, 2]), "array of numbers"),
        ((1.0, 2.0), "array of numbers"),
        ((np.ones((2, 4), np.float32), np.zeros(2, np.int64)), "(n, 4)"),
        ((np.ones((2, 3), np.float32), np.zeros((2, 1), np.int64)), "(n, 1)"),
    ],
)
def test_bad_rows_are_refused_by_name(pair, words):
    with pytest.raises(DataError, match="client 'site'") as caught:
        checked("site", pair, RowFormat.of(GOOD))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("clients", "words"),
    [
        ([], "no client"),
        ([1, "a"], "two types"),
        ([True, 2], "bool"),
        ([1.5], "float"),
        (["a", "b", "a"], "'a' is given twice"),
    ],
)
def test_bad_ids_are_refused(clients, words):
    with pytest.raises(DataError, match=words):
        identities(clients)


def test_ids_become_plain_values():
    given = identities(np.array([3, 1]))
    assert given == (3, 1)
    assert all(type(client) is int for client in given)
    assert type(identities([np.str_("a")])[0]) is str


def test_joined_rows_are_aligned_and_in_place():
    rows = joined([GOOD, None, GOOD], RowFormat.of(GOOD))
    assert rows.x.ctypes.data % 64 == rows.y.ctypes.data % 64 == 0
    assert rows.starts.tolist() == [0, 2, 2]
    assert rows.sizes.tolist() == [2, 0, 2]
    assert (rows.x == 1).all()
    assert aligned((0, 3), np.dtype("f4")).shape == (0, 3)


def test_holdout_takes_every_row_once_and_leaves_one():
    for n in (1, 2, 7, 50):
        train, test = holdout(n, 0.9, "a", seed=3)
        assert sorted([*train, *test]) == list(range(n))
        assert train.size >= 1
    assert holdout(50, 0.5, "a", 3)[0].tolist() == holdout(50, 0.5, "a", 3)[0].tolist()
    assert holdout(50, 0.5, "a", 3)[0].tolist() != holdout(50, 0.5, "b", 3)[0].tolist()


@pytest.mark.parametrize("value", [-0.1, 1.0, 20, float("nan")])
def test_a_fraction_is_below_one(value):
    with pytest.raises(DataError, match="fraction"):
        fraction("test", value)
