# SPDX-License-Identifier: Apache-2.0
"""Every row exactly once, the same for the same seed, whatever was drawn before."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.data import by_column, dirichlet, feature_noise, iid, quantity, shards, split
from muster.errors import DataError

LABELS = np.random.default_rng(0).integers(0, 7, 500)

PARTITIONS = {
    "iid": lambda y, k, seed: iid(len(y), k, seed),
    "dirichlet": lambda y, k, seed: dirichlet(y, k, 5.0, seed, minimum=0),
    "shards": lambda y, k, seed: shards(y, k, 2, seed),
    "quantity, alpha": lambda y, k, seed: quantity(len(y), k, alpha=0.3, seed=seed),
    "quantity, sigma": lambda y, k, seed: quantity(len(y), k, sigma=2.0, seed=seed),
}


@pytest.mark.parametrize("name", PARTITIONS)
@given(
    y=st.lists(st.integers(0, 4), min_size=24, max_size=60),
    k=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_every_row_exactly_once_and_the_same_again(name, y, k, seed):
    labels = np.array(y)
    np.random.seed(k)
    parts = PARTITIONS[name](labels, k, seed)
    assert list(parts) == list(range(k))
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(y)))
    assert all((np.diff(rows) > 0).all() for rows in parts.values())
    iid(10, 2, seed)
    again = PARTITIONS[name](labels, k, seed)
    assert all((parts[client] == again[client]).all() for client in parts)


@pytest.mark.parametrize("name", PARTITIONS)
def test_another_seed_is_another_partition(name):
    first, other = (PARTITIONS[name](LABELS, 10, seed) for seed in (0, 1))
    assert any(first[k].tolist() != other[k].tolist() for k in first)


def test_sizes():
    assert {len(rows) for rows in iid(103, 10).values()} == {10, 11}
    assert {len(rows) for rows in shards(LABELS, 25, 2).values()} == {20}
    assert min(len(rows) for rows in dirichlet(LABELS, 10, 0.5, minimum=10).values()) >= 10
    assert min(len(rows) for rows in quantity(200, 10, alpha=0.1, minimum=7).values()) >= 7


def test_skew_is_what_it_says():
    y = np.repeat(np.arange(10), 100)
    assert max(len(np.unique(y[rows])) for rows in shards(y, 100, 2).values()) <= 2
    spread = [dirichlet(y, 10, alpha, minimum=0) for alpha in (0.05, 100.0)]
    held = [np.mean([len(np.unique(y[rows])) for rows in parts.values()]) for parts in spread]
    assert held[0] < 5 < 9 < held[1]
    sizes = [len(rows) for rows in quantity(10_000, 20, sigma=2.0).values()]
    assert max(sizes) > 5 * np.median(sizes)


def test_by_column_names_the_clients():
    parts = by_column(np.array(["b", "a", "b"]))
    assert {client: rows.tolist() for client, rows in parts.items()} == {"a": [1], "b": [0, 2]}
    assert list(by_column([3, 1, 3])) == [1, 3]


def test_feature_noise_grows_with_the_client():
    x = np.zeros((4000, 2), np.float32)
    parts = iid(4000, 4)
    noisy = feature_noise(x, parts, sigma=2.0)
    assert noisy.dtype == x.dtype
    assert not x.any()
    levels = [noisy[parts[k]].std() for k in range(4)]
    assert np.allclose(levels, [0.5, 1.0, 1.5, 2.0], rtol=0.1)
    backwards = feature_noise(x, dict(reversed(parts.items())), sigma=2.0)
    assert (backwards == noisy).all()


def test_split_makes_a_population():
    x = np.arange(20.0).reshape(20, 1)
    parts = iid(20, 4)
    population = split(x, np.arange(20), parts, test=0.2)
    assert population.sizes.tolist() == [4] * 4
    assert len(population.test(0)[1]) == 1
    held = np.concatenate([population.pooled()[1], population.pooled_test()[1]])
    assert sorted(held) == list(range(20))
    whole = split(x, np.arange(20), parts)
    assert not whole.has_test
    assert whole[2][1].tolist() == parts[2].tolist()


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: iid(3, 4), "3 rows were given for 4 clients"),
        (lambda: iid(3, 0), "clients=0"),
        (lambda: dirichlet(LABELS, 4, 0.0), "alpha=0.0"),
        (lambda: dirichlet(LABELS, 4, float("nan")), "alpha=nan"),
        (lambda: dirichlet(LABELS, 100, 0.01, minimum=4), "raise alpha"),
        (lambda: dirichlet(LABELS, 4, 1.0, minimum=-1), "rows >= 0"),
        (lambda: dirichlet(np.ones((3, 2)), 1, 1.0), "one label per row"),
        (lambda: shards(LABELS, 4, 0), "per_client=0"),
        (lambda: shards(LABELS, 400, 2), "800 at least"),
        (lambda: quantity(10, 2), "exactly one"),
        (lambda: quantity(10, 2, alpha=1.0, sigma=1.0), "exactly one"),
        (lambda: quantity(10, 2, sigma=-1.0), "sigma=-1.0"),
        (lambda: by_column([1.5]), "client id 1.5"),
        (lambda: feature_noise(np.ones((2, 2), int), iid(2, 1), 1.0), "floats are required"),
        (lambda: feature_noise(np.ones((2, 2)), iid(2, 1), 0.0), "sigma=0.0"),
        (lambda: split(np.ones(3), np.ones(3), {0: np.array([3])}), "row 3"),
        (lambda: split(np.ones(3), np.ones(3), {0: np.array([], int)}), "client 0 is empty"),
        (lambda: split(np.ones(3), np.ones(3), iid(3, 1), test=1.0), "test=1.0"),
    ],
)
def test_bad_values_are_refused_in_one_sentence(act, words):
    with pytest.raises(DataError, match=words) as caught:
        act()
    assert "required" in str(caught.value)
    assert "\n" not in str(caught.value)
