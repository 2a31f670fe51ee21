# SPDX-License-Identifier: Apache-2.0
"""Facts about a model before it sees data are true, or careful."""

from functools import partial

import pytest

torch = pytest.importorskip("torch")

from muster import keys  # noqa: E402
from muster.errors import PlanError  # noqa: E402
from muster.tasks.torch import Classifier  # noqa: E402
from muster.tasks.torch_facts import build, difference, facts, layout_of, seeded  # noqa: E402
from muster.tasks.torch_rows import cross_entropy, squares  # noqa: E402

nn = torch.nn


class Functional(nn.Module):
    """Draws without a layer that says so."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 3)

    def forward(self, x):
        return nn.functional.dropout(self.a(x), training=self.training)


class Odd(nn.Module):
    """No guess fits its rows."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 3)

    def forward(self, x):
        return self.a(x["features"])


class Branching(nn.Module):
    """A branching model, which vmap cannot follow."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 3)

    def forward(self, x):
        h = self.a(x)
        return h if h.sum() > 0 else -h


def linear():
    return nn.Linear(4, 3)


def dropless():
    return nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.0))


def lstm():
    return nn.LSTM(4, 3, batch_first=True)


def rnn_with_dropout():
    return nn.LSTM(4, 3, num_layers=2, dropout=0.5)


def picture():
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def normed():
    return nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Tanh())


def told(make_model, loss=cross_entropy):
    return facts(make_model, loss, "float32")


@pytest.mark.parametrize(
    ("make_model", "draws", "batched"),
    [
        (linear, False, True),
        (normed, False, True),
        (Branching, False, False),
        (Functional, True, False),
        (Odd, True, False),
        (dropless, True, False),
        (lstm, False, False),
        (rnn_with_dropout, True, False),
        (picture, False, False),
    ],
)
def test_draws_and_batched(make_model, draws, batched):
    state = torch.get_rng_state()
    found = told(make_model)
    assert (found.draws, found.batched) == (draws, batched)
    assert torch.equal(torch.get_rng_state(), state)


def by_mean(output, y):
    return cross_entropy(output, y).mean()


def test_a_loss_by_row_is_told_from_a_mean():
    assert told(linear, squares).batched
    assert not told(linear, by_mean).batched


@pytest.mark.parametrize(
    ("make_model", "weights"),
    [
        (linear, 15),
        (picture, (3 * 2 * 9 + 2) * 26 * 26),
        (Odd, 15),
        (lstm, 16 * (4 * 12 + 3 * 12 + 24)),
    ],
)
def test_flops_count_every_place(make_model, weights):
    assert told(make_model).flops == pytest.approx(6 * weights)


def test_a_seed_makes_the_model_and_leaves_torch_alone():
    state = torch.get_rng_state()
    one, same, other = (build(linear, "float64", seed).weight for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.dtype == torch.float64
    with pytest.raises(ZeroDivisionError), seeded(torch.default_generator, 5):
        _ = 1 / 0
    assert torch.equal(torch.get_rng_state(), state)


def test_differences_are_named():
    small, large = (layout_of(nn.Linear(4, n), "float32") for n in (2, 3))
    assert difference(small, small) == ""
    assert "weight (2, 4) in one" in difference(small, large)
    both = layout_of(nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2)), "float32")
    more = layout_of(nn.Sequential(nn.Linear(4, 2)), "float32")
    assert difference(more, both).startswith("nothing in one, parameter 1.weight")


def test_something_else_is_no_model():
    with pytest.raises(PlanError, match=r"returned dict; it must return a torch\.nn\.Module"):
        build(dict, "float32")


def test_a_model_that_changes_is_refused():
    widths = iter((3, 5))
    task = Classifier(lambda: nn.Linear(4, next(widths)))
    assert task.layout.size == 15
    task = Classifier(partial(_growing, [2]))
    assert task.layout.size == 15
    with pytest.raises(PlanError, match=r"weight \(3, 4\) in one, parameter weight \(4, 4\)"):
        task.init(keys.key(0))


def _growing(width):
    width[0] += 1
    return nn.Linear(4, width[0])
