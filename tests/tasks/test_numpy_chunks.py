# SPDX-License-Identifier: Apache-2.0
"""Training a few clients at a time gives the bits of training all of them at once."""

import numpy as np
import pytest

from muster import batches, keys
from muster.algorithms.fedavg import FedAvg
from muster.local import Carry, Descent, Given
from muster.optimizers import SGD, Adam
from muster.tasks import numpy_chunks as chunks
from muster.tasks.numpy import SoftmaxRegression


@pytest.mark.parametrize("optimizer", [SGD(0.1), Adam(0.1)])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("sizes", [[20, 20, 20, 20, 20], [33, 31, 20, 9, 2]])
def test_chunks_change_no_bit(optimizer, fused, sizes, monkeypatch):
    task = SoftmaxRegression(7, 3)
    sizes = np.array(sizes)
    draw = np.random.default_rng(0)
    x = draw.standard_normal((sizes.sum(), 7)).astype("float32")
    y = draw.integers(0, 3, sizes.sum())
    counts = batches.step_counts(sizes, 2, None, 10)
    steps = batches.cut(
        x, y, sizes.cumsum() - sizes, sizes, keys.numbers(range(5)), counts, 10, keys.key(0)
    )
    descent = Descent(task, FedAvg(), optimizer, task.layout.sharing("*"), fused)
    results = []
    for room in (1, 2, 5):
        monkeypatch.setattr(chunks, "CACHE", room * task.layout.size * 4)
        w = np.zeros((5, task.layout.size), "float32")
        carry = Carry(w, w[:, :0], optimizer.init(w), None, np.zeros(5, "float32"))
        results.append(task.run(descent, Given(None, 0.1, 1), carry, steps))
    for result in results[:2]:
        np.testing.assert_array_equal(result.w, results[2].w)
        np.testing.assert_array_equal(result.loss, results[2].loss)


def test_every_client_is_in_one_chunk(monkeypatch):
    monkeypatch.setattr(chunks, "CACHE", 3 * 80)
    parts = list(chunks.chunks(np.zeros((8, 10))))
    assert [(part.start, part.stop) for part in parts] == [(0, 3), (3, 6), (6, 8)]
