# SPDX-License-Identifier: Apache-2.0
"""Baselines of federation, against loops written out."""

from dataclasses import replace

import numpy as np

import muster
from muster import algorithms, keys
from muster.runs import Options
from muster.runs.baselines import baselines
from muster.store import SQLiteStore


def private(run, people):
    store = SQLiteStore(run.path, readonly=True)
    try:
        return {client: m["private"] for client, m in store.memory(people.clients).items()}
    finally:
        store.close()


def test_centralized_is_the_pooled_loop(tmp_path, plan, people):
    full = replace(plan, local=muster.Local(steps=3, optimizer=muster.optimizers.SGD(0.2)))
    run = baselines(full, people, people.pooled(), tmp_path)["centralized"]
    task, batch = full.task, muster.types.Batch(*people.pooled())
    w, buffers = task.init(keys.key(full.seed).at("init"))
    for _ in range(full.rounds * 3):
        w = w - np.float32(0.2) * task.gradient(w, buffers, batch)[0]
    np.testing.assert_allclose(run.parameters, w, rtol=1e-4, atol=1e-6)
    assert run.trained[-1]["clients"]["count"] == len(people)
    sums = task.evaluate(run.parameters, buffers, *people.pooled())
    assert run.metrics["loss"] == sums["loss"] / sums["rows"]


def test_local_is_each_alone(tmp_path, plan, people):
    run = baselines(plan, people, people.pooled(), tmp_path, Options(engine="loop"))["local"]
    found = private(run, people)
    assert found.keys() == set(people.clients)
    plain = replace(plan, algorithm=algorithms.FedAvg(), share="!*", sampling=muster.sampling.All())
    for client in people.clients[:4]:
        alone = muster.simulate(
            plain, people.only([client]), path=tmp_path / str(client), engine="loop"
        )
        assert private(alone, people)[client].tobytes() == found[client].tobytes()


def test_share_nothing_is_local_only(tmp_path, plan, people):
    run = baselines(plan, people, None, tmp_path)["local"]
    nothing = replace(
        plan, algorithm=algorithms.FedAvg(), share="!*", sampling=muster.sampling.All()
    )
    other = muster.simulate(nothing, people, path=tmp_path / "nothing")
    one, two = (private(r, people) for r in (run, other))
    assert {c: v.tobytes() for c, v in one.items()} == {c: v.tobytes() for c, v in two.items()}


def test_the_metrics_of_local_models_are_their_means(tmp_path, plan, people):
    run = baselines(plan, people, people.pooled(), tmp_path)["local"]
    task, rows = plan.task, people.pooled()
    sums = [task.evaluate(w, np.zeros(0), *rows) for w in private(run, people).values()]
    mean = np.mean([s["loss"] / s["rows"] for s in sums])
    assert np.isclose(run.metrics["loss"], mean, rtol=1e-12)


def test_baselines_resume(tmp_path, plan, people):
    def watch(record):
        if record["round"] == 2:
            raise KeyboardInterrupt

    for _ in range(2):
        try:
            baselines(plan, people, None, tmp_path / "parts", Options(watch=watch))
        except KeyboardInterrupt:
            continue
    parts = baselines(plan, people, None, tmp_path / "parts")
    straight = baselines(plan, people, None, tmp_path / "straight")
    for name in ("centralized", "local"):
        assert parts[name].trained[-1]["model"] == straight[name].trained[-1]["model"]
        assert len(parts[name].trained) == plan.rounds
    one, two = (private(r["local"], people) for r in (parts, straight))
    assert {c: v.tobytes() for c, v in one.items()} == {c: v.tobytes() for c, v in two.items()}
