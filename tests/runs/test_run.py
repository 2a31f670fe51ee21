# SPDX-License-Identifier: Apache-2.0
"""A run read back: parameters, model, exports."""

import errno
import json

import numpy as np
import pytest
from safetensors.numpy import load_file

import muster
from muster import keys
from muster.errors import RunError
from muster.runs import Run, folder
from muster.store.sqlite import SQLiteStore


def test_exports_are_the_committed_run(train, plan):
    run = train()
    lines = (run.path / "history.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == run.history
    tensors = load_file(run.path / "model.safetensors")
    assert {name: t.shape for name, t in tensors.items()} == {
        "layers.0.weight": (5, 4),
        "layers.0.bias": (5,),
        "layers.1.weight": (3, 5),
        "layers.1.bias": (3,),
    }
    assert np.array_equal(plan.task.layout.flat(tensors), run.parameters)
    for name, array in run.model().items():
        assert np.array_equal(array, tensors[name])


def test_exports_are_made_again(train):
    run = train()
    kept = {name: (run.path / name).read_bytes() for name in ("history.jsonl", "model.safetensors")}
    for name in kept:
        (run.path / name).write_bytes(b"damage")
    run.export()
    assert {name: (run.path / name).read_bytes() for name in kept} == kept
    assert not list(run.path.glob("*.part"))


def test_an_export_that_cannot_be_written_leaves_the_old_one(train, monkeypatch):
    run = train()
    kept = (run.path / "model.safetensors").read_bytes()

    def full(part, path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folder.os, "replace", full)
    with pytest.raises(RunError, match="every committed round is safe"):
        run.export()
    assert (run.path / "model.safetensors").read_bytes() == kept
    assert not list(run.path.glob("*.part"))


def test_without_its_plan_a_run_has_a_history_but_no_model(train):
    run = Run(train().path)
    assert run.metrics == run.trained[-1]["metrics"]
    run.export()
    with pytest.raises(RunError, match=r"use Run\(path, plan\)"):
        run.model()


@pytest.mark.parametrize("share", ["layers.0.*", "!layers.1.bias", "!*"])
def test_private_parts_are_at_their_start(train, plan, share):
    run = train(share=share)
    start = plan.task.init(keys.key(plan.seed).at("init"))[0]
    before, after = (plan.task.layout.named(v) for v in (start, run.parameters))
    shared = {name for name in before if not np.array_equal(before[name], after[name])}
    wanted = {"layers.0.*": {"layers.0.weight", "layers.0.bias"}, "!*": set()}
    assert shared == wanted.get(share, set(before) - {"layers.1.bias"})
    assert load_file(run.path / "model.safetensors").keys() == shared  # what anybody can use
    assert run.buffers.shape == (0,)


def test_a_model_that_nobody_has_is_not_given_out(train, plan, people):
    run = train(share="layers.0.*", sampling=muster.sampling.Uniform(count=2), rounds=1)
    with pytest.raises(RunError, match=r"there is no one model; .* run.model\(client\)"):
        run.model()
    client, absent = (
        next(c for c in people.clients if (c in run.trained[0]["accepted"]) == there)
        for there in (True, False)
    )
    model = run.model(client)
    store = SQLiteStore(run.path, readonly=True)
    private = store.memory([client])[client]["private"]
    store.close()
    own = np.concatenate([model[name].ravel() for name in ("layers.1.weight", "layers.1.bias")])
    assert np.array_equal(own, private)
    assert np.array_equal(model["layers.0.weight"], shared_of(run)["layers.0.weight"])
    with pytest.raises(RunError, match="it never took part, or keeps them at its site"):
        run.model(absent)


def shared_of(run):
    return load_file(run.path / "model.safetensors")


def test_a_run_says_which_round_it_is_at(train):
    assert train(rounds=2).round == 2


def test_no_round_yet(tmp_path, plan):
    folder.SQLiteStore(tmp_path).close()
    run = Run(tmp_path, plan)
    run.export()
    assert run.history == [] and run.round == 0 and run.metrics == {} and run.measured == ""
    with pytest.raises(RunError, match="no committed round yet"):
        _ = run.parameters


def test_no_run(tmp_path):
    with pytest.raises(RunError, match="holds no run"):
        Run(tmp_path)
