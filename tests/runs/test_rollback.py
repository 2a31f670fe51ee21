# SPDX-License-Identifier: Apache-2.0
"""A run goes back to what it keeps: the same bits again, nothing forgotten, nothing given back."""

import json
import shutil

import numpy as np
import pytest
from tests.chaos.scene import bits

import muster
from muster import Keep, aggregation, algorithms, optimizers, pipeline, privacy, sampling, tasks
from muster.errors import RunError
from muster.privacy import PrivacyLedger
from muster.runs.privacy.facts import ledger_of, statements
from muster.runs.replay import replay
from muster.runs.rollback import LONGEST, charged_as, roll_back
from muster.runs.run import Run
from muster.store import sqlite
from muster.store.sqlite import BACK, SQLiteStore

ROUNDS = 7
LOCAL = muster.Local(epochs=1, batch=8, optimizer=optimizers.SGD(0.3))
SCAFFOLD = {"algorithm": algorithms.Scaffold(), "sampling": sampling.Uniform(count=3)}
NOISY = {
    "algorithm": algorithms.FedAvg(),
    "sampling": sampling.Poisson(0.4),
    "weighting": "equal",
    "pipeline": [pipeline.Clip(1.0), pipeline.Noise(2.0)],
    "aggregation": aggregation.Mean("expected"),
    "budget": privacy.Budget(60.0, 1e-3),
}
ROWS = {
    "algorithm": algorithms.FedAvg(),
    "sampling": sampling.Uniform(count=3),
    "evaluate": muster.Every(clients=0),
    "local": muster.Local(
        epochs=1, batch=8, optimizer=optimizers.SGD(0.3), examples=muster.PerExample(1.0, 1.0)
    ),
}


def people():
    draw = np.random.default_rng(5)
    rows = {
        f"c{i}": (draw.normal(size=(n, 5)).astype("float32"), draw.integers(0, 3, n))
        for i, n in enumerate(range(6, 22, 2))
    }
    return muster.Population.from_arrays(rows)


def plan(**fields):
    given = {"task": tasks.numpy.MLP([5, 6, 3]), "local": LOCAL, "rounds": ROUNDS, **SCAFFOLD}
    return muster.Plan(**given | {"keep": Keep(every=2)} | fields)


def train(path, made, **more):
    return muster.simulate(made, people(), people().pooled(), path=path, **more)


def back(path, round, **more):
    store = SQLiteStore(path, at=more.pop("at", None))
    try:
        return roll_back(store, round, **{"by": "ann", "reason": "it was poisoned"} | more)
    finally:
        store.close()


def whole(path):
    """State, memories and records (but for their seconds): all that a run is."""
    store = SQLiteStore(path, readonly=True)
    try:
        memory = {c: bits(m) for c, m in store.memory(people().clients).items()}
        history = [{k: v for k, v in r.items() if k != "seconds"} for r in store.history()]
        return bits(store.latest()[1]), memory, history
    finally:
        store.close()


@pytest.fixture(params=[False, True], ids=["rows", "files"])
def large(request, monkeypatch):
    monkeypatch.setattr(sqlite, "LARGE", 1 if request.param else 1 << 30)
    return request.param


@pytest.mark.parametrize(
    "fields", [SCAFFOLD, {**SCAFFOLD, "share": "layers.0.*", "algorithm": algorithms.FedAvg()}]
)
@pytest.mark.parametrize("round", [0, 2, 4])
def test_it_goes_on_with_the_bits_it_had(tmp_path, large, fields, round):
    made, path = plan(**fields), tmp_path / "run"
    straight = train(path, made)
    before, superseded = whole(path), straight.trained[round:]
    found = back(path, round, clock=lambda: 0.0)
    assert found == {
        "number": 1,
        "to": round,
        "from": ROUNDS,
        "by": "ann",
        "reason": "it was poisoned",
        "at": "1970-01-01T00:00:00+00:00",
    }
    run = Run(path, made)
    assert run.round == round and run.rounds_kept == list(range(0, round + 1, 2))
    assert run.rollbacks == [found] and run.history == straight.history[: round + 1]
    assert run.superseded == [(1, record) for record in superseded]
    lines = (path / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == list(range(round + 1))
    assert not (path / "model.safetensors").exists(), "it was of a round that is superseded"
    assert len(list(path.glob("state-*"))) == (len(run.rounds_kept) if large else 0)
    if round:
        assert (
            whole(path)[:2]
            == whole(train(tmp_path / "alone", plan(**fields, rounds=round)).path)[:2]
        )
        assert replay(path, made, people()).identical
    again = train(path, made, resume=True)
    assert whole(path) == before and again.superseded == run.superseded
    assert replay(path, made, people()) == (ROUNDS, True, None)
    assert (path / "model.safetensors").exists()


def test_more_than_once(tmp_path):
    path = tmp_path / "run"
    train(path, plan())
    before = whole(path)
    for number, (round, last) in enumerate([(4, ROUNDS), (2, 4), (0, ROUNDS)], 1):
        assert back(path, round)["number"] == number
        if number > 1:
            train(path, plan(), resume=True)
        else:
            assert Run(path).round == 4
        assert Run(path).rollbacks[-1]["from"] == last
    run = Run(path)
    assert [(n, r["round"]) for n, r in run.superseded] == [
        *((1, r) for r in range(5, 8)),
        *((2, r) for r in (3, 4)),
        *((3, r) for r in range(1, 8)),
    ]
    assert whole(path) == before


@pytest.mark.parametrize("label", BACK)
def test_a_death_leaves_it_where_it_was_or_where_it_goes(tmp_path, large, label):
    path = tmp_path / "run"
    train(path, plan())
    before = whole(path)

    class Death(BaseException):
        """The process ends."""

    def at(now):
        if now == label:
            raise Death

    with pytest.raises(Death):
        back(path, 4, at=at)
    done = label != BACK[0]
    assert Run(path).round == (4 if done else ROUNDS)
    SQLiteStore(path).close()
    assert len(list(path.glob("state-*"))) == (len(Run(path).rounds_kept) if large else 0)
    if not done:
        assert whole(path) == before
        back(path, 4)
    train(path, plan(), resume=True)
    assert whole(path) == before and len(Run(path).rollbacks) == 1


def test_the_log_has_it_before_the_run_does(tmp_path):
    path, seen = tmp_path / "run", []
    train(path, plan())

    def note(actor, action, **details):
        seen.append((actor, action, details["to"], details["by"], Run(path).round))

    back(path, 2, note=note)
    assert seen == [("operator", "rolled back", 2, "ann", ROUNDS)]


def test_what_cannot_be_gone_back_to(tmp_path):
    path = tmp_path / "run"
    train(path, plan())
    before = whole(path)
    for round, sentence in (
        (3, r"no model of round 3; it keeps those of: 0, 2, 4, 6, 7; .*keep=muster\.Keep"),
        (ROUNDS, "stands after round 7 already"),
        (9, "no model of round 9"),
    ):
        with pytest.raises(RunError, match=sentence):
            back(path, round)
    with pytest.raises(RunError, match=f"of {LONGEST + 1} characters is too long"):
        back(path, 2, reason="x" * (LONGEST + 1))
    store = SQLiteStore(path)
    store.note(remembers=True, federation=True)
    store.close()
    with pytest.raises(RunError, match="cannot go back: what its sites remember"):
        back(path, 2)
    assert whole(path) == before and not Run(path).rollbacks
    with pytest.raises(RunError, match="no committed round to go back to"):
        back(tmp_path / "empty", 0)


def entropy():
    """Secrets that are drawn one after the other."""
    count = iter(range(1, 1000))
    return lambda n: next(count).to_bytes(n, "big")


@pytest.mark.parametrize("secret", [False, True])
def test_what_noise_has_revealed_stays_charged(tmp_path, secret):
    made, path = plan(**NOISY), tmp_path / "run"
    options = {"entropy": entropy()} if secret else {}
    straight = train(path, made, **options)
    spent = ledger_of(straight)
    assert len(spent.entries) == ROUNDS
    back(path, 4)
    assert ledger_of(Run(path)) == spent, "going back gives nothing back"
    again = train(path, made, resume=True, **options)
    after = ledger_of(again)
    assert after.entries[:ROUNDS] == spent.entries and len(after.entries) == ROUNDS + 3
    assert after.epsilon > spent.epsilon
    assert again.trained[-1]["privacy"]["epsilon"] == after.epsilon
    fresh = PrivacyLedger(after.delta)  # the same releases of one long run
    for number, entry in enumerate(after.entries, 1):
        fresh = fresh.enter(number, entry.charge)
    assert after.epsilon == pytest.approx(fresh.epsilon, rel=1e-9)
    assert [e.accepted for e in after.entries] == [
        len(record["accepted"]) for record in [*straight.trained, *again.trained[4:]]
    ]
    same = np.array_equal(straight.parameters, again.parameters)
    assert same is not secret, "noise of a secret is drawn anew"
    assert statements(again)


def test_what_rows_have_revealed_stays_charged(tmp_path):
    made, path = plan(**ROWS), tmp_path / "run"
    straight = train(path, made)
    back(path, 2)
    again = train(path, made, resume=True)
    invited = [r["invited"] for r in [*straight.trained, *again.trained[2:]]]
    most = max(sum(client in one for one in invited) for client in people().clients)
    longer = train(tmp_path / "all", plan(**{**ROWS, "sampling": sampling.All()}, rounds=most))
    assert again.trained[-1]["privacy"]["epsilon"] > straight.trained[-1]["privacy"]["epsilon"]
    worst = again.facts["examples"]["charged"]["worst"]
    assert worst[2] == sum(worst[0] in one for one in invited)
    assert longer.facts["examples"]["charged"]["worst"][2] == most >= worst[2]


def test_a_copy_goes_its_own_way(tmp_path):
    train(tmp_path / "run", plan())
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    back(tmp_path / "copy", 2)
    assert (Run(tmp_path / "run").round, Run(tmp_path / "copy").round) == (ROUNDS, 2)


def test_each_round_is_charged_under_the_name_of_its_time():
    rollbacks = [{"to": 4}, {"to": 2}, {"to": 5}]
    names = [charged_as("r", rollbacks, round) for round in range(1, 8)]
    assert names == ["r", "r", "r/3", "r/3", "r/3", "r/4", "r/4"]
    assert [charged_as("r", rollbacks, 6, before) for before in (1, 2, 3)] == ["r", "r/2", "r/3"]
