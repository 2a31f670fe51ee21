# SPDX-License-Identifier: Apache-2.0
"""Compiled rounds: cohorts against clients alone, algorithms traced unchanged."""

import numpy as np
import pytest

pytest.importorskip("jax")

from muster import keys, vectors
from muster.algorithms import FedAvg, FedDyn, FedProx, Scaffold
from muster.batches import cut, step_counts
from muster.local import Carry, Descent, Given
from muster.optimizers import SGD, Adagrad, Adam, Momentum, Yogi
from muster.tasks import jax as tasks
from muster.tasks import jax_steps, jax_traced
from muster.tasks.jax_steps import jax, jnp
from muster.types import Batch
from muster.vectors import tree_map, zeros

AVERAGE, PLAIN = FedAvg(), SGD(0.1)
CLOSE = {"rtol": 0, "atol": 1e-10}


def bias_first(key):
    one, two = jax.random.split(key)
    return {"b": {"w": jax.random.normal(one, (4, 3))}, "a": jax.random.normal(two, (3,))}


def noisy(params, x, rng):
    mask = 1.0 if rng is None else jax.random.bernoulli(rng, 0.5, (x.shape[-1],))
    return (x * mask) @ params["b"]["w"] + params["a"]


def cohort(sizes, features=5, classes=4, batch=4, epochs=2, alone=False, round=1, only=None):
    """Batches of clients that stand by falling size, all together or only one of them."""
    rng = np.random.default_rng(3)
    sizes = np.array(sizes, np.int64)
    x = rng.standard_normal((sizes.sum(), features))
    y = rng.integers(0, classes, sizes.sum())
    starts = np.r_[0, sizes.cumsum()[:-1]]
    ids = keys.numbers(range(len(sizes)))
    counts = step_counts(sizes, epochs, None, batch)
    if only is not None:
        pick = slice(only, only + 1)
        rows = slice(starts[only], starts[only] + sizes[only])
        x, y, ids, counts, sizes = x[rows], y[rows], ids[pick], counts[pick], sizes[pick]
        starts = np.zeros(1, np.int64)
    key = keys.key(0).at("train", round)
    return cut(x, y, starts, sizes, ids, counts, batch, key, "float64", alone)


def start(task, k, algorithm, optimizer, seed=5):
    """A carry of k clients that all differ, and what was sent to them."""
    rng = np.random.default_rng(seed)
    d = task.layout.size
    w = rng.standard_normal((k, d)) * 0.3
    shared = tree_map(lambda a: a + 0.1, algorithm.init(w.mean(0)).shared)
    memory = None if algorithm.memory(w) is None else rng.standard_normal((k, d)) * 0.05
    return Carry(w, np.zeros((k, 0)), optimizer.init(w), memory, zeros(w[:, 0])), shared


def descent(task, algorithm=AVERAGE, optimizer=PLAIN, share="*"):
    return Descent(task, algorithm, optimizer, task.layout.sharing(share))


def row(carry, i):
    return tree_map(lambda a: a[i], carry)


def by_hand(task, given, carry, batches, algorithm, optimizer):
    """One client in NumPy, step by step, with softmax regression's gradient in closed form."""
    w, _, s, memory, loss = carry
    for _, batch in batches:
        g, now = closed_form(w, batch.x, batch.y, 4)
        if algorithm.modifies_gradient:
            g = algorithm.correct(g, w, given.shared, memory)
        w, s = optimizer.step(w, -g, s, given.rate)
        loss = loss + now
    return w, loss


def closed_form(w, x, y, classes):
    features = x.shape[1]
    weight, bias = w[: classes * features].reshape(classes, features), w[classes * features :]
    z = x @ weight.T + bias
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    loss = -np.log(p[np.arange(len(y)), y]).mean()
    p[np.arange(len(y)), y] -= 1
    return np.r_[(p.T @ x).ravel() / len(y), p.sum(0) / len(y)], loss


SOFTMAX = tasks.SoftmaxRegression(5, 4, dtype="float64")
NETWORK = tasks.MLP((5, 6, 4), dtype="float64")


def test_gradient_of_a_matrix_is_row_by_row_and_scales_rows():
    rng = np.random.default_rng(2)
    w, x = rng.standard_normal((3, 24)), rng.standard_normal((3, 5, 5))
    y, scale = rng.integers(0, 4, (3, 5)), np.zeros((3, 5))
    scale[:, :2] = 0.5
    g, loss, _ = SOFTMAX.gradient(w, None, Batch(x, y, scale))
    for i in range(3):
        alone, value, _ = SOFTMAX.gradient(w[i], None, Batch(x[i, :2], y[i, :2]))
        np.testing.assert_allclose(g[i], alone, **CLOSE)
        assert loss[i] == pytest.approx(value)


def test_gradient_takes_jax_arrays_and_gives_them_back():
    task = SOFTMAX.astype("float32")
    g, loss, _ = task.gradient(jnp.zeros(24), None, Batch(np.ones((2, 5)), np.array([0, 1])))
    assert isinstance(g, jax.Array) and vectors.of(g) is jnp and loss.dtype == np.float32


@pytest.mark.parametrize("lockstep", [0, 1 << 30])
@pytest.mark.parametrize("sizes", [(12, 12, 12), (13, 9, 3)], ids=["equal", "ragged"])
@pytest.mark.parametrize("task", [SOFTMAX, NETWORK], ids=["softmax", "mlp"])
def test_a_cohort_is_each_client_alone(task, sizes, lockstep, monkeypatch):
    monkeypatch.setattr(jax_steps, "LOCKSTEP", lockstep)
    way = descent(task)
    carry, shared = start(task, len(sizes), way.algorithm, way.optimizer)
    given = Given(shared, 0.1, 1)
    done = task.run(way, given, carry, cohort(sizes))
    for i in range(len(sizes)):
        alone = task.run(way, given, row(carry, i), cohort(sizes, only=i, alone=True))
        np.testing.assert_allclose(done.w[i], alone.w, **CLOSE)
        assert done.loss[i] == pytest.approx(float(alone.loss), abs=1e-10)


@pytest.mark.parametrize(
    ("algorithm", "optimizer"),
    [
        (FedProx(0.3), SGD(0.1)),
        (Scaffold(), SGD(0.1)),
        (FedDyn(0.2), SGD(0.1)),
        (FedAvg(), Momentum(0.1, 0.8)),
        (FedProx(0.3), Adam(0.05)),
        (FedDyn(0.2), Yogi(0.05)),
        (FedAvg(), Adagrad(0.05)),
    ],
    ids=str,
)
@pytest.mark.parametrize("sizes", [(12, 12), (11, 7, 2)], ids=["equal", "ragged"])
def test_algorithms_traced_are_the_numpy_steps(algorithm, optimizer, sizes):
    way = descent(SOFTMAX, algorithm, optimizer, "*" if algorithm.modifies_gradient else "!bias")
    carry, shared = start(SOFTMAX, len(sizes), algorithm, optimizer)
    given = Given(shared, 0.07, 3)
    done = SOFTMAX.run(way, given, carry, cohort(sizes))
    for i in range(len(sizes)):
        batches = cohort(sizes, only=i, alone=True)
        w, loss = by_hand(SOFTMAX, given, row(carry, i), batches, algorithm, optimizer)
        np.testing.assert_allclose(done.w[i], w, **CLOSE)
        assert done.loss[i] == pytest.approx(loss, abs=1e-10)


def test_an_algorithm_bends_the_shared_part_alone():
    way = descent(SOFTMAX, FedProx(0.5), SGD(0.1), "weight")
    carry, _ = start(SOFTMAX, 2, way.algorithm, way.optimizer)
    shared = way.algorithm.init(carry.w.mean(0)[:20]).shared
    done = SOFTMAX.run(way, Given(shared, 0.1, 1), carry, cohort((4, 4), epochs=1))
    for i in range(2):
        (_, batch), *_ = cohort((4, 4), epochs=1, only=i, alone=True)
        g, _ = closed_form(carry.w[i], batch.x, batch.y, 4)
        g[:20] += 0.5 * (carry.w[i, :20] - shared.x)
        np.testing.assert_allclose(done.w[i], carry.w[i] - 0.1 * g, **CLOSE)


def test_a_pass_over_a_mask_moves_only_its_coordinates():
    whole = SOFTMAX.layout.sharing("*")
    way = Descent(SOFTMAX, FedAvg(), SGD(0.1), whole, trained=SOFTMAX.layout.sharing("weight"))
    carry, shared = start(SOFTMAX, 2, FedAvg(), SGD(0.1))
    done = SOFTMAX.run(way, Given(shared, 0.1, 1), carry, cohort((6, 5)))
    np.testing.assert_array_equal(done.w[:, 20:], carry.w[:, 20:])
    assert (done.w[:, :20] != carry.w[:, :20]).all()


def test_walking_uncompiled_is_the_compiled_program():
    way = descent(SOFTMAX)
    carry, shared = start(SOFTMAX, 3, way.algorithm, way.optimizer)
    given = Given(shared, 0.1, 1)
    with jax.enable_x64(True):
        eager = way.walk(given, tree_map(jnp.asarray, carry), cohort((8, 8, 8)))
    done = SOFTMAX.run(way, given, carry, cohort((8, 8, 8)))
    np.testing.assert_allclose(np.asarray(eager.w), done.w, **CLOSE)


def test_rates_rounds_and_sizes_nearby_compile_nothing(monkeypatch):
    monkeypatch.setattr(jax_steps, "LOCKSTEP", 0)
    task = tasks.MLP((5, 7, 4), dtype="float64")
    way = descent(task, FedProx(0.1))
    carry, shared = start(task, 11, way.algorithm, way.optimizer)
    task.run(way, Given(shared, 0.1, 1), carry, cohort([27] * 10 + [26]))
    before = jax_traced._program._cache_size()
    for round, rate in enumerate((0.05, 0.025), 2):
        task.run(way, Given(shared, rate, round), carry, cohort([27] * 10 + [25], round=round))
    few, _ = start(task, 12, way.algorithm, way.optimizer)
    task.run(way, Given(shared, 0.1, 4), few, cohort([26] * 10 + [20, 19]))
    assert jax_traced._program._cache_size() == before
    task.run(descent(task, FedProx(0.2)), Given(shared, 0.1, 5), few, cohort([26] * 12))
    assert jax_traced._program._cache_size() == before + 1


def test_a_full_batch_is_filled_up_with_rows_that_weigh_nothing():
    way = descent(SOFTMAX)
    carry, shared = start(SOFTMAX, 2, way.algorithm, way.optimizer)
    done = SOFTMAX.run(way, Given(shared, 0.1, 1), carry, cohort((13, 11), batch=None, epochs=3))
    for i in range(2):
        batches = cohort((13, 11), batch=None, epochs=3, only=i, alone=True)
        w, _ = by_hand(SOFTMAX, Given(shared, 0.1, 1), row(carry, i), batches, FedAvg(), SGD(0.1))
        np.testing.assert_allclose(done.w[i], w, **CLOSE)


def test_layers_that_draw_draw_by_client_and_step_and_not_in_evaluation():
    task = tasks.Classifier(bias_first, noisy, dtype="float64", draws=True)
    way = descent(task)
    sizes = (9, 9, 5)
    carry, shared = start(task, 3, way.algorithm, way.optimizer)
    given = Given(shared, 0.1, 1)
    done = task.run(way, given, carry, cohort(sizes, features=4, classes=3))
    for i in range(3):
        batches = cohort(sizes, features=4, classes=3, only=i, alone=True)
        alone = task.run(way, given, row(carry, i), batches)
        np.testing.assert_allclose(done.w[i], alone.w, **CLOSE)
        w = carry.w[i]
        for _, batch in batches:
            w = w - 0.1 * task.gradient(w, None, batch)[0]
        np.testing.assert_allclose(done.w[i], w, **CLOSE)
    x, y = np.ones((2, 4)), np.array([0, 1])
    first, second = (
        task.gradient(carry.w[0], None, Batch(x, y, None, np.uint32(s)))[1] for s in (1, 4)
    )
    assert first != second
    assert task.evaluate(carry.w[0], None, x, y) == task.evaluate(carry.w[0], None, x, y)
