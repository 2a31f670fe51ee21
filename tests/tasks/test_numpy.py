# SPDX-License-Identifier: Apache-2.0
"""The hand-written gradients are the gradients, for one client and for many, in every engine."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster import batches, keys
from muster.algorithms.fedavg import FedAvg
from muster.errors import DataError, PlanError
from muster.local import Carry, Descent, Given
from muster.metrics import MAE, Accuracy
from muster.metrics.choice import usual
from muster.optimizers import SGD, Momentum
from muster.tasks.numpy import MLP, LinearRegression, LogisticRegression, SoftmaxRegression
from muster.types import Batch

TASKS = [
    LinearRegression(4),
    LinearRegression(3, outputs=2),
    LinearRegression(2, outputs=3, l2=0.3),
    LogisticRegression(4),
    LogisticRegression(3, l2=0.2),
    SoftmaxRegression(5, 3),
    SoftmaxRegression(2, 4, l2=0.5),
    MLP([4, 6, 5, 3], activation="tanh"),
    MLP([3, 5, 4], activation="tanh", l2=0.1),
    MLP([4, 6, 5, 3]),
]
DOUBLE = [task.astype("float64") for task in TASKS]


def ident(task):
    return repr(task)


def rows_of(task, shape, draw):
    """Features and targets of a task, with these leading axes."""
    x = draw.standard_normal((*shape, task.widths[0]))
    if isinstance(task, LinearRegression):
        many = () if task.outputs == 1 else (task.outputs,)
        return x, draw.standard_normal((*shape, *many))
    return x, draw.integers(0, max(2, task.widths[-1]), shape)


def start(task, clients, draw):
    return draw.standard_normal((clients, task.layout.size)) * 0.5


@pytest.mark.parametrize("task", DOUBLE, ids=ident)
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 7), st.booleans())
def test_the_gradient_is_the_slope_of_the_loss(task, seed, rows, scaled):
    draw = np.random.default_rng(seed)
    w, (x, y) = start(task, 1, draw)[0], rows_of(task, (rows,), draw)
    scale = draw.random(rows) if scaled else None
    g, loss, _ = task.gradient(w, None, Batch(x, y, scale))
    assert g.shape == w.shape
    assert np.shape(loss) == ()
    along, h = draw.standard_normal(w.shape), 1e-6
    ends = [task.gradient(w + s * h * along, None, Batch(x, y, scale))[1] for s in (1, -1)]
    slope = (ends[0] - ends[1]) / (2 * h)
    # A relu has no slope where a hidden unit stands within h of its kink.
    near = 1e-2 if getattr(task, "activation", "") == "relu" and len(task.widths) > 2 else 1e-6
    assert g @ along == pytest.approx(slope, rel=near, abs=near)


@pytest.mark.parametrize("task", DOUBLE, ids=ident)
@pytest.mark.parametrize("scaled", [False, True])
def test_a_matrix_of_clients_is_each_client_alone(task, scaled):
    draw = np.random.default_rng(1)
    w, (x, y) = start(task, 5, draw), rows_of(task, (5, 6), draw)
    scale = draw.random((5, 6)) if scaled else None
    g, losses, _ = task.gradient(w, None, Batch(x, y, scale))
    for i in range(5):
        mine = Batch(x[i], y[i], None if scale is None else scale[i])
        alone, loss, _ = task.gradient(w[i], None, mine)
        np.testing.assert_allclose(g[i], alone, rtol=1e-12, atol=1e-12)
        assert losses[i] == pytest.approx(loss, rel=1e-12)


@pytest.mark.parametrize("task", [*DOUBLE, MLP([700, 200, 3], l2=0.1, dtype="float64")], ids=ident)
@pytest.mark.parametrize("clients", [None, 1, 3])
def test_descend_is_a_step_along_the_gradient(task, clients):
    draw = np.random.default_rng(2)
    w, (x, y) = start(task, clients or 1, draw), rows_of(task, (clients or 1, 6), draw)
    batch = Batch(x, y, draw.random((len(w), 6)))
    if clients is None:
        w, batch = w[0], Batch(x[0], y[0], None)
    g, losses, _ = task.gradient(w, None, batch)
    after = w - 0.3 * g
    moved = w.copy()
    fused = task.descend(moved, None, batch, 0.3)
    np.testing.assert_allclose(moved, after, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(fused, losses, rtol=1e-12)
    assert np.shape(fused) == np.shape(losses)


@pytest.mark.parametrize("task", DOUBLE, ids=ident)
def test_padded_rows_count_for_nothing(task):
    draw = np.random.default_rng(3)
    w, (x, y) = start(task, 1, draw)[0], rows_of(task, (6,), draw)
    scale = np.array([0.25] * 4 + [0.0] * 2)
    padded = task.gradient(w, None, Batch(x, y, scale))
    short = task.gradient(w, None, Batch(x[:4], y[:4]))
    np.testing.assert_allclose(padded[0], short[0], rtol=1e-12, atol=1e-13)
    assert padded[1] == pytest.approx(short[1], rel=1e-12)


def test_linear_regression_has_its_closed_form():
    draw = np.random.default_rng(4)
    task = LinearRegression(3, dtype="float64")
    x, y, w = draw.standard_normal((9, 3)), draw.standard_normal(9), draw.standard_normal(4)
    ones = np.column_stack([x, np.ones(9)])
    error = ones @ w - y
    g, loss, _ = task.gradient(w, None, Batch(x, y))
    assert loss == pytest.approx((error**2).mean())
    np.testing.assert_allclose(g, 2 / 9 * ones.T @ error, rtol=1e-12)
    best = np.linalg.lstsq(ones, y, rcond=None)[0]
    assert np.abs(task.gradient(best, None, Batch(x, y))[0]).max() < 1e-12


def test_softmax_regression_has_its_textbook_formula():
    draw = np.random.default_rng(5)
    task = SoftmaxRegression(4, 3, dtype="float64")
    x, y, w = draw.standard_normal((8, 4)), draw.integers(0, 3, 8), draw.standard_normal(15)
    weight, bias = w[:12].reshape(3, 4), w[12:]
    p = np.exp(x @ weight.T + bias)
    p /= p.sum(1, keepdims=True)
    g, loss, _ = task.gradient(w, None, Batch(x, y))
    assert loss == pytest.approx(-np.log(p[np.arange(8), y]).mean(), rel=1e-12)
    slope = (p - np.eye(3)[y]) / 8
    np.testing.assert_allclose(g[:12].reshape(3, 4), slope.T @ x, rtol=1e-11)
    np.testing.assert_allclose(g[12:], slope.sum(0), rtol=1e-11)


def test_two_classes_of_a_softmax_are_a_logistic_regression():
    draw = np.random.default_rng(6)
    x, y = draw.standard_normal((7, 3)), draw.integers(0, 2, 7)
    w = draw.standard_normal(4)
    both = np.concatenate([0 * w[:3], w[:3], [0.0], w[3:]])
    one = LogisticRegression(3, dtype="float64").gradient(w, None, Batch(x, y))
    two = SoftmaxRegression(3, 2, dtype="float64").gradient(both, None, Batch(x, y))
    assert one[1] == pytest.approx(two[1], rel=1e-12)
    np.testing.assert_allclose(one[0], np.append(two[0][3:6], two[0][7]), rtol=1e-11)


@pytest.mark.parametrize("engine", ["fused", "matrix"])
@pytest.mark.parametrize("task", [*DOUBLE, MLP([256, 300, 4], dtype="float64")], ids=ident)
def test_a_ragged_cohort_is_each_client_alone(task, engine):
    draw = np.random.default_rng(7)
    sizes = np.array([23, 17, 10, 9, 1])
    starts = np.cumsum(sizes) - sizes
    x, y = rows_of(task, (int(sizes.sum()),), draw)
    numbers, key = keys.numbers(range(5)), keys.key(3)
    counts = batches.step_counts(sizes, 2, None, 5)
    together = batches.cut(x, y, starts, sizes, numbers, counts, 5, key, "float64")
    w, losses = train(task, start(task, 5, np.random.default_rng(8)), together, engine)
    for i in range(5):
        rows, one = slice(starts[i], starts[i] + sizes[i]), slice(i, i + 1)
        mine = batches.cut(
            x[rows],
            y[rows],
            np.zeros(1, int),
            sizes[one],
            numbers[one],
            counts[one],
            5,
            key,
            "float64",
            alone=True,
        )
        first = start(task, 5, np.random.default_rng(8))[i]
        alone, loss = train(task, first, mine, "matrix")
        np.testing.assert_allclose(w[i], alone, rtol=1e-12, atol=1e-12)
        assert losses[i] == pytest.approx(float(loss), rel=1e-12)


def train(task, w, cut, engine):
    optimizer = SGD(0.05) if engine == "fused" else Momentum(0.05, beta=0.0)
    descent = Descent(task, FedAvg(), optimizer, task.layout.sharing("*"), engine == "fused")
    carry = Carry(w, w[..., :0], optimizer.init(w), None, np.zeros(w.shape[:-1]))
    out = task.run(descent, Given(None, 0.05, 1), carry, cut)
    return out.w, out.loss


@pytest.mark.parametrize("task", TASKS, ids=ident)
def test_metric_sums_add_over_rows(task, monkeypatch):
    draw = np.random.default_rng(9)
    w, (x, y) = start(task, 1, draw)[0].astype("float32"), rows_of(task, (50,), draw)
    measured = usual(task.head)
    whole = task.evaluate(w, None, x, y, measured)
    cuts = ((0, 13), (13, 13), (13, 50))
    parts = [task.evaluate(w, None, x[a:b], y[a:b], measured) for a, b in cuts if b > a]
    assert whole["rows"] == 50
    assert task.evaluate(w, None, x[:0], y[:0]) == {"rows": 0, "loss": 0}
    for name in whole:
        assert sum(part[name] for part in parts) == pytest.approx(whole[name], rel=1e-5)
    monkeypatch.setattr("muster.tasks.numpy.BLOCK", 7 * max(task.widths))
    assert task.evaluate(w, None, x, y, measured) == pytest.approx(whole, rel=1e-5)
    if task.l2 == 0:
        loss = task.gradient(w, None, Batch(x, y))[1]
        assert whole["loss"] / 50 == pytest.approx(float(loss), rel=1e-4)


@pytest.mark.parametrize("task", TASKS, ids=ident)
def test_predictions_are_what_the_metrics_count(task):
    draw = np.random.default_rng(10)
    w, (x, y) = start(task, 1, draw)[0].astype("float32"), rows_of(task, (40,), draw)
    metric = MAE() if task.head.rows_of == "numbers" else Accuracy()
    predicted, sums = task.predict(w, x), task.evaluate(w, None, x, y, (metric,))
    assert predicted.shape == y.shape
    if metric == Accuracy():
        assert sums["accuracy/hits"] == (predicted == y).sum()
    else:
        assert sums["mae/sizes"] == pytest.approx(np.abs(predicted - y).sum(), rel=1e-5)


@pytest.mark.parametrize("task", TASKS, ids=ident)
def test_layers_stand_as_in_torch(task):
    x, buffers = task.init(keys.key(1))
    assert x.shape == (task.layout.size,)
    assert x.dtype == task.dtype == buffers.dtype
    assert buffers.shape == (0,)
    model = task.model(x)
    assert list(model) == [entry.name for entry in task.layout.entries]
    if isinstance(task, MLP):
        assert list(model)[:2] == ["layers.0.weight", "layers.0.bias"]
        for i, fan in enumerate(task.sizes[:-1]):
            assert model[f"layers.{i}.weight"].shape == (task.sizes[i + 1], fan)
            for part in ("weight", "bias"):
                assert 0 < np.abs(model[f"layers.{i}.{part}"]).max() <= fan**-0.5
    else:
        assert not x.any()
        assert list(model) == ["weight", "bias"]
    model[next(iter(model))][...] = 9
    assert (x != 9).all()
    np.testing.assert_allclose(task.astype("float64").init(keys.key(1))[0], x, rtol=1e-6)


@pytest.mark.parametrize("task", TASKS, ids=ident)
def test_a_task_is_a_value(task):
    assert hash(task) == hash(dataclasses.replace(task))
    assert eval(repr(task)) == task
    assert task.astype("float64").astype("float32") == task
    assert task.astype("float64").layout.dtype == "float64"
    assert task.arrays(task) is task.numpy(task) is task
    assert task.flops(20) == 2 * task.flops(10) > 0


def test_rows_may_be_images_of_bytes():
    draw = np.random.default_rng(11)
    x, y = draw.integers(0, 256, (6, 2, 2), dtype="uint8"), draw.integers(0, 3, 6, dtype="uint8")
    task = SoftmaxRegression(4, 3)
    task.check(x, y)
    w = draw.standard_normal(15).astype("float32")
    g, _, _ = task.gradient(w, None, Batch(x, y))
    flat = task.gradient(w, None, Batch(x.reshape(6, 4).astype("float32"), y.astype("int64")))[0]
    assert g.dtype == "float32"
    np.testing.assert_array_equal(g, flat)


@pytest.mark.parametrize("task", TASKS, ids=ident)
def test_a_client_that_diverges_raises_no_warning(task):
    x, y = rows_of(task, (2, 5), np.random.default_rng(12))
    w = np.full((2, task.layout.size), 1e38, "float32")
    w[0] = np.nan
    g, loss, _ = task.gradient(w, None, Batch(x * 1e30, y))
    assert not np.isfinite(g[0]).any()
    assert not np.isfinite(loss[0])
    task.descend(w, None, Batch(x * 1e30, y), 1e30)
    task.evaluate(w[1], None, x[0], y[0])


@pytest.mark.parametrize("task", TASKS, ids=ident)
def test_unfit_rows_are_refused(task):
    x, y = rows_of(task, (4,), np.random.default_rng(13))
    task.check(x, y)
    with pytest.raises(DataError, match=rf"takes \(rows, {task.widths[0]}\)"):
        task.check(x[:, 1:], y)
    with pytest.raises(DataError, match="3 rows of features but 4 labels"):
        task.check(x[:3], y)
    x[2, 0] = np.inf
    with pytest.raises(DataError, match="NaN or Inf \\(first in row 2\\)"):
        task.check(x, y)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearRegression(0), "width"),
        (lambda: SoftmaxRegression(3, 2.5), "width"),
        (lambda: MLP([3]), "features and classes"),
        (lambda: MLP([3, 2], activation="gelu"), "'relu' or 'tanh'"),
        (lambda: LogisticRegression(3, l2=-1.0), "l2 must be 0 or more"),
        (lambda: LogisticRegression(3, l2=float("nan")), "l2 must be 0 or more"),
        (lambda: LogisticRegression(3, dtype="float16"), "'float32' or 'float64'"),
    ],
)
def test_impossible_models_are_refused(make, message):
    with pytest.raises(PlanError, match=message):
        make()


def test_a_large_layer_is_drawn_in_parts_and_starts_as_one_drawn_whole(monkeypatch):
    task = MLP([30, 40, 20, 3])
    whole, _ = task.init(keys.key(3))
    monkeypatch.setattr("muster.tasks.numpy.DRAWN", 70)
    assert task.init(keys.key(3))[0].tobytes() == whole.tobytes()
