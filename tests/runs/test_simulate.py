# SPDX-License-Identifier: Apache-2.0
"""Stopping, resuming, extending, following along, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import muster
from muster import (
    EarlyStopping,
    Every,
    Target,
    aggregation,
    algorithms,
    keys,
    pipeline,
    sampling,
    tasks,
)
from muster.errors import DataError, PlanError, RunError
from muster.runs.folder import upgraded
from muster.store import SQLiteStore, sqlite

KEPT = ("round", "invited", "accepted", "bytes_up", "bytes_down", "train", "metrics")


def arrays(run):
    store = SQLiteStore(run.path, readonly=True)
    try:
        return {name: array.tobytes() for name, array in store.latest()[1].items()}
    finally:
        store.close()


def core(run):
    return [{key: record.get(key) for key in KEPT} for record in run.trained]


@pytest.mark.parametrize("every", [1, 2, 3])
def test_five_rounds_and_then_ten_are_ten(train, every):
    straight = train("straight", rounds=10, evaluate=Every(every))
    train("parts", rounds=5, evaluate=Every(every))
    parts = train("parts", rounds=10, evaluate=Every(every), resume=True)
    assert arrays(parts) == arrays(straight)
    extra = {5} if 5 % every else set()  # the last round of five was evaluated, too
    for one, other in zip(core(parts), core(straight), strict=True):
        if one["round"] not in extra:
            assert one == other


def test_the_rounds_that_are_evaluated(train):
    run = train(rounds=7, evaluate=Every(3, clients=4))
    assert [r["round"] for r in run.trained if "metrics" in r] == [3, 6, 7]
    assert [r["clients"]["count"] for r in run.trained if "clients" in r] == [4, 4, 4]
    assert [len(r["clients"].get("each", ())) for r in run.trained if "clients" in r] == [0, 0, 4]
    chosen = {c for c, _ in run.trained[-1]["clients"]["each"]}
    assert len(chosen) == 4
    none = train("none", rounds=2, evaluate=Every(1, clients=0))
    assert "clients" not in none.trained[-1]
    assert "metrics" in none.trained[-1]


def test_a_target_stops_and_still_stops_after_resume(train):
    free = train("free", rounds=8)
    value = free.trained[3]["metrics"]["loss"]
    assert min(r["metrics"]["loss"] for r in free.trained[:3]) > value
    stop = (Target("loss", value),)
    run = train("stopped", rounds=8, stop=stop)
    assert len(run.trained) == 4
    assert "Target" in run.facts["stopped"]
    assert len(run.trained[-1]["clients"]["each"]) == 10
    again = train("stopped", rounds=8, stop=stop, resume=True)
    assert arrays(again) == arrays(run)
    assert len(again.trained) == 4
    on = train("stopped", rounds=8, resume=True)
    assert arrays(on) == arrays(free)
    assert on.facts["stopped"] is None


def test_early_stopping_counts_over_a_resume(train):
    stop = (EarlyStopping("accuracy", 3),)
    run = train("straight", rounds=30, stop=stop)
    assert 4 <= len(run.trained) < 30
    for rounds in range(1, len(run.trained)):
        train("parts", rounds=rounds, stop=stop, resume=rounds > 1)
    parts = train("parts", rounds=30, stop=stop, resume=True)
    assert len(parts.trained) == len(run.trained)
    assert arrays(parts) == arrays(run)


def test_early_stopping_does_not_count_the_extra_evaluation_of_a_last_round(train):
    chosen = {"stop": (EarlyStopping("accuracy", 2),), "evaluate": Every(3)}
    run = train("straight", rounds=60, **chosen)
    for rounds in range(1, len(run.trained)):
        train("parts", rounds=rounds, resume=rounds > 1, **chosen)
    parts = train("parts", rounds=60, resume=True, **chosen)
    assert len(parts.trained) == len(run.trained)


def test_bytes_up_and_down(train, plan):
    run = train(rounds=1)
    d = plan.task.layout.size
    (record,) = run.trained
    assert record["bytes_down"] == 4 * 2 * 4 * d  # four clients, x and c, float32
    assert record["bytes_up"] == 4 * 2 * 4 * d


def test_history_can_be_followed(train, tmp_path):
    seen = []

    def watch(record):
        lines = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
        assert json.loads(lines[-1]) == record
        run = muster.Run(tmp_path / "run")  # also while it trains
        assert run.history[-1] == record
        assert run.parameters.shape == (43,)
        seen.append(len(lines))

    train(options={"watch": watch})
    assert seen == [1, 2, 3, 4, 5, 6], "what training started from, and five rounds"


def test_who_holds_what_is_recorded(train, people, tmp_path):
    known = train(rounds=1).facts["population"]
    assert (known["count"], known["total"], known["min"], known["max"]) == (10, 140, 5, 23)
    assert known["median"] == 14.0
    assert known["clients"] == list(people.clients)
    assert known["rows"] == people.sizes.tolist()
    assert known["labels"][0] == np.bincount(people["c0"][1]).tolist()
    assert 0 <= known["skew"] < 1


def test_of_many_clients_a_hundred_are_listed(tmp_path, plan):
    load = Loaded()
    many = muster.Population.lazy(range(5000), load, 3)
    run = muster.simulate(replace(plan, rounds=1), many, path=tmp_path / "lazy")
    known = run.facts["population"]
    assert (known["count"], len(known["clients"]), len(known["rows"])) == (5000, 100, 100)
    assert "labels" not in known
    assert load.calls < 200


class Loaded:
    """A loader that counts."""

    calls = 0

    def __call__(self, client):
        self.calls += 1
        return np.ones((3, 4), "float32"), np.arange(3)


def test_a_resume_with_another_plan_names_the_fields(train):
    train()
    with pytest.raises(RunError, match=r"local\.batch: 4 then, 8 now"):
        train(resume=True, local=muster.Local(epochs=1, batch=8))
    with pytest.raises(RunError, match=r"seed: 0 then, 1 now\); restore those fields"):
        train(resume=True, seed=1)
    with pytest.raises(RunError, match="algorithm: "):
        train(resume=True, algorithm=algorithms.FedAvg())
    with pytest.raises(RunError, match=r"engine \('matrix' then, 'loop' now\)"):
        train(resume=True, options={"engine": "loop"})
    run = train(resume=True, rounds=6, stop=(Target("loss", 0.0),), evaluate=Every(2, clients=1))
    assert len(run.trained) == 6


def test_a_resume_keeps_the_engine_it_was_begun_with(train):
    train("parts", rounds=2, options={"engine": "loop"})
    parts = train("parts", rounds=4, resume=True)
    straight = train("straight", rounds=4, options={"engine": "loop"})
    assert arrays(parts) == arrays(straight)
    assert parts.facts["engine"] == "loop"


def test_a_resume_with_other_data_is_refused(train, tmp_path, plan, people):
    train()
    fewer = people.only(people.clients[:9])
    with pytest.raises(RunError, match=r"begun with 10 clients and 140 rows, and now there are 9"):
        muster.simulate(plan, fewer, path=tmp_path / "run", resume=True)


def test_folders_that_do_not_fit(train, tmp_path, plan, people):
    with pytest.raises(RunError, match="holds no run to resume"):
        train("none", resume=True)
    with pytest.raises(RunError, match="give path="):
        muster.simulate(plan, people, resume=True)
    train()
    with pytest.raises(RunError, match="already holds a run"):
        train()
    (tmp_path / "run" / "run.db").write_bytes(b"rubbish" * 1000)
    with pytest.raises(RunError, match="cannot be read"):
        train(resume=True)


def test_two_at_once(train, tmp_path):
    def watch(record):
        with pytest.raises(RunError, match="being trained by another process"):
            train(resume=True)

    train(rounds=1, options={"watch": watch})


def test_a_refused_resume_lets_go_of_the_folder(train):
    train(rounds=1)
    with pytest.raises(RunError):
        train(seed=4, resume=True)
    train(rounds=2, resume=True)


def test_an_error_in_a_round_leaves_the_rounds_before(train):
    def watch(record):
        if record["round"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train("parts", options={"watch": watch})
    parts = train("parts", resume=True)
    assert arrays(parts) == arrays(train("straight"))
    assert [record["round"] for record in parts.trained] == [1, 2, 3, 4, 5]


def test_a_full_disk_stops_the_run_and_a_resume_ends_it(train, monkeypatch):
    monkeypatch.setattr(sqlite, "LARGE", 1)
    save, left = sqlite.write_file, iter(range(4))

    def full(arrays, path):
        if next(left, None) is None:
            Path(path).write_bytes(b"")
            raise OSError(28, "No space left on device")
        save(arrays, path)

    monkeypatch.setattr(sqlite, "write_file", full)
    with pytest.raises(RunError, match=r"could not commit round 4 \(.*No space left"):
        train("parts")
    monkeypatch.setattr(sqlite, "write_file", save)
    parts = train("parts", resume=True)
    assert arrays(parts) == arrays(train("straight"))
    assert len(list(parts.path.glob("state-*"))) == 1


def test_what_cannot_be_trained_on(tmp_path, plan, people):
    with pytest.raises(DataError, match=r"Population\.from_arrays"):
        muster.simulate(plan, [people["c0"]], path=tmp_path / "run")
    with pytest.raises(DataError, match="evaluate_on has 5 rows in x but 4 in y"):
        x, y = people["c0"]
        muster.simulate(plan, people, (x, y[:-1]), path=tmp_path / "run")
    with pytest.raises(PlanError, match="workers=0"):
        muster.simulate(plan, people, path=tmp_path / "run", workers=0)
    bad = muster.Population.from_arrays({"a": people["c0"], "b": (people["c1"][0], [9] * 7)})
    with pytest.raises(DataError, match="'b'"):
        muster.simulate(replace(plan, sampling=sampling.All()), bad, path=tmp_path / "bad")
    assert not (tmp_path / "bad").exists()


def test_an_abandoned_round_moves_neither_model_nor_memory(train, plan, people):
    run = train(rounds=2, minimum=5, sampling=sampling.Poisson(0.3))  # three, then four of ten
    assert [record["abandoned"] for record in run.trained] == [True, True]
    store = SQLiteStore(run.path, readonly=True)
    assert store.memory(people.clients) == {}
    store.close()
    start = plan.task.init(keys.key(0).at("init"))[0]
    assert np.array_equal(run.parameters, start)


def bending(numbers):
    task = tasks.custom.Custom(starting(Weights(numbers)), fit, measure)
    return {"task": task, "algorithm": algorithms.FedAvg()}


class Weights:
    """An object with state."""

    def __init__(self, numbers):
        self.numbers = np.array(numbers)


def starting(weights):
    return lambda: {"w": weights.numbers}


def fit(arrays, rows, config):
    return arrays


def measure(arrays, rows):
    return {"loss": 0.0}


def test_a_resume_sees_what_an_object_of_the_plan_holds(train):
    train(rounds=2, **bending([1.0, 9.0]))
    other = bending([9.0, 1.0])
    with pytest.raises(
        RunError, match=r"weights\.numbers\.values: \[1\.0, 9\.0\] then.*--override"
    ):
        train(rounds=4, resume=True, **other)
    run = train(rounds=4, resume=True, options={"override": True}, **other)
    (said,) = run.facts["overrides"]
    assert (said["after"], len(run.trained)) == (2, 4)
    assert said["changed"] == ["task.start.closure.weights.numbers.values"]
    assert "[9.0, 1.0] now" in said["said"]
    train(rounds=5, resume=True, **other)  # the plan is this one from now on


def test_an_override_is_for_the_task_and_the_code_alone(train):
    train(rounds=1)
    with pytest.raises(RunError, match=r"task or its code alone may be overridden"):
        train(resume=True, seed=1, options={"override": True})


def test_no_override_where_privacy_was_stated(train):
    private = {
        "sampling": sampling.Poisson(0.5),
        "weighting": "equal",
        "pipeline": [pipeline.Clip(1.0), pipeline.Noise(1.0)],
        "aggregation": aggregation.Mean("expected"),
        "algorithm": algorithms.FedAvg(),
    }
    train(rounds=1, **private)
    other = tasks.numpy.MLP([4, 5, 3], l2=0.5)
    with pytest.raises(RunError, match=r"l2: 0\.0 then, 0\.5 now.*states of privacy rests on it"):
        train(resume=True, task=other, options={"override": True}, **private)


def test_the_releases_that_a_run_was_trained_with_are_kept_through_a_resume(train, monkeypatch):
    first = train(rounds=1)
    assert set(first.facts["versions"]) >= {"python", "numpy", "muster"}
    monkeypatch.setattr(np, "__version__", "9.9")
    again = train(rounds=2, resume=True)
    assert again.facts["versions"] == first.facts["versions"]
    assert [one["numpy"] for one in again.facts["upgrades"]] == ["9.9"]
    monkeypatch.setattr(np, "__version__", "9.10")
    assert "numpy 9.9 then, 9.10 now" in upgraded(again.facts, again.plan)


def test_clients_that_can_never_be_enough_are_refused_before_anything_is_written(train, tmp_path):
    with pytest.raises(PlanError, match=r"10 clients there are .* 2 more are missing"):
        train(minimum=12, sampling=sampling.All())
    assert not (tmp_path / "run").exists()
