# SPDX-License-Identifier: Apache-2.0
"""Every number that the shell prints of a run has a source: its record, or the time of its file."""

import json
import os
import random
from dataclasses import replace
from importlib import metadata

import numpy as np
import pytest
from tests.numerals import Sources, lines, unmoved
from tests.recorded import facts_of, history_of

from muster import Plan, aggregation, algorithms, optimizers, pipeline, sampling, simulate, tasks
from muster.data import Population
from muster.local import Local
from muster.privacy import Budget
from muster.runs.drive import Options
from muster.runs.privacy.facts import statements
from muster.store.sqlite import SQLiteStore

SEEDS = range(5)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of runs, one for each seed, with what was recorded of them."""
    found = []
    for seed in SEEDS:
        base, rng = tmp_path_factory.mktemp("runs"), random.Random(seed)
        records = []
        for name in ("first", "second"):
            clients = [f"site {n}" for n in range(1, rng.randrange(5, 12))]
            facts = facts_of(rng, clients)
            history = history_of(rng, clients, rng.randrange(3, 9), seed % 2 == 1)
            store = SQLiteStore(base / name)
            store.note(**facts)
            for record in history:
                arrays = {"algorithm.shared.x": np.zeros(3, np.float32)}
                store.commit(record["round"], arrays, record, record["accepted"])
            store.close()
            for file in (base / name).iterdir():
                os.utime(file, (rng.randrange(10**9), rng.randrange(10**9)))
            records.append(json.loads(json.dumps({"facts": facts, "history": history})))
        found.append((base, records))
    return found


def printed(shell, base, *words):
    text = shell(*(word.format(base=base) for word in words))
    return lines(text.replace(str(base), "…").replace(os.path.relpath(base), "…"))


COMMANDS = [
    ("show", "{base}/first"),
    ("compare", "{base}/first", "{base}/second"),
    ("compare", "{base}/first", "{base}/second", "--metric", "loss"),
]


@pytest.mark.parametrize("words", [*COMMANDS, ("ls", "{base}")], ids=" ".join)
def test_no_number_of_the_shell_was_typed_in(shell, runs, words):
    assert unmoved(printed(shell, base, *words) for base, _ in runs) == []


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_number_of_the_shell_is_in_the_record_or_follows_from_it(shell, runs, words):
    for base, records in runs:
        told = records[:1] if words[0] == "show" else records
        assert Sources.of(*told).lacking(printed(shell, base, *words)) == []


def noisy(folder, seed):
    """A private run, its settings by chance: what a statement is about."""
    rng = random.Random(seed)
    drawn = np.random.default_rng(seed)
    count = rng.randrange(6, 30)
    people = {
        f"site {n}": (drawn.standard_normal((5, 3)).astype(np.float32), np.arange(5) % 2)
        for n in range(count)
    }
    plan = Plan(
        task=tasks.numpy.SoftmaxRegression(3, 2),
        algorithm=algorithms.FedAvg(),
        local=Local(epochs=1, batch=4, optimizer=optimizers.SGD(0.2)),
        rounds=rng.randrange(2, 7),
        sampling=sampling.Poisson(rng.uniform(0.3, 0.9)),
        pipeline=(pipeline.Clip(rng.random()), pipeline.Noise(rng.uniform(2, 9))),
        weighting="equal",
        aggregation=aggregation.Mean("expected"),
        budget=Budget(rng.uniform(50, 99), rng.uniform(1e-4, 1e-3)),
    )
    options = Options(ledger=folder / f"{seed}.json")  # of several runs over the same people
    for run in range(seed % 3):
        before = replace(plan, rounds=1, seed=run + 1)
        simulate(
            before, Population.from_arrays(people), path=folder / f"{seed}-{run}", options=options
        )
    return simulate(plan, Population.from_arrays(people), path=folder / str(seed), options=options)


def test_no_number_of_a_privacy_statement_was_typed_in(tmp_path, monkeypatch):
    pytest.importorskip("dp_accounting")
    documents, installed = [], metadata.version
    for seed in SEEDS:
        # what the machine is the source of moves with the machine
        monkeypatch.setattr(metadata, "version", lambda name, n=seed: f"{installed(name)}.{n}")
        (made,) = statements(noisy(tmp_path, seed))
        texts = [("claim", made.claim), *(("reason", reason) for reason in made.reasons)]
        documents.append([*texts, *made.items.items()])
    assert unmoved(documents) == []
    assert unmoved([[*d, ("claim", "epsilon 0.5 at most")] for d in documents]) != []
