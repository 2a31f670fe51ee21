# SPDX-License-Identifier: Apache-2.0
"""Private steps: against a loop by hand, the same bits again, and nothing else let through."""

import math
from dataclasses import replace

import numpy as np
import pytest

from muster import (
    Every,
    Local,
    PerExample,
    Plan,
    Population,
    algorithms,
    explain,
    keys,
    optimizers,
    simulate,
)
from muster.batches import cut, drawn
from muster.errors import PlanError
from muster.keys import key
from muster.local import Group, train
from muster.privacy import Secret
from muster.privacy.examples import private_gradient
from muster.rounds import start
from muster.simulation import choose
from muster.tasks import numpy as tasks
from muster.types import Batch

SIZES = np.array([2, 17, 9, 30])
STARTS = np.cumsum([0, *SIZES[:-1]])
DRAW = np.random.default_rng(0)
X, Y = DRAW.normal(size=(SIZES.sum(), 5)), DRAW.integers(0, 3, SIZES.sum())
RULE = PerExample(0.7, 0.5)
NOBODY = Every(clients=0)
TASKS = [
    tasks.SoftmaxRegression(5, 3, l2=0.1),
    tasks.MLP([5, 4, 3], activation="tanh"),
    tasks.LinearRegression(5),
]


def group(memories=None):
    return Group(tuple("abcd"), (1, 1, 1, 1), X, Y, STARTS, SIZES, memories)


def planned(task=TASKS[0], algorithm=None, rule=RULE, **local):
    local = {"epochs": 2, "batch": 4, "optimizer": optimizers.SGD(0.2)} | local
    fields = Local(**local, examples=rule)
    algorithm = algorithm or algorithms.FedAvg()
    return Plan(task, algorithm, fields, weighting="equal", dtype="float64", evaluate=NOBODY)


def blank(plan):
    if not plan.remembers:
        return None
    return (plan.fresh_memory(*plan.task.init(key(plan.seed).at("init"))),) * 4


def trained(plan, engine="matrix", round=1, source=None):
    sent, walk = start(plan).sent(), None
    whole = group(blank(plan))
    parts = [whole] if engine == "matrix" else whole.alone()
    found = [train(plan, engine, round, sent, part, walk, source) for part in parts]
    return np.concatenate([f.payload["delta"] for f in found])


def by_hand(plan, client, round=1):
    """One client's w − x by the formula of the paper, from the documented paths of the key."""
    i, task, local, rule = "abcd".index(client), plan.task, plan.local, plan.local.examples
    n, source = int(SIZES[i]), keys.key(plan.seed).at("examples", round, client)
    x, y = X[STARTS[i] :][:n], Y[STARTS[i] :][:n]
    w = begin = start(plan).algorithm.shared.x
    expected = min(n, local.batch)
    for step in range(local.epochs * math.ceil(n / local.batch)):
        rows = np.flatnonzero(source.at(step, "rows").uniform(n) < expected / n)
        ones = [Batch(x[r : r + 1], y[r : r + 1]) for r in rows]
        penalty = task.l2 * w
        grads = [task.gradient(w, None, one)[0] - penalty for one in ones]
        grads = np.array(grads).reshape(-1, len(w))
        noise = source.at(step, "noise")
        g = private_gradient(grads, rule.clip, rule.multiplier, expected, noise) + penalty
        w = w - local.optimizer.rate * plan.algorithm.correct(g, w, start(plan).sent().algorithm, 0)
    return w - begin


@pytest.mark.parametrize("task", TASKS, ids=repr)
@pytest.mark.parametrize("algorithm", [algorithms.FedAvg(), algorithms.FedProx(0.5)], ids=repr)
def test_every_client_descends_as_the_paper_says(task, algorithm):
    plan = planned(task, algorithm)
    found = trained(plan)
    for i, client in enumerate("abcd"):
        np.testing.assert_allclose(found[i], by_hand(plan, client), atol=1e-12)


@pytest.mark.parametrize("batches", ["poisson", "shuffled"])
@pytest.mark.parametrize("batch", [4, None])
@pytest.mark.parametrize("name", ["FedAvg", "FedProx", "Scaffold", "FedDyn", "FedNova"])
def test_a_matrix_is_its_clients_one_by_one(name, batch, batches):
    rule = replace(RULE, batches=batches)
    plan = planned(TASKS[1], getattr(algorithms, name)(), rule, batch=batch)
    np.testing.assert_allclose(trained(plan), trained(plan, "loop"), atol=1e-13)


def torch_plan(frozen=False, **fields):
    room = pytest.importorskip("muster.tasks.torch")
    task = room.Classifier(part_frozen if frozen else small)
    return planned(task, **fields)


def small():
    nn = pytest.importorskip("torch").nn
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))


def part_frozen():
    module = small()
    module[0].requires_grad_(False)
    return module


def test_numpy_and_torch_are_equally_private():
    """The same start, rows and noise: the same update."""
    plan, twin = planned(TASKS[1]), torch_plan()
    assert twin.task.layout.size == plan.task.layout.size
    begin, sent = start(plan), start(plan).sent()
    found = [train(p, "loop", 1, sent, one) for p in (plan, twin) for one in group().alone()]
    deltas = [f.payload["delta"][0] for f in found]
    np.testing.assert_allclose(deltas[:4], deltas[4:], atol=1e-12)
    assert np.isfinite(begin.algorithm.shared.x).all()
    np.testing.assert_allclose(trained(twin), trained(twin, "loop"), atol=1e-12)


def test_noise_never_moves_what_is_frozen():
    plan = torch_plan(frozen=True)
    named = plan.task.layout.named

    def watched(descent, given, carry, batches):
        before = plan.task.numpy(carry.w).copy()
        end = plan.task.run(descent, given, carry, batches)
        moved = named(plan.task.numpy(end.w) - before)
        assert (moved["0.weight"] == 0).all() and (moved["0.bias"] == 0).all()
        assert (moved["2.weight"] != 0).all()
        return end

    for engine in ("loop", "matrix"):
        for part in [group()] if engine == "matrix" else group().alone():
            out = train(plan, engine, 1, start(plan).sent(), part, watched)
            assert out.payload["delta"].shape[1] == 15  # the head alone


@pytest.mark.parametrize("engine", ["loop", "matrix"])
def test_the_same_source_gives_the_same_bits_and_no_other_does(engine):
    plan = planned()
    first = trained(plan, engine)
    np.testing.assert_array_equal(trained(plan, engine), first)
    np.testing.assert_array_equal(trained(plan, engine, source=key(plan.seed)), first)
    others = [{"round": 2}, {"source": key(5)}, {"source": Secret(bytes(32))}]
    assert all((trained(plan, engine, **other) != first).all() for other in others)


@pytest.mark.parametrize("task", ["numpy", "torch"])
@pytest.mark.parametrize("batches", ["poisson", "shuffled"])
def test_training_cut_in_pieces_has_the_same_bits(task, batches):
    """As a site does that was interrupted."""
    rule = replace(RULE, batches=batches, metrics="public")
    plan = planned(rule=rule) if task == "numpy" else torch_plan(rule=rule)

    def walk(descent, given, carry, batches):
        for first in range(0, len(batches), 3):
            carry = descent.task.run(descent, given, carry, batches.steps(first, first + 3))
        return carry

    for one in group().alone():
        whole, pieces = (train(plan, "loop", 1, start(plan).sent(), one, w) for w in (None, walk))
        np.testing.assert_array_equal(whole.payload["delta"], pieces.payload["delta"])
        np.testing.assert_array_equal(whole.metrics["loss"], pieces.metrics["loss"])


@pytest.mark.parametrize("engine", ["loop", "matrix"])
def test_metrics_stay_with_the_client_unless_they_are_public(engine):
    """The model has the same bits either way."""
    told = planned(rule=replace(RULE, metrics="public"))
    for plan, names in ((planned(), set()), (told, {"rows", "loss", "steps", "drift"})):
        groups = [group()] if engine == "matrix" else group().alone()
        outcomes = [train(plan, engine, 1, start(plan).sent(), one) for one in groups]
        assert all(set(outcome.metrics) == names for outcome in outcomes)
    np.testing.assert_array_equal(trained(planned(), engine), trained(told, engine))


def test_workers_and_a_resume_change_no_bit(tmp_path):
    people = Population.from_arrays(
        {c: (part.x, part.y) for c, part in zip("abcd", group().alone(), strict=True)}
    )
    short, whole = (replace(planned(), rounds=rounds) for rounds in (1, 3))
    found = [simulate(whole, people, path=tmp_path / str(n), workers=n) for n in (1, 2)]
    simulate(short, people, path=tmp_path / "cut", workers=1)
    found.append(simulate(whole, people, path=tmp_path / "cut", workers=1, resume=True))
    for run in found[1:]:
        np.testing.assert_array_equal(run.parameters, found[0].parameters)
    assert not any("train" in record for run in found for record in run.trained)


def test_no_engine_fuses_and_the_reason_is_told():
    people = Population.from_arrays({"a": (X, Y), "b": (X, Y)})
    for plan, engine in ((planned(), "matrix"), (planned(TASKS[0], rule=None), "fused")):
        told = explain(plan, people)
        assert told["engine"] == engine and told["reason"]
    with pytest.raises(
        PlanError,
        match=r"in place, without the gradient that PerExample\(.* use 'loop', 'matrix' or",
    ):
        choose(planned(), people, 2, "fused")


def test_a_row_moves_a_step_by_no_more_than_its_bound():
    """Whatever one row is, the sum moves by at most the clip (here over 1 of 4 rows)."""
    rule = PerExample(0.7, 1e-9)
    found = []
    for label in (0, 2):
        x, y = X[:4].copy(), Y[:4].copy()
        x[0], y[0] = 1e6 * (1 + label), label
        one = Group(("a",), (1,), x, y, np.zeros(1, int), np.array([4]))
        plan = planned(rule=rule, epochs=1, batch=None, optimizer=optimizers.SGD(1.0))
        found.append(train(plan, "loop", 1, start(plan).sent(), one).payload["delta"][0])
    assert 0.7 < np.linalg.norm(found[0] - found[1]) * 4 <= 2 * 0.7 * (1 + 1e-6)


def coins(batch=4, poisson=True, steps=400):
    starts, sizes, numbers = STARTS, SIZES, keys.numbers("abcd")
    counts = np.full(4, steps)
    whole = cut(X, Y, starts, sizes, numbers, counts, batch, key(0))
    sources = [key(1).at(client) for client in "abcd"]
    return drawn(whole, starts, sizes, batch, sources, poisson)


def test_poisson_batches_are_coins():
    made = coins()
    real = made.scale > 0
    sizes = real.sum(-1)  # (steps, clients)
    assert (sizes[:, 0] == 2).all()  # the batch is larger than the client: everybody, always
    for client, n in ((1, 17), (2, 9), (3, 30)):
        rate = 4 / n
        assert sizes[:, client].mean() == pytest.approx(4, abs=0.4)
        assert sizes[:, client].var() == pytest.approx(n * rate * (1 - rate), rel=0.3)
        rows = made.index[:, client][real[:, client]] - STARTS[client]
        assert rows.min() >= 0 and rows.max() < n
        seen = np.bincount(rows, minlength=n) / 400
        assert np.abs(seen - rate).max() < 4.5 * math.sqrt(rate * (1 - rate) / 400)
    assert (sizes[:, 3] == 0).any()  # a step may see nobody
    assert [made.private[7, c].expected for c in range(4)] == [2, 4, 4, 4]
    assert made.private[7, 2].source == key(1).at("c", 7, "noise")


def test_an_empty_step_is_noise_alone():
    made = coins()
    step = int(np.flatnonzero((made.scale > 0).sum(-1)[:, 3] == 0)[0])
    alone = replace(
        made,
        index=made.index[:, 3:],
        scale=made.scale[:, 3:],
        seeds=None,
        private=made.private[:, 3:],
        alone=True,
    )
    batch = alone.at(step)[1]
    assert len(batch.x) == 0
    plan = planned()
    w = np.zeros(plan.task.layout.size)
    g, loss = plan.descent("loop")._private(RULE, w, None, batch)
    noise = RULE.noise(batch.private, plan.task.layout)[0]
    np.testing.assert_array_equal(g, noise / 4)
    assert loss == 0


def test_shuffled_batches_see_each_row_once_an_epoch():
    made = coins(poisson=False, steps=8)
    rows = [made.index[step, 3][made.scale[step, 3] > 0] for step in range(8)]
    assert [len(r) for r in rows] == [4] * 7 + [2]
    assert sorted(np.concatenate(rows).tolist()) == list(range(28, 58))
    assert np.concatenate(rows).tolist() != list(range(28, 58))
    assert [made.private[0, c].expected for c in range(4)] == [2, 4, 4, 4]


def test_full_batches_stay_as_they_are():
    made = coins(batch=None, steps=2)
    assert made.index[0, 1, :17].tolist() == list(range(2, 19))
    assert [made.private[1, c].expected for c in range(4)] == SIZES.tolist()
