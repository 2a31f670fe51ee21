# SPDX-License-Identifier: Apache-2.0
"""Bands and scratch change the speed of a product, never the numbers; rows by themselves."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.privacy.examples import clipped_rows
from muster.tasks import numpy as tasks
from muster.tasks import numpy_layers as layers
from muster.tasks.numpy import MLP, DenseNetwork
from muster.types import Batch


def test_bands_cover_every_column_once():
    for width in (1, 31, 64, 200, 784):
        for limit in (0, 1, 32, 33, 127, 1000):
            bands = layers._bands(width, limit)
            covered = np.concatenate([np.arange(width)[band] for band in bands])
            assert covered.tolist() == list(range(width))
            if len(bands) > 1:
                assert max(band.stop - band.start for band in bands) <= limit


@pytest.mark.parametrize("rows", [1, 10, 33])
def test_bands_change_no_number(rows, monkeypatch):
    draw = np.random.default_rng(0)
    task = MLP([150, 140, 130, 4], dtype="float64")
    w = draw.standard_normal((2, task.layout.size)) * 0.1
    batch = Batch(draw.standard_normal((2, rows, 150)), draw.integers(0, 4, (2, rows)))
    results = []
    for small in (10**12, 150 * 33 * 40, 1):
        monkeypatch.setattr(layers, "SMALL", small)
        monkeypatch.setattr(layers, "FEW", small)
        moved = w.copy()
        results.append((task.gradient(w, None, batch)[0], task.descend(moved, None, batch, 0.1)))
        results.append((w - 0.1 * results[-1][0], results[-1][1]))
        np.testing.assert_allclose(moved, results[-1][0], rtol=1e-12, atol=1e-13)
    for g, loss in results[2::2]:
        np.testing.assert_allclose(g, results[0][0], rtol=1e-11, atol=1e-14)
        np.testing.assert_allclose(loss, results[0][1], rtol=1e-12)


def test_a_gradient_outlives_the_next_one():
    draw = np.random.default_rng(1)
    task = MLP([5, 4, 3], dtype="float64")
    w = draw.standard_normal(task.layout.size)
    batch = Batch(draw.standard_normal((6, 5)), draw.integers(0, 3, 6))
    first, loss, _ = task.gradient(w, None, batch)
    kept = first.copy(), float(loss)
    task.gradient(2 * w, None, batch)
    task.predict(w, batch.x)
    np.testing.assert_array_equal(first, kept[0])
    assert loss == kept[1]


def test_scratch_belongs_to_a_thread():
    mine = layers.scratch("test", (3, 2), np.dtype("float32"))
    assert mine.ctypes.data % 64 == 0
    assert layers.scratch("test", (2,), np.dtype("float32")).ctypes.data == mine.ctypes.data
    other = []

    def ask():
        other.append(layers.scratch("test", (3, 2), np.dtype("float32")).ctypes.data)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert other != [mine.ctypes.data]


def test_the_cost_of_a_step_counts_each_product_once():
    assert MLP([3, 4, 2]).flops(5) == 5 * (6 * (12 + 8) - 2 * 12)
    with pytest.raises(NotImplementedError):
        DenseNetwork().flops(5)


NETWORKS = [
    tasks.LinearRegression(5, outputs=2, dtype="float64"),
    tasks.LogisticRegression(5, l2=0.3, dtype="float64"),
    tasks.SoftmaxRegression(5, 3, dtype="float64"),
    tasks.MLP([5, 7, 6, 3], dtype="float64"),
    tasks.MLP([5, 7, 3], "tanh", l2=0.1, dtype="float64"),
]


def setting(task, seed, clients=()):
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(*clients, 6, 5)).astype(task.dtype)
    numbers = isinstance(task, tasks.LinearRegression)
    shape = (*clients, 6)
    y = draw.normal(size=(*shape, 2)) if numbers else draw.integers(0, 2, shape)
    return draw.normal(size=(*clients, task.layout.size)).astype(task.dtype), x, y


@pytest.mark.parametrize("task", NETWORKS, ids=repr)
def test_a_rows_gradient_is_that_of_a_batch_of_one(task):
    w, x, y = setting(task, 1)
    found, losses = task.gradients(w, None, Batch(x, y))
    for i in range(6):
        g, loss, _ = task.gradient(w, None, Batch(x[i : i + 1], y[i : i + 1]))
        np.testing.assert_allclose(found[i], g - task.l2 * w, rtol=1e-12, atol=1e-14)
        assert losses[i] == pytest.approx(loss - task.l2 / 2 * w @ w, rel=1e-12)


@pytest.mark.parametrize("task", NETWORKS, ids=repr)
def test_rows_are_clipped_without_being_made(task):
    w, x, y = setting(task, 2, clients=(3,))
    scale = np.full((3, 6), 1 / 6)
    scale[1, 4:], scale[1, :4] = 0, 1 / 4  # two rows that only fill up
    scale[2] = 0  # a client whose coins all fell
    for bound in (1e-3, 1.0, 1e6):
        found, loss = task.clipped(w, None, Batch(x, y, scale), bound)
        for i, n in enumerate((6, 4, 0)):
            rows, losses = task.gradients(w[i], None, Batch(x[i, :n], y[i, :n]))
            np.testing.assert_allclose(found[i], clipped_rows(rows, bound).sum(0), atol=1e-12)
            assert loss[i] == pytest.approx(losses.sum() / max(n, 1))
            alone = task.clipped(w[i], None, Batch(x[i, :n], y[i, :n]), bound)
            np.testing.assert_allclose(alone[0], found[i], atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.floats(-6, 6), st.floats(-6, 6), st.sampled_from([3, 4]))
def test_no_row_adds_more_than_the_bound_in_single_precision(seed, size, clip, which):
    task, bound = NETWORKS[which].astype("float32"), 10.0**clip
    w, x, y = setting(task, seed)
    one = Batch((x * 10**size).astype("float32")[:1], y[:1])
    norm = np.linalg.norm(task.clipped(w, None, one, bound)[0].astype(np.float64))
    whole = np.linalg.norm(task.gradients(w, None, one)[0].astype(np.float64))
    assert norm <= bound
    assert norm == pytest.approx(min(whole, bound), rel=1e-5)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_a_row_that_no_clip_bounds_counts_as_none(odd):
    task = NETWORKS[3]
    w, x, y = setting(task, 3)
    kept = np.arange(len(x)) != 2
    wanted = task.clipped(w, None, Batch(x[kept], y[kept]), 1.0)[0]
    x[2, 0] = odd
    found = task.clipped(w, None, Batch(x, y), 1.0)[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
