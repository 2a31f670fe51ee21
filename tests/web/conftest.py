# SPDX-License-Identifier: Apache-2.0
"""Synthetic runs, written through the store that real runs use."""

import copy

import numpy as np
import pytest

from muster.metrics import Accuracy, Loss
from muster.metrics.sums import values
from muster.runs.measure import spread
from muster.runs.run import Run
from muster.store.sqlite import SQLiteStore

PLAN = {
    "class": "Plan",
    "task": {"class": "tasks.numpy.LogisticRegression", "features": 13},
    "algorithm": {"class": "FedAvg", "server": {"class": "SGD", "rate": 1.0}},
    "pipeline": [{"class": "Clip", "bound": 1.0}],
    "rounds": 6,
    "stop": [],
}
METRICS = (Loss(), Accuracy())
LOWER = {metric.name: metric.lower_is_better for metric in METRICS}


def record_of(round, clients, *, accuracy=None, last=False):
    """A record as `rounds.play` and `Examiner` write it."""
    record = {
        "round": round,
        "invited": clients,
        "accepted": clients,
        "abandoned": False,
        "train": {"loss": 1.0 / round, "steps": 3.0, "drift": 0.1 * round},
        "bytes_up": 400 * len(clients),
        "seconds": 0.25 * round,
    }
    if accuracy is not None:
        record["model"] = "ab" * 32
        record["metrics"] = {"loss": 1 - accuracy, "accuracy": accuracy}
        sums = [
            {
                "rows": 10.0,
                "held out": 10.0,
                "loss": 1.0 + n,
                "accuracy/hits": 10 * accuracy * (1 - n / 50),
                "accuracy/rows": 10.0,
            }
            for n in range(len(clients))
        ]
        record["measured"] = "central test rows"
        record["clients"] = spread(LOWER, sums, [values(METRICS, s) for s in sums])
        if last:
            record["clients"]["each"] = [
                [c, values(METRICS, s)] for c, s in zip(clients, sums, strict=True)
            ]
    return record


def records(rounds=6, clients=("a", "b", "c"), top=0.9):
    """A plain history: accuracy rises towards `top`."""
    return [
        record_of(r, list(clients), accuracy=top - 0.4 / r, last=r == rounds)
        for r in range(1, rounds + 1)
    ]


@pytest.fixture
def make(tmp_path):
    """Write a run into a folder of this name and open it."""

    def made(name="fedavg-1", history=None, *, plan=PLAN, **facts):
        store = SQLiteStore(tmp_path / name)
        if plan is not None:
            store.note(metrics=LOWER)
            store.note(plan=plan, engine="matrix", versions={"python": "3.11.9"})
        store.note(**facts)
        for record in records() if history is None else history:
            arrays = {"algorithm.shared.x": np.zeros(3, np.float32)}
            store.commit(record["round"], arrays, record, record["accepted"])
        store.close()
        return Run(tmp_path / name)

    return made


@pytest.fixture
def plan():
    """A plan's value that a test may change."""
    return copy.deepcopy(PLAN)


@pytest.fixture
def history():
    """`records`, as a fixture."""
    return records
