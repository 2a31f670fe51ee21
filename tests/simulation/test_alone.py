# SPDX-License-Identifier: Apache-2.0
"""A group that fails although each of its clients can train goes on one by one, and says so once.

A model was tried under vmap in evaluation alone. One that looks at its numbers while it trains
then lost nine healthy clients of ten (lenient), or blamed the first of them (strict).
"""

import re
from dataclasses import dataclass, replace

import numpy as np
import pytest

import muster
from muster import algorithms, optimizers
from muster.errors import ClientError, DataError
from muster.runs.replay import replay
from muster.tasks import numpy as tasks

CLIENTS = tuple(range(10))


def rows(client, n=16):
    x = np.random.default_rng(client).standard_normal((n, 4), dtype=np.float32)
    return x, (x[:, 0] > 0).astype(np.int64)


PEOPLE = muster.Population.from_arrays({client: rows(client) for client in CLIENTS})


@dataclass(frozen=True)
class Shy(tasks.SoftmaxRegression):
    """Trains one client at a time and never a group; `bad` rows fail alone, too."""

    def run(self, descent, given, carry, batches):
        if not batches.alone:
            raise RuntimeError("no rule for this\nand much more")
        if (np.abs(batches.x) > 50).any():
            raise ArithmeticError("these rows")
        return super().run(descent, given, carry, batches)


def planned(task, algorithm=None, **fields):
    local = muster.Local(epochs=1, batch=8, optimizer=optimizers.SGD(0.05))
    algorithm = algorithm or algorithms.FedAvg()
    return muster.Plan(task=task, algorithm=algorithm, local=local, rounds=2, **fields)


@pytest.mark.parametrize(
    ("engine", "algorithm"),
    [
        ("matrix", algorithms.FedAvg()),
        ("matrix", algorithms.Scaffold()),
        ("fused", algorithms.FedAvg()),
    ],
)
@pytest.mark.parametrize("lenient", [True, False])
def test_everybody_counts_and_it_is_said_once(algorithm, engine, lenient, tmp_path):
    plan = planned(Shy(4, 2), algorithm)
    loop = muster.simulate(plan, PEOPLE, engine="loop", path=tmp_path / "loop")
    with pytest.warns(RuntimeWarning, match=r"no rule for this\); muster goes on one") as said:
        run = muster.simulate(
            plan, PEOPLE, rows(99), engine=engine, lenient=lenient, path=tmp_path / "run"
        )
    assert len(said) == 1
    assert [record["accepted"] for record in run.trained] == [[*CLIENTS]] * 2
    assert not any("failed" in record for record in run.trained)
    assert np.array_equal(run.parameters, loop.parameters)
    assert run.facts["alone"] == "RuntimeError: no rule for this"
    assert "alone" not in loop.facts
    with pytest.warns(RuntimeWarning, match="one client at a time"):
        assert replay(run.path, plan, PEOPLE) == (2, True, None)


def test_workers_go_on_alone_with_the_same_bits_and_one_sentence(tmp_path):
    plan = planned(Shy(4, 2))
    runs = []
    for workers in (1, 2):
        with pytest.warns(RuntimeWarning, match="one client at a time") as said:
            path = tmp_path / str(workers)
            runs.append(muster.simulate(plan, PEOPLE, engine="matrix", workers=workers, path=path))
        assert len(said) == 1
    assert np.array_equal(runs[0].parameters, runs[1].parameters)


def test_who_fails_alone_is_blamed_and_nobody_else(tmp_path):
    given = {client: rows(client) for client in CLIENTS}
    given[7] = (given[7][0] * 100, given[7][1])
    plan = planned(Shy(4, 2))
    with pytest.raises(ClientError, match="these rows") as caught:
        muster.simulate(plan, given, engine="matrix", path=tmp_path / "a")
    assert caught.value.client == 7
    with pytest.warns(RuntimeWarning, match="one client at a time"):
        run = muster.simulate(plan, given, engine="matrix", lenient=True, path=tmp_path / "b")
    assert [record["accepted"] for record in run.trained] == [[c for c in CLIENTS if c != 7]] * 2
    assert {answer["client"] for record in run.trained for answer in record["failed"]} == {7}


def checking():
    """A model with a check that vmap cannot follow, in training alone."""
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 2)

        def forward(self, x):
            h = self.layer(x)
            if self.training and not torch.isfinite(h).all():
                raise FloatingPointError("activations overflow")
            return h

    return Net()


def backwards():
    """A model whose backward pass fails where gradients come as a stack."""
    torch = pytest.importorskip("torch")

    class Picky(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return x.clone()

        @staticmethod
        def setup_context(context, inputs, output):
            pass

        @staticmethod
        def backward(context, grad):
            return grad.contiguous().view(-1).view(grad.shape) * float(grad.abs().max() >= 0)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 2)

        def forward(self, x):
            return Picky.apply(self.layer(x))

    return Net()


def clumsy():
    """A model with a slip in it."""
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 2)

        def forward(self, x):
            return self.later(x)

    return Net()


def unmade():
    return checking().layers


@pytest.mark.parametrize("model", [checking, backwards])
def test_a_model_is_tried_as_it_will_be_run(model, tmp_path):
    pytest.importorskip("torch")
    task = muster.tasks.torch.Classifier(model)
    assert task.engines == ("fused", "loop")
    for lenient in (True, False):
        run = muster.simulate(planned(task), PEOPLE, lenient=lenient, path=tmp_path / str(lenient))
        assert [record["accepted"] for record in run.trained] == [[*CLIENTS]] * 2


def test_a_slip_in_a_user_s_model_is_shown_as_what_it_is(tmp_path):
    pytest.importorskip("torch")
    from muster.tasks import torch as room

    with pytest.raises(AttributeError, match="has no attribute 'layers'"):
        planned(room.Classifier(unmade))
    with pytest.raises(DataError, match=r"AttributeError: 'Net' object has no attribute 'later'"):
        muster.simulate(planned(room.Classifier(clumsy)), PEOPLE, path=tmp_path)


def no_params(key):
    return {"w": np.zeros((4, 2)).shapes}


def no_apply(params, x):
    return x.dotted(params["w"])


def zeros(key):
    return {"w": np.zeros((4, 2))}


def test_a_slip_in_a_jax_model_is_shown_as_what_it_is(tmp_path):
    pytest.importorskip("jax")
    from muster.tasks import jax as room

    with pytest.raises(AttributeError, match="has no attribute 'shapes'"):
        planned(room.Classifier(no_params, no_apply))
    with pytest.raises(DataError, match=re.escape("AttributeError")):
        plan = planned(room.Classifier(zeros, no_apply))
        muster.simulate(replace(plan, rounds=1), PEOPLE, path=tmp_path)
