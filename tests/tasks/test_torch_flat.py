# SPDX-License-Identifier: Apache-2.0
"""A module points into the rows it is given, whatever the model does to its tensors."""

import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import muster  # noqa: E402
from muster import keys  # noqa: E402
from muster.algorithms import FedAvg  # noqa: E402
from muster.errors import ClientError  # noqa: E402
from muster.tasks.torch import Classifier  # noqa: E402
from muster.tasks.torch_flat import flat  # noqa: E402
from muster.types import Batch  # noqa: E402

nn = torch.nn


def linear():
    return nn.Linear(4, 3)


def lstm():
    return Last()


def mlp():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def normed():
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, momentum=0.1))


def pictures():
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 28 * 28, 3)
    )


class Spare(nn.Module):
    """One layer is frozen, one is never read."""

    def __init__(self):
        super().__init__()
        self.frozen, self.head, self.spare = nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(2, 2)
        self.frozen.requires_grad_(False)

    def forward(self, x):
        return self.head(self.frozen(x).relu())


class Last(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.cell(x)[0][:, -1])


class Viewing(nn.Module):
    """Flattens images with .view, which asks for rows as they were."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 2, 3), nn.Linear(2 * 26 * 26, 3)

    def forward(self, x):
        return self.b(self.a(x).view(len(x), -1))


class Replacing(nn.Module):
    """Puts a new tensor where its buffer was."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 3)
        self.register_buffer("seen", torch.zeros(3))
        self.register_buffer("constant", torch.ones(3), persistent=False)

    def forward(self, x):
        h = self.a(x) * self.constant
        if self.training:
            self.seen = self.seen + h.detach().mean(0)
        return h


class Counting(nn.Module):
    """The statistics are a running mean over the steps of one round."""

    def __init__(self):
        super().__init__()
        self.a, self.norm = nn.Linear(4, 3), nn.BatchNorm1d(3, momentum=None)

    def forward(self, x):
        return self.norm(self.a(x))


def given(task, *shape):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, *(shape or (4,)))).astype(task.dtype)
    w, buffers = task.arrays(task.init(keys.key(0)))
    return w, buffers, Batch(*task.arrays((x, rng.integers(0, 3, 6))), None, 1)


def by_autograd(task, w, buffers, batch):
    module = task.model(w, buffers).train()
    nn.functional.cross_entropy(module(batch.x), batch.y).backward()
    return torch.cat([p.grad.reshape(-1) for p in module.parameters()])


@pytest.mark.parametrize(("make", "shape"), [(lstm, (7, 4)), (Viewing, (2, 28, 28))])
def test_gradients_of_harder_models(make, shape):
    task = Classifier(make)
    w, buffers, batch = given(task, *shape)
    expected = by_autograd(task, w, buffers, batch)
    torch.testing.assert_close(task.gradient(w, buffers, batch)[0], expected)


def test_rows_of_any_age_are_pointed_at():
    task = Classifier(linear, dtype="float64")
    w, buffers, batch = given(task)
    first = task.gradient(w, buffers, batch)[0]
    task.gradient(torch.zeros_like(w), buffers, batch)
    assert torch.equal(task.gradient(w, buffers, batch)[0], first)
    w += 1
    assert not torch.equal(task.gradient(w, buffers, batch)[0], first)


def test_the_stack_follows_the_matrix_it_is_given():
    task = Classifier(linear, dtype="float64")
    w, buffers, batch = given(task)
    many = torch.stack([w, 2 * w, 3 * w])
    both = Batch(torch.stack([batch.x] * 3), torch.stack([batch.y] * 3))
    whole = task.gradient(many, buffers, both)[0]
    part = task.gradient(many[:2], buffers, Batch(both.x[:2], both.y[:2]))[0]
    torch.testing.assert_close(part, whole[:2])
    torch.testing.assert_close(task.gradient(many.flip(0), buffers, both)[0], whole.flip(0))
    with flat(task).client():
        task.gradient(many, buffers, both)
    assert flat(task).stack == []


def test_a_replaced_buffer_lands_in_the_vector():
    task = Classifier(Replacing, dtype="float64")
    assert [e.name for e in task.layout.entries] == ["a.weight", "a.bias", "seen"]
    w, buffers, batch = given(task)
    mean = torch.nn.functional.linear(batch.x, w[:12].view(3, 4), w[12:]).mean(0)
    task.gradient(w, buffers, batch)
    task.gradient(w, buffers, batch)
    torch.testing.assert_close(buffers, 2 * mean)


def test_whole_number_buffers_start_anew_with_each_client():
    task = Classifier(Counting, dtype="float64")
    assert task.layout.buffers == 6
    w, start, batch = given(task)
    seen = []
    for _ in range(2):
        buffers = start.clone()
        with flat(task).client():
            task.gradient(w, buffers, batch)
            task.gradient(w, buffers, batch._replace(x=2 * batch.x))
        seen.append(buffers)
    assert torch.equal(*seen)


def test_every_thread_has_its_own_module():
    task, found = Classifier(linear), []
    thread = threading.Thread(target=lambda: found.append(flat(task)))
    thread.start()
    thread.join()
    assert found[0] is not flat(task)
    assert flat(Classifier(linear)) is flat(task)


def test_a_thread_keeps_few_modules():
    first = flat(Classifier(linear))
    for i in range(9):
        flat(Classifier(lambda i=i: nn.Linear(4, i + 1)))
    assert flat(Classifier(linear)) is not first


def test_scale_weighs_the_rows():
    task = Classifier(mlp, dtype="float64")
    w, buffers, batch = given(task)
    scale = torch.tensor([0.25, 0.25, 0.25, 0.25, 0.0, 0.0], dtype=torch.float64)
    short = Batch(batch.x[:4], batch.y[:4])
    for got, expected in zip(
        task.gradient(w, buffers, batch._replace(scale=scale))[:2],
        task.gradient(w, buffers, short)[:2],
        strict=True,
    ):
        torch.testing.assert_close(got, expected)


def test_frozen_and_unread_layers_do_not_move():
    task = Classifier(Spare, dtype="float64")
    w, buffers, batch = given(task)
    g, _, _ = task.gradient(w, buffers, batch)
    named = task.layout.named(g)
    assert all((named[n] == 0).all() != n.startswith("head") for n in named)
    before = w.clone()
    task.descend(w, buffers, batch, 0.5)
    torch.testing.assert_close(w, before - 0.5 * g)
    rows = torch.stack([before, before])
    both = Batch(torch.stack([batch.x] * 2), torch.stack([batch.y] * 2))
    torch.testing.assert_close(task.gradient(rows, buffers, both)[0][1], g)


def test_a_matrix_descends_in_place():
    task = Classifier(mlp, dtype="float64")
    w, buffers, batch = given(task)
    many = torch.stack([w, 2 * w, 3 * w])
    both = Batch(torch.stack([batch.x] * 3), torch.stack([batch.y] * 3))
    expected = torch.stack([row - 0.1 * task.gradient(row, buffers, batch)[0] for row in many])
    task.descend(many, buffers, both, 0.1)
    torch.testing.assert_close(many, expected)


def test_batchnorm_statistics_move_by_hand():
    task = Classifier(normed, dtype="float64")
    w, buffers, batch = given(task)
    named = task.layout.named(w)
    hidden = batch.x @ named["0.weight"].T + named["0.bias"]
    expected = torch.cat([0.1 * hidden.mean(0), 0.9 + 0.1 * hidden.var(0)])
    before = w.clone()
    _, _, same = task.gradient(w, buffers, batch)
    assert same is buffers
    torch.testing.assert_close(buffers, expected)
    assert torch.equal(w, before)
    task.evaluate(w, buffers, batch.x.numpy(), batch.y.numpy())
    torch.testing.assert_close(buffers, expected)


def test_convolutions_and_their_loop():
    task = Classifier(pictures)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((5, 1, 28, 28)).astype("float32"), rng.integers(0, 3, 5)
    task.check(x, y)
    w, buffers = task.arrays(task.init(keys.key(0)))
    batch = Batch(*task.arrays((x, y)))
    expected = by_autograd(task, w, buffers, batch)
    torch.testing.assert_close(task.gradient(w, buffers, batch)[0], expected)
    assert task.flops(2) == 2 * 6 * ((2 * 9 + 2) * 28 * 28 + (2 * 28 * 28 * 3 + 3))


def test_descend_lands_in_the_callers_memory():
    task = Classifier(mlp)
    start, buffers = task.init(keys.key(0))
    w, batch = start.copy(), given(task)[2]
    g, _, _ = task.gradient(*task.arrays((w, buffers)), batch)
    task.descend(*task.arrays((w, buffers)), batch, 0.1)
    np.testing.assert_allclose(w, start - 0.1 * g.numpy(), rtol=1e-5, atol=1e-7)


def test_a_row_is_flat_again_after_a_matrix():
    task = Classifier(linear)
    w, buffers, batch = given(task)
    first = task.gradient(w, buffers, batch)[0]
    task.gradient(w[None], buffers, Batch(batch.x[None], batch.y[None]))
    assert torch.equal(task.gradient(w, buffers, batch)[0], first)


def test_a_last_batch_of_one_row_under_batchnorm_is_refused_with_the_remedy(tmp_path):
    rows = np.zeros((5, 4), "float32"), np.array([0, 1, 2, 0, 1])
    people = muster.Population.from_arrays({"north": rows})
    local = muster.Local(epochs=1, batch=4)
    plan = muster.Plan(Classifier(normed), FedAvg(), local, rounds=1)
    with pytest.raises(ClientError, match=r"'north'.*BatchNorm got a batch of one row.*GroupNorm"):
        muster.simulate(plan, people, path=tmp_path / "run")
