# SPDX-License-Identifier: Apache-2.0
"""Few clients at a time, or all steps in one sweep: the bits of the general way."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster import batches, keys
from muster.algorithms.fedavg import FedAvg
from muster.local import Carry, Descent, Given
from muster.optimizers import SGD, Adam
from muster.tasks import numpy_walk as walks
from muster.tasks.numpy import LinearRegression, LogisticRegression, SoftmaxRegression
from muster.tasks.numpy_layers import scratch


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
        monkeypatch.setattr(walks, "CACHE", room * task.layout.size * 4)
        w = np.zeros((5, task.layout.size), "float32")
        carry = Carry(w, w[:, :0], optimizer.init(w), None, np.zeros(5, "float32"))
        results.append(task.run(descent, Given(None, 0.1, 1), carry, steps))
    for result in results[:2]:
        np.testing.assert_array_equal(result.w, results[2].w)
        np.testing.assert_array_equal(result.loss, results[2].loss)


def test_every_client_is_in_one_chunk(monkeypatch):
    monkeypatch.setattr(walks, "CACHE", 3 * 80)
    parts = list(walks.chunks(np.zeros((8, 10))))
    assert [(part.start, part.stop) for part in parts] == [(0, 3), (3, 6), (6, 8)]


def cohort(task, sizes, batch, draw):
    """Rows, batches and start of a cohort by falling size."""
    sizes = np.sort(np.array(sizes))[::-1].copy()
    n = int(sizes.sum())
    x = draw.standard_normal((n, task.features)).astype(task.dtype)
    classes = getattr(task, "classes", 2)
    labels = isinstance(task, LinearRegression)
    y = draw.standard_normal((n, 3)) if labels else draw.integers(0, classes, n)
    starts, clients = np.cumsum(sizes) - sizes, keys.numbers(range(len(sizes)))
    counts = batches.step_counts(sizes, 2, None, batch)
    steps = batches.cut(x, y, starts, sizes, clients, counts, batch, keys.key(1), task.dtype)
    w = draw.standard_normal((len(sizes), task.layout.size)).astype(task.dtype)
    return batches.gather(steps, 1 << 30, scratch), w


@pytest.mark.parametrize(
    "task",
    [
        SoftmaxRegression(5, 4),
        SoftmaxRegression(5, 4, dtype="float64"),
        LogisticRegression(3),
        LinearRegression(4, 3),
    ],
    ids=str,
)
@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=6), batch=st.integers(1, 6))
def test_a_sweep_is_the_walk(task, sizes, batch):
    steps, start = cohort(task, sizes, batch, np.random.default_rng(len(sizes)))
    assert walks.sweeps(task.widths, task.l2, steps)
    swept, walked = start.copy(), start.copy()
    losses = walks.sweep(swept, task.widths, task.loss, steps, 0.1)

    def step(carry, rows):
        return (carry[0], carry[1] + task.descend(carry[0], None, rows, 0.1))

    _, summed = batches.fold(step, (walked, np.zeros(len(start), task.dtype)), steps)
    assert np.array_equal(swept, walked)
    np.testing.assert_allclose(losses, summed, rtol=1e-5)
    assert not np.array_equal(swept, start)


def test_a_penalty_or_a_hidden_layer_takes_the_general_way():
    steps, _ = cohort(SoftmaxRegression(5, 4), [6, 6], 3, np.random.default_rng(0))
    assert not walks.sweeps((5, 4), 0.1, steps)
    assert not walks.sweeps((5, 8, 4), 0.0, steps)
