# SPDX-License-Identifier: Apache-2.0
"""Private rows in a plan: its values, its tasks, its noise, and what attacks find."""

import math

import numpy as np
import pytest

from muster import Every, Local, PerExample, Plan, algorithms, optimizers
from muster.errors import PlanError
from muster.extras import require
from muster.keys import key
from muster.layout import Layout, TensorEntry
from muster.local import Group, train
from muster.plan.registry import assign, spelled, to_value
from muster.privacy import Secret, promise
from muster.privacy.audits import auc, epsilon_found, violates
from muster.privacy.gaussian import gaussian_epsilon
from muster.rounds import start
from muster.tasks import custom
from muster.tasks.numpy import LinearRegression, SoftmaxRegression
from muster.types import PrivateStep

RULE = PerExample(1.0, 1.1)
ONCE = Local(steps=1, examples=RULE)
NOBODY = Every(clients=0)


def batch_norm():
    nn = require("torch", "torch").nn
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


def batch_norm_without_statistics():
    nn = require("torch", "torch").nn
    norm = nn.BatchNorm1d(4, track_running_stats=False)
    return nn.Sequential(nn.Linear(4, 4), norm, nn.Linear(4, 3))


def instance_norm_with_statistics():
    nn = require("torch", "torch").nn
    norm = nn.InstanceNorm1d(3, track_running_stats=True)
    return nn.Sequential(nn.Unflatten(1, (3, 4)), norm, nn.Flatten(), nn.Linear(12, 3))


def group_norm():
    nn = require("torch", "torch").nn
    return nn.Sequential(nn.Linear(4, 4), nn.GroupNorm(2, 4), nn.Linear(4, 3))


def begin():
    return {"w": np.zeros(2)}


def fit(model, data, config):
    return model


def measure(model, data):
    return {"loss": 0.0}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((0.0, 1.0), r"PerExample\(clip=0.0\): a finite number above 0 is needed, such as 1.0"),
        ((math.inf, 1.0), "without a bound no noise hides a row"),
        ((1.0, 0.0), r"PerExample\(multiplier=0.0\).* without noise nothing is private"),
        ((1.0, math.nan), "multiplier=nan"),
        ((True, 1.0), "clip=True"),
        (("1", 1.0), "clip='1'"),
        ((1.0, 1.0, "fixed"), "use 'poisson', which makes a step more private, or 'shuffled'"),
    ],
)
def test_values_that_promise_nothing_are_refused(fields, message):
    with pytest.raises(PlanError, match=message):
        PerExample(*fields)


def test_metrics_are_hidden_or_public():
    assert not ONCE.reports
    assert Local(steps=1).reports
    assert Local(steps=1, examples=PerExample(1.0, 1.1, metrics="public")).reports
    with pytest.raises(PlanError, match=r"PerExample\(metrics='some'\): use 'hidden' or 'public'"):
        PerExample(1.0, 1.1, metrics="some")


def test_local_training_takes_no_other_rule():
    with pytest.raises(PlanError, match=r"Local\(examples=1.0\): that is no PerExample; give one"):
        Local(epochs=1, examples=1.0)


def test_a_task_without_row_gradients_is_refused():
    with pytest.raises(PlanError, match="a custom task does not show; use a numpy or torch task"):
        Plan(custom.Custom(begin, fit, measure), algorithms.FedAvg(), ONCE)


def test_a_jax_task_is_refused():
    room = pytest.importorskip("muster.tasks.jax")
    with pytest.raises(PlanError, match="gradient of each row, which a jax task does not show"):
        Plan(room.SoftmaxRegression(4, 3), algorithms.FedAvg(), ONCE)


@pytest.mark.parametrize(
    ("make", "layer"),
    [
        (batch_norm, "BatchNorm1d"),
        (batch_norm_without_statistics, "BatchNorm1d"),
        (instance_norm_with_statistics, "1.running_mean"),
    ],
)
def test_a_model_that_mixes_or_remembers_rows_is_refused(make, layer):
    room = pytest.importorskip("muster.tasks.torch")
    with pytest.raises(PlanError, match=rf"{layer} mixes rows or keeps .* put GroupNorm"):
        Plan(room.Classifier(make), algorithms.FedAvg(), ONCE)
    Plan(room.Classifier(group_norm), algorithms.FedAvg(), ONCE, evaluate=NOBODY)


def test_nothing_is_fused_and_the_plan_is_plain_data():
    plan = Plan(SoftmaxRegression(4, 3), algorithms.FedAvg(), ONCE, evaluate=NOBODY)
    assert not plan.fusible
    assert not plan.descent("fused").fused
    bare = Plan(SoftmaxRegression(4, 3), algorithms.FedAvg(), Local(steps=1), evaluate=NOBODY)
    assert bare.fusible
    assert assign(bare, "local.examples=PerExample(1.0, 1.1)").local == plan.local
    assert assign(plan, "local.examples.multiplier=2.0").local.examples.multiplier == 2.0
    assert "PerExample(clip=1.0, multiplier=1.1" in spelled(to_value(plan)["local"])


@pytest.mark.parametrize("source", [key(1), Secret(bytes(32))])
def test_noise_has_the_deviation_asked_for_and_spares_the_frozen(source):
    layout = Layout((TensorEntry("a", (200, 100)), TensorEntry("b", (50,))), "float32", ("b",))
    rule = PerExample(0.5, 3.0)
    alone, expected = rule.noise(PrivateStep(source.at(0), 7), layout)
    assert (alone.shape, alone.dtype, expected) == ((20_050,), np.float32, 7)
    assert alone[:20_000].std() == pytest.approx(1.5, rel=0.03)
    assert abs(alone[:20_000].mean()) < 4 * 1.5 / math.sqrt(20_000)
    assert (alone[20_000:] == 0).all()
    both = np.empty(2, object)
    both[0], both[1] = PrivateStep(source.at(0), 7), PrivateStep(source.at(1), 9)
    rows, share = rule.noise(both, layout)
    np.testing.assert_array_equal(rows[0, :20_000], alone[:20_000])
    assert abs(np.corrcoef(rows)[0, 1]) < 0.03
    assert share.tolist() == [[7], [9]]


D, N = 60, 20


def attack(rule, seed):
    """Minus the losses of members and of strangers with random labels, of an overfit model."""
    draw = np.random.default_rng(seed)
    x, y = draw.normal(size=(2 * N, D)), draw.integers(0, 2, 2 * N)
    task = SoftmaxRegression(D, 2)
    local = Local(steps=50, optimizer=optimizers.SGD(0.5), examples=rule)
    plan = Plan(task, algorithms.FedAvg(), local, seed=seed, dtype="float64", evaluate=NOBODY)
    group = Group(("a",), (1,), x[:N], y[:N], np.zeros(1, int), np.array([N]))
    out = train(plan, "loop", 1, start(plan).sent(), group)
    w = start(plan).algorithm.shared.x + out.payload["delta"][0] / N
    scores = [
        -plan.task.evaluate(w, None, x[i : i + 1], y[i : i + 1])["loss"] for i in range(2 * N)
    ]
    return np.array(scores[:N]), np.array(scores[N:])


def pooled(rule, runs=12):
    found = [attack(rule, seed) for seed in range(runs)]
    return np.concatenate([m for m, _ in found]), np.concatenate([o for _, o in found])


def test_membership_shows_in_an_overfit_model_and_not_in_a_private_one():
    bare = pooled(None)
    assert auc(*bare) > 0.9
    rule = PerExample(1.0, 20.0)
    spent = promise(Local(steps=50, examples=rule), N, 1, 1e-3)
    assert 0.8 < spent.epsilon < 1.5
    assert violates(*bare, spent.epsilon, 1e-3, -0.1)  # the attack has power
    hidden = pooled(rule)
    threshold = float(np.median(np.concatenate(hidden)))
    assert auc(*hidden) < 0.6
    assert not violates(*hidden, spent.epsilon, 1e-3, threshold)


def seen(rule, inside, run):
    """Return what one step on three rows tells, along the gradient of the strongest fourth."""
    x, y = np.zeros((4, 2)), np.zeros(4)
    x[3], y[3] = (3.0, 4.0), 1e6 * inside
    local = Local(steps=1, optimizer=optimizers.SGD(1.0), examples=rule)
    plan = Plan(
        LinearRegression(2),
        algorithms.FedAvg(),
        local,
        weighting="equal",
        dtype="float64",
        evaluate=NOBODY,
    )
    group = Group(("a",), (1,), x, y, np.zeros(1, int), np.array([4]))
    source = key(run).at(int(inside))
    out = train(plan, "loop", 1, start(plan).sent(), group, None, source)
    return out.payload["delta"][0] @ np.array([3.0, 4.0, 1.0]) / math.sqrt(26)


def test_the_strongest_attack_comes_close_to_the_bound_and_not_above():
    """Two data sets that differ in one extreme row, told apart by many trainings."""
    rule, delta, runs = PerExample(1.0, 1.0), 1e-2, 3000
    bound = promise(Local(steps=1, examples=rule), 4, 1, delta).epsilon
    assert bound == pytest.approx(gaussian_epsilon(delta, 1.0))
    members, others = (
        np.array([seen(rule, inside, run) for run in range(runs)]) for inside in (True, False)
    )
    threshold = 2.0 / 4  # in units of the sum, divided by the four rows expected
    found = epsilon_found(members, others, delta, threshold)
    assert 0.5 * bound < found <= bound
    half = promise(Local(steps=1, examples=PerExample(1.0, 2.0)), 4, 1, delta).epsilon
    assert violates(members, others, half, delta, threshold)  # half the noise would be noticed
