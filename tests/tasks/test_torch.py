# SPDX-License-Identifier: Apache-2.0
"""Torch models on flat rows: the gradients, the engines and the vectors are the right ones."""

import os
import pickle
import subprocess
import sys
import threading
from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from muster import keys  # noqa: E402
from muster.algorithms import FedAvg, FedProx  # noqa: E402
from muster.errors import DataError, PlanError  # noqa: E402
from muster.local import Group, Local, train  # noqa: E402
from muster.metrics import MAE, Accuracy  # noqa: E402
from muster.optimizers import SGD, Momentum  # noqa: E402
from muster.plan import Plan  # noqa: E402
from muster.tasks import numpy as numpy_tasks  # noqa: E402
from muster.tasks import torch_facts  # noqa: E402
from muster.tasks.torch import Classifier, Model, Regressor  # noqa: E402
from muster.types import Batch, Sent  # noqa: E402

nn = torch.nn
functional = nn.functional


def linear():
    return nn.Linear(4, 3)


def mlp():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def dropping():
    return nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 3))


def normed():
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, momentum=0.1))


def scalar():
    return nn.Linear(4, 1)


def sequence():
    return nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(self.a(x).tanh())


def mean_loss(output, y):
    return functional.cross_entropy(output, y)


def rows(n=6, seed=0, dtype="float64"):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, 4)).astype(dtype), rng.integers(0, 3, n)


def tensors(task, seed=0, n=6):
    x, y = rows(n, seed, task.dtype)
    w, buffers = task.init(keys.key(seed))
    return *task.arrays((w, buffers)), Batch(*task.arrays((x, y)), None, 7)


def by_autograd(task, w, batch):
    module = task.model(w, torch.zeros(task.layout.buffers, dtype=w.dtype)).train()
    loss = functional.cross_entropy(module(batch.x), batch.y)
    loss.backward()
    return torch.cat([p.grad.reshape(-1) for p in module.parameters()]), loss.detach()


def trained(task, engine, algorithm=None, optimizer=None, seed=0, steps=None):
    plan = Plan(
        task=task,
        algorithm=algorithm or FedAvg(),
        dtype=task.dtype,
        seed=seed,
        local=Local(
            epochs=None if steps else 2, steps=steps, batch=4, optimizer=optimizer or SGD(0.1)
        ),
    )
    sizes = np.array([10, 4, 7])
    x, y = rows(21, dtype=task.dtype)
    group = Group((3, 5, 8), (1, 1, 1), x, y, np.array([0, 10, 14]), sizes)
    w, buffers = task.init(keys.key(1))
    sent = Sent(plan.algorithm.init(w).shared, (), buffers)
    if engine == "matrix":
        return train(plan, engine, 1, sent, group).payload["delta"]
    return np.concatenate(
        [train(plan, engine, 1, sent, one).payload["delta"] for one in group.alone()]
    )


@pytest.mark.parametrize("make", [linear, mlp, Tied])
def test_the_gradient_is_autograds(make):
    task = Classifier(make, dtype="float64")
    w, buffers, batch = tensors(task)
    g, loss, _ = task.gradient(w, buffers, batch)
    expected, value = by_autograd(task, w, batch)
    torch.testing.assert_close(g, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(loss, value)


def test_vectors_go_into_a_model_and_back():
    task = Classifier(normed, dtype="float64")
    w, buffers = task.init(keys.key(3))
    model = task.model(w, buffers)
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    assert np.array_equal(task.layout.flat(state), w)
    assert np.array_equal(task.layout.flat(state, "buffer"), buffers)
    assert not model.training
    assert [e.name for e in task.layout.entries][-2:] == ["1.running_mean", "1.running_var"]
    assert np.array_equal(task.init(keys.key(3))[0], w)
    assert not np.array_equal(task.init(keys.key(4))[0], w)


def test_it_is_the_numpy_mlp():
    ours, theirs = Classifier(mlp, dtype="float64"), numpy_tasks.MLP([4, 6, 3], dtype="float64")
    w, buffers, batch = tensors(ours)
    x, y = rows()
    g, loss, _ = theirs.gradient(w.numpy(), buffers.numpy(), Batch(x, y))
    mine, value, _ = ours.gradient(w, buffers, batch)
    np.testing.assert_allclose(mine.numpy(), g, rtol=1e-10, atol=1e-12)
    assert float(value) == pytest.approx(float(loss), rel=1e-12)
    sums = theirs.evaluate(w.numpy(), buffers.numpy(), x, y)
    assert ours.evaluate(w, buffers, x, y) == pytest.approx(sums, rel=1e-10)


@pytest.mark.parametrize("make", [linear, mlp, Tied])
@pytest.mark.parametrize(
    ("algorithm", "optimizer", "steps"),
    [
        (FedAvg(), SGD(0.1), None),
        (FedProx(mu=0.5), Momentum(0.1, 0.9), None),
        (FedAvg(), SGD(0.1), 5),
    ],
)
def test_matrix_is_loop(make, algorithm, optimizer, steps):
    task = Classifier(make, dtype="float64")
    one, many = (
        trained(task, engine, algorithm, optimizer, steps=steps) for engine in ("loop", "matrix")
    )
    assert np.abs(one).max() > 1e-3
    np.testing.assert_allclose(many, one, rtol=0, atol=1e-12 * np.abs(one).max() * 100)


@pytest.mark.parametrize("make", [linear, dropping, normed])
def test_fused_is_loop(make):
    task = Classifier(make, dtype="float64")
    np.testing.assert_allclose(
        trained(task, "fused"), trained(task, "loop"), rtol=1e-10, atol=1e-14
    )


def test_what_a_matrix_cannot_do_is_refused():
    assert Classifier(Tied).layout.size == 16 + 4 + 4  # a tied parameter counts once
    for make in (dropping, normed):
        assert Classifier(make).engines == ("fused", "loop")
        assert Classifier(make).fuses == "client"
    assert Classifier(mlp).engines == ("fused", "matrix", "loop")
    assert Classifier(mlp).fuses == "cohort"
    assert Model(mlp, mean_loss).engines == ("fused", "loop")
    task = Classifier(normed)
    w, buffers, batch = tensors(task)
    with pytest.raises(PlanError, match="use engine='loop'"):
        task.gradient(w[None], buffers[None], batch)


def test_a_mean_loss_trains_and_evaluates_like_a_loss_by_row():
    whole, parts = Model(mlp, mean_loss, "float64"), Classifier(mlp, dtype="float64")
    w, buffers, batch = tensors(whole)
    torch.testing.assert_close(
        whole.gradient(w, buffers, batch)[0], parts.gradient(w, buffers, batch)[0]
    )
    x, y = rows(700)
    sums = parts.evaluate(w, buffers, x, y)
    assert whole.evaluate(w, buffers, x, y)["loss"] == pytest.approx(sums["loss"])


def test_dropout_is_drawn_from_the_batchs_seed_and_torch_is_left_alone():
    task = Classifier(dropping, dtype="float64")
    assert task.draws
    w, buffers, batch = tensors(task)
    state = torch.get_rng_state()
    first, again, other = (
        task.gradient(w, buffers, batch._replace(seed=seed))[0] for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    once = trained(task, "loop")
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(1)
    assert np.array_equal(trained(task, "loop"), once)
    assert not np.array_equal(trained(task, "loop", seed=1), once)


def test_arrays_share_memory_where_they_may_be_written():
    task = Classifier(linear)
    a = np.zeros(3, np.float32)
    locked = np.ones(3, np.float32)
    locked.flags.writeable = False
    tree = task.arrays((a, None, {"b": locked, "c": 2.0}, a[::-1]))
    tree[0][0] = tree[2]["b"][0] = 5
    assert a[0] == 5 and locked[0] == 1
    back = task.numpy(tree)
    assert back[1] is None and back[2]["c"] == 2.0 and isinstance(back[2]["b"], np.ndarray)


def test_sequences_count_positions():
    task = Classifier(sequence, dtype="float64")
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, (4, 6)), rng.integers(0, 5, (4, 6))
    task.check(x, y)
    w, buffers = task.init(keys.key(0))
    sums = task.evaluate(w, buffers, x, y, (Accuracy(),))
    assert sums["rows"] == sums["accuracy/rows"] == 24
    batch = Batch(*task.arrays((x, y)))
    loss = task.gradient(*task.arrays((w, buffers)), batch)[1]
    assert float(loss) == pytest.approx(sums["loss"] / 24)
    with pytest.raises(DataError, match="cannot take rows"):
        task.check(x + 1, y)


def test_regression_by_hand():
    task = Regressor(scalar, dtype="float64")
    x, y = rows()[0], np.arange(6.0)
    task.check(x, y)
    w, buffers = task.init(keys.key(0))
    gap = x @ w[:4] + w[4] - y
    sums = task.evaluate(w, buffers, x, y, (MAE(),))
    by_hand = {"loss": (gap**2).sum(), "mae/sizes": np.abs(gap).sum(), "mae/numbers": 6}
    assert sums == pytest.approx({"rows": 6} | {k: float(v) for k, v in by_hand.items()})
    g, _, _ = task.gradient(*task.arrays((w, buffers)), Batch(*task.arrays((x, y))))
    np.testing.assert_allclose(g[:4], 2 * gap @ x / 6)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((2, 4)), np.array([0, 3]), "labels hold 3"),
        (np.zeros((2, 4)), np.array([0, -1]), "labels hold -1"),
        (np.full((2, 4), np.nan), np.array([0, 1]), "features hold NaN"),
        (np.zeros((2, 5)), np.array([0, 1]), "cannot take rows of shape \\(5,\\)"),
        (np.zeros((2, 4)), np.zeros((2, 2), int), "one label for each answer"),
        (np.zeros((2, 4)), np.array([0]), "2 rows of features but 1 labels"),
        (np.array([["a"] * 4]), np.array([0]), "numbers are needed"),
    ],
)
def test_bad_rows_are_refused(x, y, message):
    with pytest.raises(DataError, match=message):
        Classifier(mlp).check(x, y)


def test_bad_targets_are_refused():
    with pytest.raises(DataError, match="one target for each output"):
        Regressor(scalar).check(np.zeros((2, 4)), np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Classifier(mlp()[0].weight), "a function is needed"),
        (lambda: Classifier(mlp, dtype="float16"), "dtype must be"),
        (lambda: Classifier(dict).layout, "must return a torch.nn.Module"),
    ],
)
def test_a_bad_task_is_refused(build, message):
    with pytest.raises(PlanError, match=message):
        build()


def test_a_task_is_a_value_that_travels():
    task = Classifier(mlp)
    assert pickle.loads(pickle.dumps(task)) == task and hash(Classifier(mlp)) == hash(task)
    assert task.astype("float64").layout.dtype == "float64"


QUICK = """
import sys, muster.tasks.torch
from test_torch import Classifier, mlp, trained
for engine in ("matrix", "fused", "loop"):
    trained(Classifier(mlp), engine)
print([m for m in ("torch._dynamo", "torch.optim.sgd", "sympy") if m in sys.modules])
"""


def test_torchs_compiler_is_never_imported():
    paths = [os.path.dirname(__file__), *(p for p in sys.path if p)]
    out = subprocess.run(
        [sys.executable, "-c", QUICK],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert out.returncode == 0, out.stderr
    assert "_dynamo" not in out.stdout


WIDTH, BENT = 3, nn.ReLU


def as_wide_as_the_global():
    return nn.Sequential(nn.Linear(2, WIDTH), BENT())


def test_a_changed_global_builds_another_model(monkeypatch):
    first = Regressor(as_wide_as_the_global)
    assert first.layout.size == 9
    w, buffers = first.init(keys.key(0))
    monkeypatch.setitem(globals(), "WIDTH", 4)
    wide = Regressor(as_wide_as_the_global)
    assert (wide.layout.size, len(wide.init(keys.key(0))[0])) == (12, 12)
    monkeypatch.setitem(globals(), "WIDTH", 3)
    x, y = -np.ones((2, 2), np.float32), np.zeros((2, 3), np.float32)
    bent = Regressor(as_wide_as_the_global).evaluate(w, buffers, x, y)
    monkeypatch.setitem(globals(), "BENT", nn.Tanh)
    assert Regressor(as_wide_as_the_global).evaluate(w, buffers, x, y) != bent


def test_what_was_found_out_is_kept_for_equal_tasks_and_stays_here(monkeypatch):
    built, build = [], torch_facts.build
    monkeypatch.setattr(torch_facts, "build", lambda *given: built.append(1) or build(*given))
    assert {Classifier(as_wide_as_the_global, "float64").layout.size for _ in range(3)} == {9}
    assert len(built) == 1
    one = Classifier(as_wide_as_the_global)
    assert one.layout.size == 9
    travelled = pickle.loads(pickle.dumps(one))
    assert vars(travelled).keys() == {"make_model", "dtype", "device"}
    assert travelled == one


def test_a_loss_that_cannot_be_hashed_or_told_is_a_loss_all_the_same():
    class Loss:
        __hash__ = None

        def __init__(self):
            self.lock = threading.Lock()

        def __call__(self, output, y):
            return output[:, 0] - y

    task = Model(partial(nn.Linear, 2, 1), Loss())
    assert task.layout.size == 3 and task.mark != Model(partial(nn.Linear, 2, 1), Loss()).mark
    w, buffers = task.init(keys.key(0))
    assert task.evaluate(w, buffers, np.ones((2, 2), np.float32), np.zeros(2))["rows"] == 2
