# SPDX-License-Identifier: Apache-2.0
"""The models: gradients, layouts, metrics, and what is refused."""

import pickle

import numpy as np
import pytest

pytest.importorskip("jax")

from muster import keys
from muster.errors import DataError, PlanError
from muster.metrics import MAE, Accuracy, Brier
from muster.tasks import jax as tasks
from muster.tasks import jax_traced
from muster.tasks.jax_steps import jax, jnp
from muster.types import Batch

CLOSE = {"rtol": 0, "atol": 1e-10}


def bias_first(key):
    one, two = jax.random.split(key)
    return {"b": {"w": jax.random.normal(one, (4, 3))}, "a": jax.random.normal(two, (3,))}


def forward(params, x):
    return jnp.tanh(x @ params["b"]["w"]) * params["a"]


def mean_loss(out, y):
    return ((out - y[:, None]) ** 2).mean()


def row_loss(out, y):
    return ((out - y[:, None]) ** 2).mean(-1)


def listed(key):
    return {"layers": [jnp.zeros(2)]}


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
        sums, others = (t.evaluate(w, buffers, x, y, (Accuracy(), Brier())) for t in (mine, theirs))
        assert sums == pytest.approx(others)


def test_evaluation_sums_over_blocks(monkeypatch):
    monkeypatch.setattr(jax_traced, "CHUNK", 8)
    rng = np.random.default_rng(0)
    w, x, y = rng.standard_normal(24), rng.standard_normal((21, 5)), rng.integers(0, 4, 21)
    sums = SOFTMAX.evaluate(w, None, x, y, (Accuracy(),))
    z = x @ w[:20].reshape(4, 5).T + w[20:]
    assert sums["rows"] == sums["accuracy/rows"] == 21
    assert sums["accuracy/hits"] == (z.argmax(1) == y).sum()
    assert sums["loss"] == pytest.approx(21 * closed_form(w, x, y, 4)[1])
    real = tasks.Regressor(bias_first, forward, dtype="float64")
    w, x, y = rng.standard_normal(15), rng.standard_normal((9, 4)), rng.standard_normal((9, 3))
    out = np.tanh(x @ w[:12].reshape(4, 3)) * w[12:]
    expected = {"rows": 9, "loss": ((out - y) ** 2).sum() / 3}
    expected |= {"mae/sizes": abs(out - y).sum(), "mae/numbers": 27}
    assert real.evaluate(w, None, x, y, (MAE(),)) == pytest.approx(expected)


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


def test_a_task_is_a_value():
    task = tasks.MLP([5, 6, 4])
    assert task == pickle.loads(pickle.dumps(task)) == tasks.MLP((5, 6, 4))
    assert hash(task) == hash(tasks.MLP((5, 6, 4))) and repr(task).startswith("MLP(sizes=(5, 6, 4)")
    assert task.flops(10) == 6 * 10 * task.layout.size
    fixed = task.numpy({"w": np.asarray(jnp.ones(3))})["w"]
    fixed[0] = 2
    assert task.arrays(fixed) is fixed


def test_dense_parameters_fill_a_dense_layer():
    layer = tasks.dense_params(jax.random.key(0), 16, 2)
    assert tasks.dense(layer, jnp.ones((3, 16))).shape == (3, 2)
    assert abs(layer["weight"]).max() <= 0.25


def test_both_precisions_live_in_one_process():
    x, y = np.ones((3, 5)), np.array([0, 1, 2])
    small = SOFTMAX.astype("float32")
    seed = np.uint32(keys.key(1).integer() % 2**32)
    before = np.asarray(bias_first(jax.random.key(seed))["a"])
    for task, dtype in ((SOFTMAX, np.float64), (small, np.float32)):
        w, _ = task.init(keys.key(0))
        assert w.dtype == task.gradient(w, None, Batch(x, y))[0].dtype == dtype
    after = tasks.Classifier(bias_first, forward).init(keys.key(1))[0]
    np.testing.assert_array_equal(before, after[12:])
    assert jnp.zeros(1).dtype == np.float32
    assert tasks.Classifier(bias_first, forward, dtype="float64").init(keys.key(1))[0].dtype == "f8"


TIMES = 1.0


def timed(params, x):
    return x @ params["w"] * TIMES


def timed_params(key):
    return {"w": jnp.ones(int(2 + TIMES))}


def test_a_changed_global_is_another_program(monkeypatch):
    x, y = np.ones((2, 3), np.float32), np.zeros(2, np.float32)
    first = tasks.Regressor(timed_params, timed)
    w, buffers = first.init(keys.key(0))
    assert first.evaluate(w, buffers, x, y)["loss"] == 18
    assert first.gradient(w, buffers, Batch(x, y))[0].tolist() == [6.0] * 3
    monkeypatch.setitem(globals(), "TIMES", 2.0)
    later = tasks.Regressor(timed_params, timed)
    assert later.layout.size == 4
    w, buffers = later.init(keys.key(0))
    assert later.evaluate(w, buffers, np.ones((2, 4), np.float32), y)["loss"] == 128
    monkeypatch.setitem(globals(), "TIMES", 2.5)  # of the same size
    assert (
        tasks.Regressor(timed_params, timed).evaluate(w, buffers, np.ones((2, 4), np.float32), y)[
            "loss"
        ]
        == 200
    )
