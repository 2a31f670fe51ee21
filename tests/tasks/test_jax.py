# SPDX-License-Identifier: Apache-2.0
"""The JAX tasks: gradients, cohorts against clients alone, algorithms traced unchanged."""

import pickle

import numpy as np
import pytest

pytest.importorskip("jax")

from muster import keys, vectors
from muster.algorithms import FedAvg, FedDyn, FedProx, Scaffold
from muster.batches import cut, step_counts
from muster.errors import DataError, PlanError
from muster.local import Carry, Descent, Given
from muster.optimizers import SGD, Adagrad, Adam, Momentum, Yogi
from muster.tasks import jax as tasks
from muster.types import Batch
from muster.vectors import tree_map, zeros

jax, jnp = tasks.jax, tasks.jnp
AVERAGE, PLAIN = FedAvg(), SGD(0.1)
CLOSE = {"rtol": 0, "atol": 1e-10}


def bias_first(key):
    one, two = jax.random.split(key)
    return {"b": {"w": jax.random.normal(one, (4, 3))}, "a": jax.random.normal(two, (3,))}


def forward(params, x):
    return jnp.tanh(x @ params["b"]["w"]) * params["a"]


def noisy(params, x, rng):
    mask = 1.0 if rng is None else jax.random.bernoulli(rng, 0.5, (x.shape[-1],))
    return (x * mask) @ params["b"]["w"] + params["a"]


def mean_loss(out, y):
    return ((out - y[:, None]) ** 2).mean()


def row_loss(out, y):
    return ((out - y[:, None]) ** 2).mean(-1)


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
        if algorithm.bends:
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


def test_softmax_gradient_is_the_closed_form():
    rng = np.random.default_rng(0)
    w, x, y = rng.standard_normal(24), rng.standard_normal((7, 5)), rng.integers(0, 4, 7)
    g, loss, buffers = SOFTMAX.gradient(w, np.zeros(0), Batch(x, y))
    expected, value = closed_form(w, x, y, 4)
    np.testing.assert_allclose(g, expected, **CLOSE)
    assert loss == pytest.approx(value, abs=1e-12)
    assert type(g) is np.ndarray and g.dtype == np.float64 and g.flags.writeable
    assert buffers.shape == (0,)


@pytest.mark.parametrize(
    "task",
    [
        NETWORK,
        tasks.Classifier(bias_first, forward, dtype="float64"),
        tasks.Regressor(bias_first, forward, dtype="float64"),
        tasks.Model(bias_first, forward, row_loss, dtype="float64"),
    ],
)
def test_gradient_is_the_finite_difference(task):
    rng = np.random.default_rng(1)
    features = 5 if task is NETWORK else 4
    x, w = rng.standard_normal((6, features)), rng.standard_normal(task.layout.size)
    y = rng.integers(0, 3, 6)
    if isinstance(task, tasks.Regressor):
        y = rng.standard_normal((6, 3))
    g, _, _ = task.gradient(w, None, Batch(x, y))
    for i in range(len(w)):
        step = np.eye(len(w))[i] * 1e-6
        up, down = (task.gradient(w + s, None, Batch(x, y))[1] for s in (step, -step))
        assert g[i] == pytest.approx((up - down) / 2e-6, abs=1e-7)


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


def test_traced_values_belong_to_jax_numpy():
    seen = []
    jax.vmap(jax.jit(lambda a: seen.append(vectors.of(a)) or a))(jnp.zeros((2, 2)))
    jax.grad(lambda a: seen.append(vectors.of(a)) or a)(1.0)
    assert seen == [jnp, jnp]


@pytest.mark.parametrize("lockstep", [0, 1 << 30])
@pytest.mark.parametrize("sizes", [(12, 12, 12), (13, 9, 3)], ids=["equal", "ragged"])
@pytest.mark.parametrize("task", [SOFTMAX, NETWORK], ids=["softmax", "mlp"])
def test_a_cohort_is_each_client_alone(task, sizes, lockstep, monkeypatch):
    monkeypatch.setattr(tasks, "LOCKSTEP", lockstep)
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
    way = descent(SOFTMAX, algorithm, optimizer, "*" if algorithm.bends else "!bias")
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
    monkeypatch.setattr(tasks, "LOCKSTEP", 0)
    task = tasks.MLP((5, 7, 4), dtype="float64")
    way = descent(task, FedProx(0.1))
    carry, shared = start(task, 11, way.algorithm, way.optimizer)
    task.run(way, Given(shared, 0.1, 1), carry, cohort([27] * 10 + [26]))
    before = tasks._program._cache_size()
    for round, rate in enumerate((0.05, 0.025), 2):
        task.run(way, Given(shared, rate, round), carry, cohort([27] * 10 + [25], round=round))
    few, _ = start(task, 12, way.algorithm, way.optimizer)
    task.run(way, Given(shared, 0.1, 4), few, cohort([26] * 10 + [20, 19]))
    assert tasks._program._cache_size() == before
    task.run(descent(task, FedProx(0.2)), Given(shared, 0.1, 5), few, cohort([26] * 12))
    assert tasks._program._cache_size() == before + 1


def test_a_full_batch_is_filled_up_with_rows_that_weigh_nothing():
    way = descent(SOFTMAX)
    carry, shared = start(SOFTMAX, 2, way.algorithm, way.optimizer)
    done = SOFTMAX.run(way, Given(shared, 0.1, 1), carry, cohort((13, 11), batch=None, epochs=3))
    for i in range(2):
        batches = cohort((13, 11), batch=None, epochs=3, only=i, alone=True)
        w, _ = by_hand(SOFTMAX, Given(shared, 0.1, 1), row(carry, i), batches, FedAvg(), SGD(0.1))
        np.testing.assert_allclose(done.w[i], w, **CLOSE)


def test_both_precisions_live_in_one_process():
    x, y = np.ones((3, 5)), np.array([0, 1, 2])
    small = SOFTMAX.astype("float32")
    before = tasks.Classifier(bias_first, forward).init(keys.key(1))[0]
    for task, dtype in ((SOFTMAX, np.float64), (small, np.float32)):
        w, _ = task.init(keys.key(0))
        assert w.dtype == task.gradient(w, None, Batch(x, y))[0].dtype == dtype
    after = tasks.Classifier(bias_first, forward).init(keys.key(1))[0]
    np.testing.assert_array_equal(before, after)
    assert jnp.zeros(1).dtype == np.float32
    assert tasks.Classifier(bias_first, forward, dtype="float64").init(keys.key(1))[0].dtype == "f8"


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
    x, y = np.ones((2, 4)), np.array([0, 1])
    first, second = (
        task.gradient(carry.w[0], None, Batch(x, y, None, np.uint32(s)))[1] for s in (1, 4)
    )
    assert first != second
    assert task.evaluate(carry.w[0], None, x, y) == task.evaluate(carry.w[0], None, x, y)


def test_layout_keeps_the_order_of_the_dict():
    task = tasks.Classifier(bias_first, forward)
    assert [(e.name, e.shape) for e in task.layout.entries] == [("b.w", (4, 3)), ("a", (3,))]
    w, _ = task.init(keys.key(0))
    model = task.model(w)
    assert list(model) == ["b", "a"]
    np.testing.assert_array_equal(np.ravel(model["b"]["w"]), w[:12])
    x = np.ones((2, 4), np.float32)
    assert task.apply(model, x).shape == (2, 3)


def test_ready_made_models_lie_as_numpy_tasks():
    numpy = pytest.importorskip("muster.tasks.numpy")
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 5)), rng.integers(0, 4, 30)
    pairs = [(NETWORK, numpy.MLP((5, 6, 4))), (SOFTMAX, numpy.SoftmaxRegression(5, 4))]
    for mine, theirs in pairs:
        theirs = theirs.astype("float64")
        assert mine.layout == theirs.layout
        w, buffers = mine.init(keys.key(4))
        np.testing.assert_array_equal(w, theirs.init(keys.key(4))[0])
        ours, other = (t.gradient(w, buffers, Batch(x, y)) for t in (mine, theirs))
        np.testing.assert_allclose(ours[0], other[0], **CLOSE)
        sums, others = (t.evaluate(w, buffers, x, y) for t in (mine, theirs))
        assert sums == pytest.approx(others)


def test_evaluation_sums_over_blocks(monkeypatch):
    monkeypatch.setattr(tasks, "CHUNK", 8)
    rng = np.random.default_rng(0)
    w, x, y = rng.standard_normal(24), rng.standard_normal((21, 5)), rng.integers(0, 4, 21)
    sums = SOFTMAX.evaluate(w, None, x, y)
    z = x @ w[:20].reshape(4, 5).T + w[20:]
    assert sums["rows"] == 21 and sums["accuracy"] == (z.argmax(1) == y).sum()
    assert sums["loss"] == pytest.approx(21 * closed_form(w, x, y, 4)[1])
    real = tasks.Regressor(bias_first, forward, dtype="float64")
    w, x, y = rng.standard_normal(15), rng.standard_normal((9, 4)), rng.standard_normal((9, 3))
    out = np.tanh(x @ w[:12].reshape(4, 3)) * w[12:]
    expected = {"rows": 9, "loss": ((out - y) ** 2).sum() / 3, "error": abs(out - y).sum() / 3}
    assert real.evaluate(w, None, x, y) == pytest.approx(expected)


def test_what_a_task_refuses():
    x, y = np.ones((4, 5)), np.array([0, 1, 2, 3])
    SOFTMAX.check(x, y)
    with pytest.raises(DataError, match="hold 4"):
        SOFTMAX.check(x, y + 1)
    with pytest.raises(DataError, match="NaN or Inf"):
        SOFTMAX.check(x * np.nan, y)
    with pytest.raises(DataError, match="do not go through SoftmaxRegression"):
        SOFTMAX.check(np.ones((4, 6)), y)
    with pytest.raises(DataError, match="number the classes first"):
        SOFTMAX.check(x, np.array(["a", "b", "c", "d"]))
    with pytest.raises(DataError, match="do not go through Regressor"):
        tasks.Regressor(bias_first, forward).check(np.ones((4, 4)), np.ones(4))
    with pytest.raises(PlanError, match="one loss for each row"):
        tasks.Model(bias_first, forward, mean_loss).check(np.ones((4, 4)), y)
    with pytest.raises(PlanError, match="arrays in a dict"):
        _ = tasks.Classifier(listed, forward).layout
    with pytest.raises(PlanError, match="width of the input"):
        tasks.MLP((5,))
    with pytest.raises(PlanError, match="float16"):
        tasks.SoftmaxRegression(5, 4, dtype="float16")


def listed(key):
    return {"layers": [jnp.zeros(2)]}


def test_a_task_is_a_value():
    task = tasks.MLP([5, 6, 4])
    assert task == pickle.loads(pickle.dumps(task)) == tasks.MLP((5, 6, 4))
    assert hash(task) == hash(tasks.MLP((5, 6, 4))) and repr(task).startswith("MLP(sizes=(5, 6, 4)")
    assert task.flops(10) == 6 * 10 * task.layout.size
    fixed = task.numpy({"w": np.asarray(jnp.ones(3))})["w"]
    fixed[0] = 2
    assert task.arrays(fixed) is fixed


@pytest.mark.parametrize("operation", ["sqrt", "sign", "absolute", "zeros", "norm"])
def test_vectors_work_on_parts(operation):
    flat = np.array([4.0, 9.0, 16.0, 25.0], np.float32)
    parts = tasks.Parts((jnp.array([[4.0, 9.0]]), jnp.array([16.0, 25.0])))
    function = getattr(vectors, operation)
    found = function(parts)
    found = found.flat if isinstance(found, tasks.Parts) else found
    np.testing.assert_allclose(found, function(flat), rtol=1e-6)


def test_parts_mix_with_vectors_numbers_and_slices():
    flat = np.array([1.0, -2.0, 3.0, 4.0], np.float32)
    parts = tasks.Parts((jnp.array([[1.0, -2.0]]), jnp.array([3.0, 4.0])))
    rate = jnp.float32(0.5)
    for found in (rate * parts, parts * rate, parts * jnp.ones(1) / 2):
        np.testing.assert_allclose(found.flat, flat / 2)
    np.testing.assert_allclose((jnp.asarray(flat) - parts).flat, 0)
    np.testing.assert_allclose((-(parts**2) + flat).flat, flat - flat**2)
    np.testing.assert_allclose(parts[..., 1:3], flat[1:3])
    chosen = vectors.where(parts > 0, parts, parts * 0)
    np.testing.assert_allclose(tasks._join(chosen), flat.clip(0))
    assert parts.shape == (4,) and parts.sum(-1) == 6
    with pytest.raises(TypeError):
        np.add.reduce(parts)


def test_dense_parameters_fill_a_dense_layer():
    layer = tasks.dense_params(jax.random.key(0), 16, 2)
    assert tasks.dense(layer, jnp.ones((3, 16))).shape == (3, 2)
    assert abs(layer["weight"]).max() <= 0.25
