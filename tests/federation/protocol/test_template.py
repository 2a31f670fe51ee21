# SPDX-License-Identifier: Apache-2.0
"""Templates say exactly what travels, whatever the algorithm, the stages and what is shared."""

import numpy as np
import pytest

import muster
from muster import algorithms, keys, optimizers, pipeline, tasks
from muster.federation.protocol.template import sent_template, update_template
from muster.local import Group, train
from muster.rounds import start
from muster.vectors import leaves

torch = pytest.importorskip("torch")


def make_bn():
    """A model with parameters and buffers."""
    return torch.nn.Sequential(
        torch.nn.Linear(5, 6), torch.nn.BatchNorm1d(6), torch.nn.ReLU(), torch.nn.Linear(6, 3)
    )


MLP, BN = tasks.numpy.MLP([5, 6, 3]), tasks.torch.Classifier(make_bn)
STAGES = {
    "none": [],
    "adaptive": [pipeline.AdaptiveClip()],
    "quantized": [pipeline.Clip(1.0), pipeline.Quantize(8, feedback=True)],
    "both": [pipeline.AdaptiveClip(), pipeline.Quantize(12, range=2.0)],
}
SHARES = {"all": (MLP, "*"), "some": (MLP, "layers.0.*"), "bn": (BN, "*"), "fedbn": (BN, "!1.*")}


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("stages", STAGES)
@pytest.mark.parametrize("name", ["FedAvg", "FedProx", "Scaffold", "FedNova", "FedDyn"])
def test_templates_are_those_of_a_real_round(name, stages, share):
    settings = {"FedProx": {"mu": 0.1}, "FedDyn": {"alpha": 0.1}}
    task, shared = SHARES[share]
    plan = muster.Plan(
        task,
        getattr(algorithms, name)(**settings.get(name, {})),
        muster.Local(epochs=1, batch=4, optimizer=optimizers.SGD(0.1)),
        pipeline=STAGES[stages],
        share=shared,
        weighting="equal",
        dtype="float32",
    )
    sent = start(plan).sent()
    assert specs(sent_template(plan)) == specs(sent)
    blank = plan.fresh_memory(*plan.task.init(keys.key(plan.seed).at("init")))
    known = (blank,) if plan.remembers else None
    draw = np.random.default_rng(0)
    data = draw.normal(size=(8, 5)).astype("float32"), draw.integers(0, 3, 8)
    group = Group(("a",), (1,), *data, np.zeros(1, int), np.array([8]), known)
    outcome = train(plan, "loop", 1, sent, group)
    update = {"payload": {k: v[0] for k, v in outcome.payload.items()}}
    update["buffers"] = outcome.buffers[0]
    assert specs(update_template(plan)) == specs(update)


def specs(tree):
    """Names, dtypes and shapes."""
    return {name: (np.asarray(a).dtype, np.asarray(a).shape) for name, a in leaves(tree)}


def test_templates_take_no_room():
    plan = muster.Plan(
        tasks.numpy.SoftmaxRegression(1000, 10), algorithms.FedAvg(), muster.Local(1)
    )
    for _, leaf in leaves((sent_template(plan), update_template(plan))):
        assert leaf.strides == (0,) * leaf.ndim
