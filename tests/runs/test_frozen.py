# SPDX-License-Identifier: Apache-2.0
"""Tensors that nobody trains: never sent up, clipped, noised or kept by clients, yet in the model.

A pretrained body under private training used to be noised to nothing, and kept twice by each
client where it was not shared.
"""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import muster
from muster import aggregation, algorithms, keys, optimizers, pipeline, rounds, sampling
from muster.errors import PlanError
from muster.federation.protocol.codec_tensors import encode
from muster.federation.protocol.frozen import digest_of, once, without
from muster.federation.protocol.template import (
    frozen_template,
    sent_template,
    update_template,
)
from muster.federation.site.training import Training
from muster.local import Group, train
from muster.vectors import leaves

torch = pytest.importorskip("torch")
nn = pytest.importorskip("torch.nn")
from muster.tasks import torch as tasks  # noqa: E402

HEAD = 2 * 8 + 2


class Net(nn.Module):
    """A frozen body and a head."""

    width = 8

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, self.width).requires_grad_(False)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.body(x)[:, :8].relu())


class Spare(Net):
    """With a frozen tensor that nothing reads."""

    value = 0.0

    def __init__(self):
        super().__init__()
        self.spare = nn.Parameter(torch.full((3,), self.value), requires_grad=False)


class Ones(Spare):
    value = 1.0


class Wide(Net):
    width = 20_000


class Shuffled(Net):
    """Another part is frozen at each call."""

    calls = 0

    def __init__(self):
        super().__init__()
        Shuffled.calls += 1
        self.head.requires_grad_(Shuffled.calls % 2 == 0)


def still():
    return Net().requires_grad_(False)


def rows(seed, n=16):
    x = np.random.default_rng(seed).standard_normal((n, 4), dtype=np.float32)
    return x, (x[:, 0] > 0).astype(int)


PEOPLE = muster.Population.from_arrays({i: rows(i) for i in range(12)})
LOCAL = muster.Local(epochs=1, batch=8, optimizer=optimizers.SGD(0.05))


def planned(model=Net, algorithm=None, **fields):
    given = {"local": LOCAL, "rounds": 2}
    task = tasks.Classifier(model)
    return muster.Plan(task=task, algorithm=algorithm or algorithms.FedAvg(), **given | fields)


NOISED = planned(
    weighting="equal",
    sampling=sampling.Poisson(0.5),
    aggregation=aggregation.Mean("expected"),
    pipeline=[pipeline.Clip(1.0), pipeline.Noise(1.0)],
)


def begun(plan):
    return plan.task.init(keys.key(plan.seed).at("init"))[0]


@pytest.mark.parametrize("engine", ["loop", "matrix"])
@pytest.mark.parametrize(
    "plan",
    [
        NOISED,
        planned(algorithm=algorithms.Scaffold()),
        planned(algorithm=algorithms.FedProx(0.1)),
        planned(share="!head.bias"),
        planned(local=replace(LOCAL, optimizer=optimizers.Adam(0.01))),
        planned(weighting="equal", pipeline=[pipeline.Clip(1.0), pipeline.Quantize(8)]),
    ],
    ids=lambda plan: f"{type(plan.algorithm).__name__} {plan.share} {len(plan.pipeline)}",
)
def test_what_nobody_trains_stays_as_it_was_and_is_in_the_model(plan, engine, tmp_path):
    run = muster.simulate(plan, PEOPLE, rows(99), path=tmp_path, engine=engine)
    moved = plan.task.layout.named(run.parameters - begun(plan))
    assert not moved["body.weight"].any() and not moved["body.bias"].any()
    assert moved["head.weight"].any()
    private = plan.sharing.private
    model = run.model(PEOPLE.clients[0] if private else None)
    body = dict(model.named_parameters())["body.weight"].detach().numpy()
    assert np.array_equal(body, plan.task.layout.named(begun(plan))["body.weight"])
    if private:  # nobody has the one model: see tests/runs/test_measure.py
        return
    said = plan.task.evaluate(run.parameters, run.buffers, *rows(99))
    assert run.metrics["loss"] == pytest.approx(said["loss"] / said["rows"], rel=1e-6)


def test_an_update_holds_what_is_trained_and_nothing_else():
    plan = planned()
    assert plan.upload_bytes() == 4 * HEAD
    assert update_template(plan)["payload"]["delta"].shape == (HEAD,)
    assert sent_template(plan).frozen.shape == (32,)  # the digest of what is sent once
    assert frozen_template(plan)["frozen"].shape == (plan.task.layout.size - HEAD,)
    assert frozen_template(plan)["frozen"].strides == (0,)
    assert planned(pipeline=[pipeline.Clip(1.0)]).stages.contracts[0].fields[0].size == HEAD


def test_a_record_counts_what_nobody_trains_once_for_each_client(tmp_path):
    plan = planned(sampling=sampling.Uniform(count=4), rounds=6)
    body = 4 * (plan.task.layout.size - HEAD)
    run = muster.simulate(plan, PEOPLE, path=tmp_path / "whole")
    seen, wanted = set(), [0]
    for record in run.trained:
        new = {*record["invited"]} - seen
        wanted.append(4 * HEAD * 4 + body * len(new))
        seen |= new
    assert [record["bytes_down"] for record in run.history] == wanted
    assert len(set(wanted)) > 2 and sum(wanted) == 6 * 4 * 4 * HEAD + body * len(seen)
    muster.simulate(replace(plan, rounds=3), PEOPLE, path=tmp_path / "part")
    again = muster.simulate(plan, PEOPLE, path=tmp_path / "part", resume=True)
    assert [record["bytes_down"] for record in again.history] == wanted


def test_clients_keep_no_copy_of_the_body(tmp_path):
    held = {}
    for model in (Net, Wide):
        path = tmp_path / model.__name__
        run = muster.simulate(planned(model, share="head.weight"), PEOPLE, path=path)
        files = sum(f.stat().st_size for f in Path(run.path).rglob("*") if f.is_file())
        held[model] = files / (4 * run.parameters.size)
    # The server's own state and the exported model, whatever the number of clients.
    assert held[Wide] < 4
    assert not planned(share="head*").remembers and not planned(share="*").remembers


def test_share_may_name_a_frozen_tensor_which_then_is_just_frozen():
    plan = planned(share="body.*")
    assert plan.sharing.size == 0 and plan.upload_bytes() == 0
    assert plan.fresh_memory(begun(plan), np.zeros(0, "f4")).private.shape == (HEAD,)


def test_a_site_and_a_simulation_train_and_measure_the_same():
    plan = planned(share="!head.bias")
    sent, (x, y) = rounds.start(plan).sent(), rows(3)
    memory = (plan.fresh_memory(begun(plan), np.zeros(0, "f4")),)
    group = Group((3,), (1,), x, y, np.zeros(1, int), np.array([16]), memory)
    there = train(plan, "loop", 1, sent, group)
    site = Training(plan, (x, y))
    body = b"".join(encode(without(sent, digest_of(sent.frozen))))
    assert site.frozen_in(body) == digest_of(sent.frozen)
    told = site.measure(body, None, still=b"".join(encode(once(sent.frozen))))
    here = plan.task.evaluate(begun(plan), np.zeros(0, "f4"), x, y, plan.measured)
    assert told == here | {"held out": 0.0}
    assert there.payload["delta"].shape == (1, HEAD - 2)
    assert there.memories[0].private.shape == (2,)


def test_a_resumed_run_and_workers_have_the_same_bits(tmp_path):
    plan = planned(algorithm=algorithms.Scaffold(), rounds=4)
    whole = muster.simulate(plan, PEOPLE, path=tmp_path / "whole")
    muster.simulate(replace(plan, rounds=2), PEOPLE, path=tmp_path / "two")
    again = muster.simulate(plan, PEOPLE, path=tmp_path / "two", resume=True)
    many = muster.simulate(plan, PEOPLE, path=tmp_path / "many", workers=2)
    assert np.array_equal(whole.parameters, again.parameters)
    assert np.array_equal(whole.parameters, many.parameters)


def test_the_record_s_digest_of_the_model_covers_what_is_frozen(tmp_path):
    run, other = (
        muster.simulate(planned(model, rounds=1), PEOPLE, rows(9), path=tmp_path / model.__name__)
        for model in (Spare, Ones)
    )
    heads = [r.plan.task.layout.named(r.parameters)["head.weight"] for r in (run, other)]
    assert np.array_equal(*heads)
    assert run.trained[-1]["model"] != other.trained[-1]["model"]


def test_a_model_of_which_nothing_is_trained_is_refused():
    with pytest.raises(PlanError, match=r"every tensor .* requires_grad=False, .*leave it True"):
        planned(still)


def test_a_model_that_freezes_other_tensors_at_each_call_is_refused():
    task = tasks.Classifier(Shuffled)
    with pytest.raises(PlanError, match=r"head\.(weight|bias) is trained in one and frozen"):
        [task.build() for _ in range(2)]


def test_a_plan_without_frozen_tensors_sends_what_it_always_sent():
    plan = muster.Plan(
        task=muster.tasks.numpy.SoftmaxRegression(4, 2), algorithm=algorithms.FedAvg(), local=LOCAL
    )
    assert [name for name, _ in leaves(rounds.start(plan).sent())] == ["algorithm.x", "buffers"]
    assert pickle.loads(pickle.dumps(plan)) == plan
