# SPDX-License-Identifier: Apache-2.0
"""Keys name the same numbers everywhere; the order of rows is a permutation, and uniform."""

import hashlib
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.keys import Key, Keys, key, number, numbers, order

GOLDEN_INTEGER = 5318083455820030184
GOLDEN_DRAWS = [894, 633, 835, 505, 612]
GOLDEN_UNIFORM = [0.6330890436410925, 0.5055977939244881, 0.6732471540133285]
GOLDEN_ORDER = [[[2, 0, 3, 5, 4, 1], [2, 3, 5, 1, 4, 0]], [[1, 0, 3, 2, 4, 5], [3, 1, 0, 2, 4, 5]]]

PARTS = st.integers(0, 2**63 - 1) | st.text(max_size=4)


def chi_square(counts, expected):
    return sum((count - expected) ** 2 / expected for count in counts)


@given(st.integers(0, 2**63 - 1))
def test_an_integer_stands_for_itself(i):
    assert number(i) == i


@given(st.text(max_size=8))
def test_a_word_is_hashed_out_of_the_way_of_integers(word):
    digest = hashlib.sha256(word.encode()).digest()
    assert number(word) == int.from_bytes(digest[:8], "little") | 2**63
    assert number(word) >= 2**63


def test_words_that_look_like_integers_are_not():
    assert len({number("7"), number(7), number("07"), number(-7), number(np.int64(8))}) == 5
    assert number(np.int64(7)) == 7


def test_numbers_are_number_by_number():
    parts = ["a", 3, "train", 2**62]
    assert numbers(parts).tolist() == [number(part) for part in parts]
    assert numbers([]).dtype == np.uint64


@settings(deadline=None)
@given(st.integers(0, 99), st.lists(PARTS, max_size=3), st.lists(PARTS, max_size=3))
def test_walking_in_two_steps_is_walking_in_one(seed, first, second):
    assert key(seed).at(*first).at(*second) == key(seed).at(*first, *second)


@settings(deadline=None)
@given(st.lists(st.lists(PARTS, max_size=3).map(tuple), unique=True, max_size=20))
def test_different_paths_draw_different_numbers(paths):
    assert len({key(0).at(*path).integer() for path in paths}) == len(paths)


def test_parts_do_not_run_together():
    drawn = [key(1).at(2, 3), key(1).at(23), key(12).at(3), key(1).at(3, 2), key(1).at(2).at(3, 0)]
    assert len({k.integer() for k in drawn}) == 5


def test_the_numbers_of_a_key_are_pinned():
    k = key(0).at("train", 1)
    assert k.integer() == GOLDEN_INTEGER
    assert k.generator().integers(0, 1000, 5).tolist() == GOLDEN_DRAWS
    np.testing.assert_array_equal(k.uniform(3), GOLDEN_UNIFORM)
    assert order(k, numbers([3, "ward"]), [6, 4], 2).tolist() == GOLDEN_ORDER


def test_each_generator_starts_afresh():
    k = key(5).at("sample", 2)
    assert k.generator().random() == k.generator().random() == k.uniform(1)[0]
    assert 0 <= k.integer() < 2**63


def test_keys_of_a_cohort_are_the_keys_of_its_clients():
    rows = Keys(key(1).at("encode", 4), (2, "b")).at("clip").uniform(5)
    alone = [key(1).at("encode", 4, "clip", client).uniform(5) for client in (2, "b")]
    np.testing.assert_array_equal(rows, alone)
    assert (rows >= 0).all()
    assert (rows < 1).all()


COHORTS = st.dictionaries(st.integers(0, 10**6), st.integers(1, 12), min_size=1, max_size=6)


@settings(deadline=None)
@given(COHORTS, st.integers(1, 3), st.integers(0, 9))
def test_every_epoch_is_a_permutation(cohort, epochs, seed):
    orders = order(key(seed), numbers(cohort), list(cohort.values()), epochs)
    assert orders.shape == (len(cohort), epochs, max(cohort.values()))
    for row, size in zip(orders, cohort.values(), strict=True):
        for epoch in row:
            assert sorted(epoch[:size]) == list(range(size))
            assert sorted(epoch) == list(range(orders.shape[-1]))


@settings(deadline=None)
@given(COHORTS, st.integers(1, 3))
def test_a_client_reads_alike_in_any_company(cohort, epochs):
    together = order(key(0), numbers(cohort), list(cohort.values()), epochs)
    for row, (client, size) in zip(together, cohort.items(), strict=True):
        alone = order(key(0), numbers([client]), [size], epochs + 2)[0]
        np.testing.assert_array_equal(row[:, :size], alone[:epochs])


def test_the_order_changes_with_key_client_and_epoch():
    a = order(key(0), numbers([1, 2]), [40, 40], 2)
    b = order(key(1), numbers([1, 2]), [40, 40], 2)
    walks = [tuple(row) for orders in (a, b) for client in orders for row in client]
    assert len(set(walks)) == 8


def test_nobody_has_no_order():
    assert order(key(0), numbers([]), [], 2).shape == (0, 2, 0)


def test_permutations_are_uniform():
    """All 24 orders of 4 rows over 4800 clients; 49.73 is the 0.999 quantile at 23 degrees."""
    walks = order(key(3), np.arange(4800, dtype=np.uint64), [4] * 4800, 1)[:, 0]
    counts = Counter(map(tuple, walks.tolist()))
    assert len(counts) == math.factorial(4)
    assert chi_square(counts.values(), 200) < 49.73


@pytest.mark.parametrize("axis", ["clients", "epochs"])
def test_neighbours_are_independent(axis):
    """First rows of neighbouring clients or epochs: 25 cells, 0.999 quantile at 24: 51.18."""
    k, e = (5001, 1) if axis == "clients" else (1, 5001)
    first = order(key(8), np.arange(k, dtype=np.uint64), [5] * k, e)[..., 0].reshape(-1)
    pairs = Counter(zip(first[:-1].tolist(), first[1:].tolist(), strict=True))
    assert chi_square([pairs[i, j] for i in range(5) for j in range(5)], 200) < 51.18


def test_a_key_is_a_value():
    assert key(4) == Key((4,))
    assert hash(key(4).at("x")) == hash(key(4).at("x"))


def finalised(z):
    """The splitmix64 finaliser in Python's own integers (Steele, Lea and Flood 2014)."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def test_the_order_sorts_the_documented_hash():
    k, client, size = key(6).at("train", 2), number("ward"), 9
    path = b"".join(part.to_bytes(8, "little") for part in k.path)
    start = finalised(client ^ int.from_bytes(hashlib.sha256(path).digest()[:8], "little"))
    for epoch, walk in enumerate(order(k, numbers(["ward"]), [size], 2)[0], 1):
        base = finalised((start + epoch * 0x94D049BB133111EB) % 2**64)
        hashes = [finalised((base + i * 0x9E3779B97F4A7C15) % 2**64) for i in range(1, size + 1)]
        assert walk.tolist() == sorted(range(size), key=hashes.__getitem__)
