# SPDX-License-Identifier: Apache-2.0
"""Runs of torch and JAX models: buffers, private parts, workers, resume and replay."""

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

import muster
from muster import algorithms, optimizers, sampling, tasks
from muster.runs.replay import replay


def network():
    torch = pytest.importorskip("torch")
    return torch.nn.Sequential(
        torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6), torch.nn.ReLU(), torch.nn.Linear(6, 3)
    )


def initial(key):
    return {"w": np.zeros((4, 3), "float32"), "b": np.zeros(3, "float32")}


def apply(params, x):
    return x @ params["w"] + params["b"]


def plan_of(framework):
    if framework == "torch":
        pytest.importorskip("torch")
        task = tasks.torch.Classifier(network)
    else:
        pytest.importorskip("jax")
        task = tasks.jax.Classifier(initial, apply)
    return muster.Plan(
        task=task,
        algorithm=algorithms.Scaffold(),
        local=muster.Local(steps=3, optimizer=optimizers.SGD(0.1)),
        sampling=sampling.Uniform(count=4),
        rounds=4,
    )


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_resumed_and_replayed(tmp_path, people, framework, workers):
    plan = plan_of(framework)
    rows = people.pooled()
    straight = muster.simulate(plan, people, rows, path=tmp_path / "straight")
    muster.simulate(replace(plan, rounds=2), people, rows, path=tmp_path / "parts")
    parts = muster.simulate(
        plan, people, rows, path=tmp_path / "parts", resume=True, workers=workers
    )
    for one, other in zip(parts.trained[2:], straight.trained[2:], strict=True):
        assert one["model"] == other["model"]
        assert one["metrics"] == other["metrics"]
    assert parts.buffers.tobytes() == straight.buffers.tobytes()
    assert replay(parts.path, plan, people).identical


@pytest.mark.parametrize("share", ["*", "!1.*"])
def test_buffers_of_the_model(tmp_path, people, share):
    plan = replace(plan_of("torch"), share=share)
    run = muster.simulate(plan, people, people.pooled(), path=tmp_path / "run")
    tensors = load_file(run.path / "model.safetensors")
    client = None if share == "*" else people.clients[0]
    model = run.model(client).state_dict()
    for name, tensor in tensors.items():
        assert np.array_equal(model[name].numpy(), tensor), name
    assert ("1.running_mean" in tensors) == (share == "*")  # else it is the client's own
    assert bool(model["1.running_mean"].any())
    assert not np.array_equal(tensors["0.weight"], network()[0].weight.detach().numpy())
