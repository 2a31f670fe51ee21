# SPDX-License-Identifier: Apache-2.0
"""Losses by row agree with torch's means; a row's gradient is that of a batch of one."""

from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from muster.keys import key  # noqa: E402
from muster.privacy.examples import clipped_rows  # noqa: E402
from muster.tasks import torch as tasks  # noqa: E402
from muster.tasks import torch_rows  # noqa: E402
from muster.types import Batch  # noqa: E402

nn = torch.nn


@pytest.mark.parametrize("shape", [(5, 3), (5, 4, 3), (5, 2, 4, 3)])
def test_cross_entropy_by_place_has_torchs_mean(shape):
    output = torch.randn(shape, dtype=torch.float64)
    y = torch.randint(0, 3, shape[:-1])
    losses = torch_rows.cross_entropy(output, y)
    assert losses.shape == y.shape
    expected = -output.log_softmax(-1).gather(-1, y[..., None])[..., 0]
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(losses.mean(), torch_rows.mean_cross_entropy(output, y))
    assert torch_rows.per_row(losses).shape == (5,)


@pytest.mark.parametrize(("output", "y"), [((5, 1), (5,)), ((5,), (5, 1)), ((5, 2), (5, 2))])
def test_squares_never_broadcast(output, y):
    output, y = torch.randn(output), torch.randn(y)
    losses = torch_rows.squares(output, y)
    assert losses.shape == (5,)
    expected = torch.nn.functional.mse_loss(output.reshape(y.shape), y)
    torch.testing.assert_close(losses.mean(), expected)


def test_outputs_of_another_size_are_refused():
    with pytest.raises(RuntimeError, match="shape"):
        torch_rows.squares(torch.zeros(5, 2), torch.zeros(5))


class Reader(nn.Module):
    """A recurrent net over tokens, which vmap does not know."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(7, 3)
        self.lstm = nn.LSTM(3, 4, batch_first=True)
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        return self.out(self.lstm(self.words(x))[0])  # an answer for each position


class Tied(nn.Module):
    """One weight at two places."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def small():
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))


def images():
    layers = nn.Conv2d(1, 3, 3), nn.GroupNorm(1, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 3)
    return nn.Sequential(*layers)


def frozen():
    return nn.Sequential(nn.Linear(5, 4).requires_grad_(False), nn.Tanh(), nn.Linear(4, 3))


def dropping():
    return nn.Sequential(nn.Linear(5, 40), nn.Dropout(0.5), nn.Linear(40, 3))


def mean_loss(output, y):
    return nn.functional.cross_entropy(output, y)


MODELS = {
    "small": (small, (5,), True),
    "images": (images, (1, 8, 8), True),
    "frozen": (frozen, (5,), True),
    "tied": (Tied, (5,), True),
    "reader": (Reader, (6,), False),
}


def setting(name, dtype="float64"):
    make, shape, mapped = MODELS[name]
    task, draw = tasks.Classifier(make, dtype), np.random.default_rng(1)
    if name == "reader":
        x, y = draw.integers(0, 7, (6, *shape)), draw.integers(0, 3, (6, *shape))
    else:
        x, y = draw.normal(size=(6, *shape)).astype(dtype), draw.integers(0, 3, 6)
    given = [torch.from_numpy(a) for a in (*task.init(key(0)), x, y)]
    return task, *given[:2], Batch(*given[2:]), mapped


@pytest.mark.parametrize("name", MODELS)
def test_a_rows_gradient_is_that_of_a_batch_of_one(name):
    task, w, buffers, batch, mapped = setting(name)
    found, losses = task.gradients(w, buffers, batch)
    for i in range(6):
        one = Batch(batch.x[i : i + 1], batch.y[i : i + 1])
        g, loss, _ = task.gradient(w, buffers, one)
        torch.testing.assert_close(found[i], g, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(losses[i], loss, rtol=1e-12, atol=1e-12)
    assert (torch_rows._single(task).mapped is not None) is mapped


@pytest.mark.parametrize("name", MODELS)
def test_chunks_and_the_loop_change_nothing(name, monkeypatch):
    task, w, buffers, batch, _ = setting(name)
    rows, losses = task.gradients(w, buffers, batch)
    bound = float(rows.norm(dim=1).median())
    wanted = torch.from_numpy(clipped_rows(rows.numpy(), bound).sum(0))
    for room in (1, 3 * w.numel() * 8, 1 << 26):
        monkeypatch.setattr(torch_rows, "ROOM", room)
        total, loss = task.clipped(w, buffers, batch, bound)
        torch.testing.assert_close(total, wanted, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(loss, losses.mean())
    monkeypatch.setattr(torch_rows._single(task), "mapped", None)
    torch.testing.assert_close(task.gradients(w, buffers, batch)[0], rows)


def test_a_matrix_is_its_clients():
    task, w, buffers, batch, _ = setting("small")
    many = Batch(
        batch.x.view(2, 3, 5), batch.y.view(2, 3), torch.tensor([[0.5, 0.5, 0], [1, 1, 1]])
    )
    total, loss = task.clipped(torch.stack([w, 2 * w]), None, many, 0.1)
    first = task.clipped(w, buffers, Batch(batch.x[:2], batch.y[:2]), 0.1)
    # Two kernels, whose sums have another order from one processor to the next: a bound, not bits.
    torch.testing.assert_close((total[0], loss[0]), first, rtol=1e-12, atol=1e-14)
    full = task.clipped(torch.stack([w, 2 * w]), None, many._replace(scale=None), 0.1)[0]
    torch.testing.assert_close(full[1], total[1], rtol=1e-12, atol=1e-14)
    assert (full[0] != total[0]).any()


def test_no_rows_add_nothing():
    task, w, buffers, batch, _ = setting("images")
    total, loss = task.clipped(w, buffers, Batch(batch.x[:0], batch.y[:0]), 1.0)
    assert (total == 0).all() and loss == 0


@pytest.mark.parametrize("bound", [1e-3, 0.3, 1e3])
def test_no_row_adds_more_than_the_bound_in_single_precision(bound):
    task, w, buffers, batch, _ = setting("images", "float32")
    for i in range(6):
        one = Batch(batch.x[i : i + 1] * 10.0 ** (i - 2), batch.y[i : i + 1])
        assert task.clipped(w, buffers, one, bound)[0].double().norm() <= bound


def test_a_loss_that_gives_one_mean_has_rows_too():
    _, w, buffers, batch, _ = setting("small")
    mean, by_row = tasks.Model(small, mean_loss, "float64"), tasks.Classifier(small, "float64")
    found, wanted = (task.gradients(w, buffers, batch)[0] for task in (mean, by_row))
    torch.testing.assert_close(found, wanted)


def test_layers_that_draw_are_seeded_and_draw_for_each_row():
    task, draw = tasks.Classifier(dropping, "float64"), np.random.default_rng(2)
    w, x = torch.from_numpy(task.init(key(0))[0]), torch.from_numpy(draw.normal(size=(1, 5)))
    batch = Batch(x.expand(4, 5), torch.zeros(4, dtype=torch.int64), None, 3)
    before = torch.default_generator.get_state()
    found, other = (task.gradients(w, None, batch._replace(seed=s))[0] for s in (3, 4))
    torch.testing.assert_close(task.gradients(w, None, batch)[0], found, rtol=0, atol=0)
    assert (found[0] != found[1]).any() and (found != other).any()
    assert torch.equal(torch.default_generator.get_state(), before)


def test_what_is_frozen_and_what_mixes_has_a_name():
    norm = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4))
    assert tasks.Classifier(frozen).layout.frozen == ("0.weight", "0.bias")
    assert tasks.Classifier(small).layout.frozen == ()
    assert tasks.Classifier(small).mixing == ""
    assert tasks.Classifier(partial(nn.Sequential, norm)).mixing == "BatchNorm1d"
    assert tasks.Classifier(partial(nn.InstanceNorm1d, 4, affine=True)).mixing == ""


@pytest.mark.parametrize("odd", [torch.nan, torch.inf])
def test_a_row_that_no_clip_bounds_counts_as_none(odd):
    task, w, buffers, batch, _ = setting("small")
    kept = torch.arange(len(batch.x)) != 4
    less = batch._replace(x=batch.x[kept], y=batch.y[kept])
    wanted = task.clipped(w, buffers, less, 1.0)[0]
    batch.x[4, 0] = odd
    torch.testing.assert_close(task.clipped(w, buffers, batch, 1.0)[0], wanted)
