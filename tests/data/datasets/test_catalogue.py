# SPDX-License-Identifier: Apache-2.0
"""The datasets hold what they say; those that need a file skip without it."""

import gzip

import numpy as np
import pytest

from muster.data import (
    digits,
    fashion_mnist,
    heart_disease,
    mnist,
    shakespeare,
    statistics,
    synthetic,
    synthetic_file,
)
from muster.data.datasets import images
from muster.data.datasets.fetch import Remote, found
from muster.data.datasets.heart import _HEART
from muster.data.datasets.shakespeare import _FILE, VOCABULARY
from muster.data.datasets.synthetic import _FILES
from muster.errors import DataError, DatasetError


def needs(file):
    return pytest.mark.skipif(found(file) is None, reason=f"{file.name} is not in $MUSTER_DATA")


def test_digits():
    pytest.importorskip("sklearn")
    population, (x, y) = digits()
    assert (len(population), int(population.sizes.sum()), len(y)) == (10, 1438, 359)
    assert x.dtype == np.float32
    assert y.dtype == np.int64
    assert (x.min(), x.max(), x.shape[1]) == (0, 1, 64)
    assert digits().population.fingerprint() == population.fingerprint()
    skewed = digits(alpha=0.1, local_test=0.2).population
    assert skewed.has_test
    assert statistics(skewed).skew > 0.4 > 0.2 > statistics(population).skew
    with pytest.raises(DataError, match="test=0"):
        digits(test=0)


@needs(_HEART)
def test_four_hospitals():
    pytest.importorskip("sklearn")
    population, test = heart_disease()
    assert population.clients == ("cleveland", "hungarian", "switzerland", "va")
    assert population.sizes.tolist() == [199, 172, 30, 85]
    assert [len(population.test(c)[0]) for c in population] == [104, 89, 16, 45]
    assert test[0].shape == (254, 13)
    for client in population:
        x, _ = population[client]
        assert np.allclose(x.mean(axis=0), 0, atol=1e-5)
        spread = x.std(axis=0, ddof=1)
        assert np.allclose(spread[spread > 0], 1, atol=1e-5)
    pooled = heart_disease(standardise="pooled").population.pooled()[0]
    assert np.allclose(pooled.std(axis=0, ddof=1), 1, atol=1e-5)
    with pytest.raises(DataError, match="'site' or 'pooled'"):
        heart_disease(standardise="none")


@needs(_HEART)
@pytest.mark.parametrize(
    ("steps", "rate", "rounds", "norm"), [(1, 0.5, 200, 1.29441959), (20, 0.1, 100, 1.30464404)]
)
def test_federated_logistic_regression_on_hospitals_is_the_known_one(steps, rate, rounds, norm):
    pytest.importorskip("sklearn")
    population = heart_disease(dtype="float64").population
    data = [(np.c_[x, np.ones(len(x))], y) for x, y in map(population.__getitem__, population)]
    w = np.zeros(14)
    for _ in range(rounds):
        total = np.zeros(14)
        for x, y in data:
            v = w
            for _ in range(steps):
                v = v - rate * x.T @ (1 / (1 + np.exp(-x @ v)) - y) / len(y)
            total += len(y) / 486 * v
        w = total
    assert np.linalg.norm(w) == pytest.approx(norm, rel=1e-7)


@pytest.mark.parametrize("name", _FILES)
def test_synthetic_is_the_file_bit_for_bit(name):
    if found(Remote(f"synthetic_{name}.npz", _FILES[name], "")) is None:
        pytest.skip(f"synthetic_{name}.npz is not in $MUSTER_DATA")
    alpha, beta = (0, 0) if name == "iid" else map(float, name.split("_"))
    drawn = synthetic(alpha, beta, iid=name == "iid")
    read = synthetic_file(name)
    assert drawn.population.fingerprint() == read.population.fingerprint()
    assert (drawn.test[0] == read.test[0]).all()


def test_synthetic():
    population, test = synthetic(clients=5, seed=3)
    assert population.clients == (0, 1, 2, 3, 4)
    assert population[0][0].shape[1] == 60
    assert len(test[1]) == sum(len(population.test(c)[1]) for c in population)
    assert synthetic(clients=5, seed=4).population.fingerprint() != population.fingerprint()
    for bad in ({"alpha": -1}, {"clients": 0}):
        with pytest.raises(DataError, match="are required"):
            synthetic(**bad)
    with pytest.raises(DataError, match="one of 0_0"):
        synthetic_file("2_2")


@needs(_FILE)
def test_shakespeare():
    population, (x, y) = shakespeare()
    assert len(VOCABULARY) == len(set(VOCABULARY)) == 65
    assert len(population) == 243
    assert x.shape == y.shape
    assert x.shape[1] == 80
    assert (y[:, :-1] == x[:, 1:]).all()
    assert x.min() >= 0
    assert x.max() < 65
    romeo = "".join(VOCABULARY[code] for code in population["ROMEO"][0][0])
    assert romeo.startswith("Is the day so young?\nAy me! sad hours")
    assert len(shakespeare(minimum=50).population) < 100
    with pytest.raises(DataError, match="both must be 1"):
        shakespeare(window=0)
    with pytest.raises(DataError, match="no role has"):
        shakespeare(minimum=10**6)


@needs(images._FASHION_NPZ)
def test_fashion_mnist():
    population, (x, y) = fashion_mnist()
    assert population.sizes.tolist() == [600] * 100
    assert x.shape == (10_000, 784)
    assert np.bincount(y).tolist() == [1000] * 10
    pixels = population.pooled()[0]
    assert float(pixels.mean(dtype=np.float64)) == pytest.approx(0.2860, abs=1e-4)
    assert float(pixels.std(dtype=np.float64)) == pytest.approx(0.3530, abs=1e-4)


def idx(array):
    sides = np.array(array.shape, ">i4").tobytes()
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + sides + array.tobytes())


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Small idx files in the place of both image sets; checksums are tested with the fetching."""
    rng = np.random.default_rng(0)
    paths = {}
    for name, count in (("train", 200), ("t10k", 20)):
        for kind, shape in (("images-idx3", (count, 28, 28)), ("labels-idx1", (count,))):
            array = (
                rng.integers(0, 10, shape, np.uint8)
                if len(shape) == 1
                else (rng.integers(0, 256, shape, np.uint8))
            )
            path = tmp_path / f"{name}-{kind}-ubyte.gz"
            path.write_bytes(idx(array))
            paths[path.name] = path
    monkeypatch.setattr(images, "locate", lambda file: paths[file.name.split("/")[1]])
    monkeypatch.setattr(images, "found", lambda file: None)
    return paths


@pytest.mark.parametrize("read", [mnist, fashion_mnist])
def test_idx_files(tiny, read):
    population, (x, y) = read(clients=10, partition="shards")
    assert population.pooled()[0].shape == (200, 784)
    assert x.shape == (20, 784)
    assert x.dtype == np.float32
    assert 0.99 < x.max() <= 1
    assert y.dtype == np.int64
    square = read(clients=4, partition="dirichlet", alpha=1.0, flat=False, local_test=0.2)
    assert square.test[0].shape == (20, 28, 28)
    assert square.population.has_test
    with pytest.raises(DataError, match="'iid', 'shards' or 'dirichlet'"):
        read(partition="random")


def test_a_file_that_is_no_idx_file(tiny):
    tiny["train-images-idx3-ubyte.gz"].write_bytes(gzip.compress(b"hello"))
    with pytest.raises(DatasetError, match="idx file of bytes"):
        mnist()
