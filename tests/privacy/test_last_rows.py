# SPDX-License-Identifier: Apache-2.0
"""The last rows of correlated noise would take it off again: they go when a run has ended.

Whoever gets a folder with them, and the models that were released, has the last sums without
noise. What is of secrets is erased with the end; in a simulation it is a function of the seed.
"""

import numpy as np
import pytest

import muster
from muster import Local, Plan, aggregation, algorithms, optimizers, pipeline, sampling, tasks
from muster.errors import RunError
from muster.pipeline import banded_noise
from muster.privacy import Budget, PrivacyLedger
from muster.runs.privacy.facts import stated
from muster.runs.privacy.guard import RunAccountant
from muster.runs.replay import replay
from muster.store import SQLiteStore

ROUNDS, DELTA = 4, 1e-3
SECRET = {"entropy": lambda n: bytes(range(n)), "workers": 1}


def plan(hidden=5, **fields):
    values = {
        "task": tasks.numpy.MLP([4, hidden, 3]),
        "algorithm": algorithms.FedAvg(),
        "local": Local(epochs=1, batch=4, optimizer=optimizers.SGD(0.2)),
        "sampling": sampling.All(),
        "weighting": "equal",
        "rounds": ROUNDS,
        "pipeline": (pipeline.Clip(0.5), pipeline.BandedNoise(2.0, bands=3)),
        "aggregation": aggregation.Mean("expected"),
        "budget": Budget(400.0, DELTA),
        "evaluate": muster.Every(1, clients=0),
    }
    return Plan(**(values | fields))


@pytest.fixture(scope="module")
def people():
    draw = np.random.default_rng(3)
    rows = {
        f"c{i}": (draw.normal(size=(8, 4)).astype("float32"), np.arange(8) % 3) for i in range(6)
    }
    return muster.Population.from_arrays(rows)


@pytest.fixture
def rows(monkeypatch):
    """The rows of noise of every round that is played, as its folder would hold them."""
    found, made = [], banded_noise.correlated

    def kept(*given):
        row, past = made(*given)
        found.append(row)
        return row, past

    monkeypatch.setattr(banded_noise, "correlated", kept)
    return found


def train(folder, given, people, *, resume=False, **options):
    return muster.simulate(
        given, people, people.pooled(), path=folder, resume=resume, **(SECRET | options)
    )


def holds(folder, row):
    """Return whether any file of a run has these bytes."""
    return [path.name for path in folder.iterdir() if row.tobytes() in path.read_bytes()]


def arrays(folder):
    store = SQLiteStore(folder, readonly=True)
    try:
        return store.latest()[1], store.facts()
    finally:
        store.close()


def taken_off(folder, row, hidden=5):
    """The mean update of the last round, as the row that the folder holds would leave it."""
    state, _ = arrays(folder)
    kept = next(rows for name, rows in state.items() if "delta" in name)
    return np.array_equal(kept[0], row)


ENDS = {
    "rounds": {},
    "budget": {"budget": Budget(9.0, DELTA)},
    "a rule": {"stop": (muster.Target("accuracy", 0.0),)},
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("hidden", [5, 2000], ids=["in the database", "in a file"])
def test_no_file_of_a_run_that_has_ended_takes_its_noise_off(tmp_path, people, rows, end, hidden):
    given, folder = plan(hidden, **ENDS[end]), tmp_path / "run"
    run = train(folder, given, people)
    last = rows[-1]
    assert len(run.trained) == len(rows) <= ROUNDS
    assert len(last) == given.task.layout.size
    assert not taken_off(folder, last)
    assert [holds(folder, row) for row in rows] == [[]] * len(rows)
    state, facts = arrays(folder)
    kept = next(rows for name, rows in state.items() if "delta" in name)
    assert (kept.shape, kept.any(), facts["sealed"]) == ((2, len(last)), False, True)
    assert "the rows that no round took back are erased" in stated(run).items["noise"]
    model = state["algorithm.shared.x"]
    assert np.array_equal(run.parameters, model) and np.isfinite(model).all()


def test_a_death_between_the_end_and_the_erasure_is_made_good(tmp_path, people, rows, monkeypatch):
    given, folder = plan(), tmp_path / "run"
    calm = train(tmp_path / "calm", given, people)

    def died(self, state):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunAccountant, "end", died)
        with pytest.raises(KeyboardInterrupt):
            train(folder, given, people)
    assert holds(folder, rows[-1]) != []
    again = train(folder, given, people, resume=True)
    assert holds(folder, rows[-1]) == []
    assert len(PrivacyLedger.from_json(again.facts["ledger"]).entries) == ROUNDS
    assert again.parameters.tobytes() == calm.parameters.tobytes()


def test_a_run_that_is_not_over_keeps_its_rows_and_goes_on_with_the_same_bits(tmp_path, people):
    given, folder = plan(), tmp_path / "run"
    calm = train(tmp_path / "calm", given, people)
    commits = []

    def at(label):
        commits.append(label)
        if commits.count("commit: end") == 3:  # version 0, and two rounds
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(folder, given, people, at=at)
    state, facts = arrays(folder)
    assert next(rows for name, rows in state.items() if "delta" in name).all()
    assert "sealed" not in facts
    whole = train(folder, given, people, resume=True)
    assert whole.parameters.tobytes() == calm.parameters.tobytes()
    assert len(whole.trained) == ROUNDS


@pytest.mark.parametrize("end", ["rounds", "budget"])
def test_a_run_whose_rows_are_erased_is_not_extended(tmp_path, people, end):
    folder = tmp_path / "run"
    done = len(train(folder, plan(**ENDS[end]), people).trained)
    before = PrivacyLedger.from_json(arrays(folder)[1]["ledger"])
    with pytest.raises(
        RunError,
        match=rf"ended after round {done}, and the rows of noise that "
        r".* were erased with its end; start a new run",
    ):
        train(folder, plan(rounds=ROUNDS + 3), people, resume=True)
    assert PrivacyLedger.from_json(arrays(folder)[1]["ledger"]) == before
    same = train(folder, plan(**ENDS[end]), people, resume=True)
    assert len(same.trained) == done


def test_a_simulation_keeps_its_rows_and_is_extended_and_replayed(tmp_path, people):
    given, longer = plan(), plan(rounds=ROUNDS + 2)
    plain = {"entropy": None}
    whole = train(tmp_path / "whole", longer, people, **plain)
    train(tmp_path / "run", given, people, **plain)
    assert "sealed" not in arrays(tmp_path / "run")[1]
    assert replay(tmp_path / "run", given, people).identical
    more = train(tmp_path / "run", longer, people, resume=True, **plain)
    assert more.parameters.tobytes() == whole.parameters.tobytes()


def test_noise_without_memory_leaves_nothing_to_erase(tmp_path, people):
    noisy = (pipeline.Clip(0.5), pipeline.Noise(2.0))
    for stages in (noisy, (pipeline.Clip(0.5), pipeline.BandedNoise(2.0, bands=1))):
        folder = tmp_path / str(len(stages[1].__dataclass_fields__))
        run = train(folder, plan(pipeline=stages), people)
        assert "sealed" not in run.facts
        assert (
            len(
                train(folder, plan(pipeline=stages, rounds=ROUNDS + 1), people, resume=True).trained
            )
            == ROUNDS + 1
        )
