# SPDX-License-Identifier: Apache-2.0
"""Bands and kept scratch change the speed of a product, never the numbers."""

import threading

import numpy as np
import pytest

from muster.tasks import numpy_layers as layers
from muster.tasks.numpy import MLP, Network
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
        Network().flops(5)
