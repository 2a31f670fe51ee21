# SPDX-License-Identifier: Apache-2.0
"""A version that is kept is what a run of so many rounds ends with, bit for bit."""

import json
import math

import numpy as np
import pytest
from safetensors.numpy import load_file

import muster
from muster import Keep, algorithms, metrics, optimizers, sampling, tasks
from muster.errors import PlanError, RunError
from muster.runs.replay import replay
from muster.runs.run import Run
from muster.store import sqlite
from muster.store.sqlite import SQLiteStore

ROUNDS = 7
LOCAL = muster.Local(epochs=1, batch=8, optimizer=optimizers.SGD(0.3))


def people():
    draw = np.random.default_rng(5)
    rows = {}
    for i in range(8):
        x = draw.normal(size=(6 + 2 * i, 5)).astype("float32")
        rows[f"c{i}"] = x, (x[:, 0] + x[:, 1] > 0).astype(int) + (x[:, 2] > 1)
    return muster.Population.from_arrays(rows)


def plan(**fields):
    return muster.Plan(
        **{
            "task": tasks.numpy.MLP([5, 6, 3]),
            "algorithm": algorithms.Scaffold(),
            "local": LOCAL,
            "sampling": sampling.Uniform(count=3),
            "rounds": ROUNDS,
            **fields,
        }
    )


def train(path, made, **more):
    return muster.simulate(made, people(), people().pooled(), path=path, **more)


def bits(version):
    return {name: np.asarray(array).tobytes() for name, array in version.arrays.items()}


@pytest.fixture(params=[False, True], ids=["rows", "files"])
def large(request, monkeypatch):
    monkeypatch.setattr(sqlite, "LARGE", 1 if request.param else 1 << 30)
    return request.param


def test_every_version_is_the_end_of_a_run_of_so_many_rounds(tmp_path, large):
    run = train(tmp_path / "run", plan(keep=Keep(every=1)))
    assert run.rounds_kept == list(range(ROUNDS + 1))
    assert len(list(run.path.glob("state-*"))) == (ROUNDS + 1 if large else 0)
    for round in range(1, ROUNDS + 1):
        alone = train(tmp_path / str(round), plan(rounds=round))
        version = run.at(round)
        assert bits(version) == bits(alone.last)
        assert version.metrics == alone.metrics and version.record["accepted"]
        assert version.measured == alone.measured == "central test rows"
        ours, theirs = version.model(), alone.model()
        assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    assert replay(run.path, run.plan, people()).identical


def test_what_clients_kept_is_that_of_the_version(tmp_path):
    made = plan(algorithm=algorithms.FedAvg(), share="layers.0.*")
    run = train(tmp_path / "run", muster.Plan(**{**vars_of(made), "keep": Keep(every=3)}))
    assert run.rounds_kept == [0, 3, 6, 7]
    alone = train(tmp_path / "alone", muster.Plan(**{**vars_of(made), "rounds": 3}))
    there = [c for c in people().clients if any(c in r["accepted"] for r in alone.trained)]
    assert 0 < len(there) < len(people())
    for client in people().clients:
        if client not in there:
            with pytest.raises(RunError, match=f"client {client!r} as of round 3 are not in"):
                run.at(3).model(client)
            continue
        ours, theirs = run.at(3).model(client), alone.model(client)
        assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def vars_of(made):
    return {name: getattr(made, name) for name in type(made).__dataclass_fields__}


def test_version_0_is_a_record_and_a_commit_like_any_other(tmp_path):
    run = train(tmp_path / "run", plan(keep=Keep("accuracy", every=4)))
    first = run.history[0]
    assert (first["round"], first["invited"], first["accepted"], first["abandoned"]) == (
        0,
        [],
        [],
        False,
    )
    made = plan().task
    w, _ = made.init(muster.keys.key(0).at("init"))
    assert np.array_equal(run.at(0).parameters, w)
    right = run.at(0).parameters  # what it was measured to be is what the task itself measures
    sums = made.evaluate(right, run.at(0).buffers, *people().pooled(), plan().measured)
    assert first["metrics"] == metrics.sums.values(plan().measured, sums)
    assert [record["round"] for record in run.trained] == list(range(1, ROUNDS + 1))
    assert run.round == ROUNDS and len(run.history) == ROUNDS + 1
    lines = (run.path / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == list(range(ROUNDS + 1))


def test_what_is_best_and_what_is_kept(tmp_path):
    run = train(tmp_path / "run", plan(keep=Keep("accuracy", every=4)))
    accuracy = [record["metrics"]["accuracy"] for record in run.history]
    top = accuracy.index(max(accuracy))
    assert set(run.rounds_kept) == {0, 4, ROUNDS, top}
    assert run.best.round == top and run.best.metrics["accuracy"] == max(accuracy)
    assert Run(run.path).best.round == top, "known without the plan, too"
    for version in set(range(ROUNDS + 3)) - set(run.rounds_kept):
        with pytest.raises(RunError, match=rf"no model of round {version}; it keeps those of: 0, "):
            run.at(version)
    loss = [record["metrics"]["loss"] for record in run.history]
    other = train(tmp_path / "loss", plan(keep=Keep("loss")))
    assert other.best.round == loss.index(min(loss))
    assert set(other.rounds_kept) == {other.best.round, ROUNDS}


def test_without_a_word_the_last_alone_is_kept(tmp_path, large):
    run = train(tmp_path / "run", plan())
    assert run.rounds_kept == [ROUNDS] and run.last.round == ROUNDS
    assert len(list(run.path.glob("state-*"))) == large
    with pytest.raises(RunError, match=r"was not told what its best model is; .*keep=muster\.Keep"):
        _ = run.best
    assert bits(run.at(ROUNDS)) == bits(run.last)
    assert load_file(run.path / "model.safetensors").keys() == run.model().keys()


def test_what_stays_may_change_on_resume_and_what_is_gone_is_gone(tmp_path):
    path = tmp_path / "run"
    train(path, plan(rounds=3))
    run = train(path, plan(rounds=6, keep=Keep("loss", every=2)), resume=True)
    loss = {record["round"]: record["metrics"]["loss"] for record in run.history}
    there = [3, 4, 5, 6]
    assert set(run.rounds_kept) == {4, 6, min(there, key=loss.get)}
    run = train(path, plan(), resume=True)
    assert run.rounds_kept == [ROUNDS]
    assert bits(run.last) == bits(train(tmp_path / "straight", plan()).last)


def test_a_value_that_is_none_is_never_the_best(tmp_path):
    run = train(tmp_path / "run", plan(keep=Keep("accuracy")))
    for record in run.history:
        record["metrics"]["accuracy"] = math.nan
    with pytest.raises(RunError, match="keeps has a value of 'accuracy'"):
        _ = run.best


def test_best_by_what_nobody_measures_is_refused(tmp_path):
    with pytest.raises(PlanError, match=r"keep=Keep\(best='loss', every=None\)\) reads metrics"):
        muster.simulate(plan(keep=Keep("loss")), people(), path=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_of_before_is_read_and_goes_on(tmp_path):
    """A folder whose database has no room for versions: that of an older release."""
    path = tmp_path / "run"
    train(path, plan(rounds=2))
    store = SQLiteStore(path)
    for table in ("versions", "superseded"):
        store._db.execute(f"DROP TABLE {table}")
    store._db.execute("UPDATE meta SET value='1' WHERE key='schema'")
    store._db.execute("DELETE FROM rounds WHERE round=0")
    store.close()
    old = Run(path)
    assert (old.rounds_kept, old.round, old.facts["schema"]) == ([2], 2, 1)
    run = train(path, plan(keep=Keep(every=3)), resume=True)
    assert run.rounds_kept == [3, 6, ROUNDS] and run.facts["schema"] == 2
    assert [record["round"] for record in run.history] == list(range(1, ROUNDS + 1))
    assert bits(run.last) == bits(train(tmp_path / "straight", plan()).last)
    assert replay(path, plan(), people()).identical
