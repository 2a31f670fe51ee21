# SPDX-License-Identifier: Apache-2.0
"""Local training against loops written by hand, on a task that pulls w to the mean of its rows."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from muster import Local, Plan, algorithms, keys, optimizers, pipeline, schedules
from muster.batches import fold
from muster.errors import ClientError, PlanError
from muster.layout import Layout, TensorEntry
from muster.local import Descent, Group, Memory, train
from muster.metrics.head import OutputHead
from muster.rounds import start
from muster.types import TaskTraits


@dataclass(frozen=True)
class Pull:
    """½‖w − row‖² averaged over rows; one buffer counts the steps."""

    dtype: str = "float64"
    framework = "numpy"
    traits = TaskTraits()
    head = OutputHead("none")
    draws = False
    engines = ("loop", "matrix")

    @property
    def layout(self):
        entries = (
            TensorEntry("body", (2,)),
            TensorEntry("head", (1,)),
            TensorEntry("seen", (1,), "buffer"),
        )
        return Layout(entries, self.dtype)

    def astype(self, dtype):
        return replace(self, dtype=dtype)

    def init(self, key):
        return np.array([1.0, -1.0, 0.5], self.dtype), np.zeros(1, self.dtype)

    def arrays(self, tree):
        return tree

    def numpy(self, tree):
        return tree

    def gradient(self, w, buffers, batch):
        x = batch.x
        share = np.full(x.shape[:-1], 1 / x.shape[-2]) if batch.scale is None else batch.scale
        loss = 0.5 * (share[..., None] * (w[..., None, :] - x) ** 2).sum((-1, -2))
        return w - (share[..., None] * x).sum(-2), loss, buffers + 1

    def loop(self, step, carry, batches):
        return fold(step, carry, batches)

    def run(self, descent, given, carry, batches):
        return descent.walk(given, carry, batches)


SIZES = (2, 7, 4, 1)


def group(memories=None, times=(1, 1, 1, 1)):
    x = np.random.default_rng(0).normal(size=(sum(SIZES), 3))
    starts = np.cumsum([0, *SIZES[:-1]])
    return Group(("a", "b", "c", "d"), times, x, x[:, 0], starts, np.array(SIZES), memories)


def plan(algorithm=None, local=None, **fields):
    local = local or Local(epochs=2, batch=3, optimizer=optimizers.SGD(0.2))
    return Plan(Pull(), algorithm or algorithms.FedAvg(), local, dtype="float64", **fields)


def blank(plan):
    return plan.fresh_memory(*plan.task.init(None)) if plan.remembers else None


def outcome(plan, engine="matrix", round=2, sent=None, memories=None, **fields):
    memories = memories or (blank(plan) and (blank(plan),) * 4)
    return train(plan, engine, round, sent or start(plan).sent(), group(memories, **fields))


def by_hand(plan, client, round=2, bend=lambda g, w: g):
    """w of one client, its number of steps and its mean loss, from the documented batch order."""
    i = "abcd".index(client)
    whole = next(part for j, part in enumerate(group().alone()) if j == i)
    n, local, w = SIZES[i], plan.local, plan.task.init(None)[0]
    width = local.batch or n
    per_epoch = -(-n // width)
    steps = local.steps or local.epochs * per_epoch
    key = keys.key(plan.seed).at("train", round)
    walks = keys.order(key, keys.numbers([client]), [n], -(-steps // per_epoch))[0]
    rate = local.optimizer.rate * local.schedule.factor(round)
    v, losses = np.zeros(3), []
    for t in range(steps):
        epoch, turn = divmod(t, per_epoch)
        chosen = walks[epoch][:n][turn * width : (turn + 1) * width] if local.batch else slice(None)
        rows = whole.x[chosen]
        losses.append(0.5 * ((w - rows) ** 2).sum(1).mean())
        v = getattr(local.optimizer, "beta", 0.0) * v + bend(w - rows.mean(0), w)
        w = w - rate * v
    return w, steps, np.mean(losses)


LOCALS = [
    Local(epochs=2, batch=3, optimizer=optimizers.SGD(0.2)),
    Local(epochs=3, optimizer=optimizers.SGD(0.2)),
    Local(epochs=1, batch=1, optimizer=optimizers.SGD(0.2)),
    Local(steps=5, batch=3, optimizer=optimizers.SGD(0.2)),
    Local(epochs=2, batch=3, optimizer=optimizers.Momentum(0.2, 0.7)),
    Local(epochs=2, batch=2, optimizer=optimizers.SGD(0.4), schedule=schedules.Exponential(0.5)),
]


@pytest.mark.parametrize("local", LOCALS, ids=str)
def test_every_client_descends_as_a_loop_by_hand(local):
    made = plan(local=local, weighting="equal")
    result = outcome(made)
    for i, client in enumerate(result.clients):
        w, steps, loss = by_hand(made, client)
        np.testing.assert_allclose(result.payload["delta"][i], w - [1, -1, 0.5], atol=1e-13)
        assert result.metrics["steps"][i] == steps
        assert result.metrics["loss"][i] == pytest.approx(loss * SIZES[i])
        assert result.metrics["drift"][i] == pytest.approx(((w - [1, -1, 0.5]) ** 2).sum())
        assert result.buffers[i].tolist() == [steps]


@pytest.mark.parametrize("name", ["FedAvg", "FedProx", "Scaffold", "FedNova", "FedDyn"])
def test_a_matrix_is_its_clients_one_by_one(name):
    made = plan(getattr(algorithms, name)(), weighting="equal")
    together = outcome(made)
    kept = blank(made) and (blank(made),) * 4
    for i, alone in enumerate(group(kept).alone()):
        one = train(made, "loop", 2, start(made).sent(), alone)
        for field, rows in together.payload.items():
            np.testing.assert_allclose(rows[i], one.payload[field][0], atol=1e-14)
        for metric, values in together.metrics.items():
            np.testing.assert_allclose(values[i], one.metrics[metric][0])
        if kept:
            mine = together.memories[i].algorithm, one.memories[0].algorithm
            np.testing.assert_allclose(*mine, atol=1e-14)


def test_a_bent_gradient_is_what_is_followed():
    made = plan(algorithms.FedProx(mu=0.5), weighting="equal")
    x = made.task.init(None)[0]
    w, *_ = by_hand(made, "b", bend=lambda g, w: g + 0.5 * (w - x))
    np.testing.assert_allclose(outcome(made).payload["delta"][1], w - x, atol=1e-14)


def test_updates_are_weighted_by_rows_capped_and_times_drawn():
    bare = outcome(plan(weighting="equal")).payload["delta"]
    weighted = outcome(plan(cap=4), times=(1, 2, 1, 3))
    assert weighted.weights.tolist() == [2, 8, 4, 3]
    np.testing.assert_allclose(weighted.payload["delta"], bare * [[2], [8], [4], [3]])


@pytest.mark.parametrize(
    ("algorithm", "local", "field", "expected"),
    [
        (
            algorithms.FedNova(),
            Local(epochs=2, batch=3, optimizer=optimizers.SGD(0.2)),
            "norm",
            [2, 6, 4, 2],
        ),
        (
            algorithms.FedNova(),
            Local(steps=2, optimizer=optimizers.Momentum(0.2, 0.5)),
            "norm",
            [2.5] * 4,
        ),
    ],
)
def test_work_counts_steps_and_their_weights(algorithm, local, field, expected):
    result = outcome(plan(algorithm, local, weighting="equal"))
    np.testing.assert_allclose(result.payload[field][:, 0], expected)


def test_minus_the_gradient_travels_whatever_the_scheduled_rate():
    local = Local(steps=1, optimizer=optimizers.SGD(0.3), schedule=schedules.Exponential(0.1))
    made = plan(algorithms.FedSGD(), local, weighting="equal")
    means = np.stack([part.x.mean(0) for part in group().alone()])
    np.testing.assert_allclose(outcome(made).payload["delta"], means - [1, -1, 0.5])


def test_private_parts_train_on_the_client_and_never_travel():
    made = plan(share="body", weighting="equal")
    private = [Memory(None, (), np.array([float(i)]), np.array([10.0 * i])) for i in range(4)]
    result = outcome(made, memories=tuple(private))
    assert result.payload["delta"].shape == (4, 2)
    assert result.buffers.shape == (4, 0)
    everywhere = outcome(plan(weighting="equal"))
    np.testing.assert_allclose(result.payload["delta"], everywhere.payload["delta"][:, :2])
    for i, (memory, steps) in enumerate(zip(result.memories, (2, 6, 4, 2), strict=True)):
        assert memory.buffers.tolist() == [10.0 * i + steps]
    for i in (0, 3):  # one batch an epoch: two full steps towards the mean of the own rows
        mean = group().x[[0, 1] if i == 0 else [13], 2].mean()
        assert result.memories[i].private[0] == pytest.approx(mean + 0.8**2 * (i - mean))


def test_sharing_nothing_trains_locally():
    result = outcome(plan(share="!*", weighting="equal"))
    assert result.payload["delta"].shape == (4, 0)
    full = outcome(plan(weighting="equal")).payload["delta"] + [1, -1, 0.5]
    np.testing.assert_allclose([memory.private for memory in result.memories], full)


def test_nothing_that_was_sent_is_written_to():
    made = plan(algorithms.Scaffold())
    sent = start(made).sent()
    before = sent.algorithm.x.copy(), sent.buffers.copy()
    outcome(made, sent=sent)
    np.testing.assert_array_equal(sent.algorithm.x, before[0])
    np.testing.assert_array_equal(sent.buffers, before[1])


def test_memory_goes_round():
    """SCAFFOLD's c_k and an error of rounding come back as the rows that were kept."""
    stages = [pipeline.Clip(9.0), pipeline.Quantize(4, feedback=True)]
    made = plan(algorithms.Scaffold(), pipeline=stages, weighting="equal")
    first = outcome(made)
    second = outcome(made, round=3, memories=first.memories)
    assert second.memories[1].algorithm.shape == (3,)
    assert set(second.memories[1].stages[1]) == {"delta", "control"}
    swapped = outcome(made, round=3, memories=first.memories[::-1])
    assert (second.payload["delta"] != swapped.payload["delta"]).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_update_that_is_not_finite_names_round_and_client(bad):
    broken = group()
    broken.x[4] = bad  # a row of b
    made = plan(pipeline=[pipeline.Clip(1.0)])
    with (
        np.errstate(invalid="ignore"),
        pytest.raises(ClientError, match=r"'b' failed in round 7 at stage 'report': its delta"),
    ):
        train(made, "matrix", 7, start(made).sent(), broken)
    rest = broken.without("b")
    assert train(made, "matrix", 7, start(made).sent(), rest).clients == ("a", "c", "d")


def test_a_pass_may_train_some_coordinates_only():
    """As FedRep would: a mask over the layout holds the rest still."""
    made = plan()
    head = made.task.layout.sharing("head")
    descent = Descent(made.task, made.algorithm, made.local.optimizer, made.sharing, trained=head)
    g = descent._bend(np.ones((2, 3)), np.zeros((2, 3)), None, None)
    assert g.tolist() == [[0, 0, 1], [0, 0, 1]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, r"give exactly one of epochs and steps, such as Local\(epochs=1, batch=32\)"),
        ({"epochs": 1, "steps": 1}, "give exactly one of epochs and steps"),
        ({"epochs": 0}, r"Local\(epochs=0\): epochs must be a whole number above 0"),
        ({"epochs": 1.5}, "epochs must be a whole number above 0"),
        ({"steps": -2}, "steps must be a whole number above 0"),
        ({"epochs": 1, "batch": 0}, "batch must be a whole number above 0"),
        ({"epochs": 1, "batch": 2.5}, "batch must be a whole number above 0"),
        ({"epochs": 1, "optimizer": 0.1}, r"optimizer=0.1\): that is no Optimizer; give one"),
        ({"epochs": 1, "optimizer": optimizers.SGD}, "that is the class of an Optimizer; give one"),
        ({"epochs": 1, "schedule": 0.9}, "that is no Schedule"),
    ],
)
def test_impossible_local_training_is_refused(fields, message):
    with pytest.raises(PlanError, match=message):
        Local(**fields)


def test_a_walk_takes_the_steps_in_place_of_the_task():
    taken = []

    def walk(descent, given, carry, batches):
        for start_ in range(0, len(batches), 2):
            taken.append(start_)
            carry = descent.task.run(descent, given, carry, batches.steps(start_, start_ + 2))
        return carry

    chosen, sent, one = plan(), start(plan()).sent(), list(group().alone())[1]
    plainly = train(chosen, "loop", 2, sent, one)
    walked = train(chosen, "loop", 2, sent, one, walk)
    assert taken == [0, 2, 4]
    np.testing.assert_array_equal(walked.payload["delta"], plainly.payload["delta"])
    np.testing.assert_array_equal(walked.metrics["loss"], plainly.metrics["loss"])
