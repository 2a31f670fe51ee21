# SPDX-License-Identifier: Apache-2.0
"""The numbers of an evaluation, against NumPy by hand."""

import hashlib

import numpy as np
import pytest

from muster import keys
from muster.metrics import Accuracy
from muster.runs.measure import spread
from muster.store import SQLiteStore


def sums_by_hand(plan, run, people, client):
    w = run.parameters
    x, y = people[client]
    one, two = plan.task.layout.named(w), None
    hidden = np.maximum(x @ one["layers.0.weight"].T + one["layers.0.bias"], 0)
    two = hidden @ one["layers.1.weight"].T + one["layers.1.bias"]
    two = two.astype(float) - two.max(1, keepdims=True)
    losses = np.log(np.exp(two).sum(1)) - two[np.arange(len(y)), y]
    return float(losses.mean()), float((two.argmax(1) == y).mean()), len(y)


def test_central_and_per_client_numbers(train, plan, people):
    run = train()
    last = run.history[-1]
    found = [sums_by_hand(plan, run, people, client) for client in people.clients]
    losses, hits, rows = (np.array(column) for column in zip(*found, strict=True))
    close = {"rel": 1e-5}
    assert last["metrics"]["loss"] == pytest.approx((losses * rows).sum() / rows.sum(), **close)
    assert last["metrics"]["accuracy"] == pytest.approx((hits * rows).sum() / rows.sum(), **close)
    each = dict(last["clients"]["each"])
    assert [each[c]["loss"] for c in people.clients] == pytest.approx(losses.tolist(), **close)
    for name, values, worst in (("loss", losses, losses.max()), ("accuracy", hits, hits.min())):
        wanted = {
            "mean": values.mean(),
            "weighted": (values * rows).sum() / rows.sum(),
            "p10": np.percentile(values, 10),
            "p50": np.median(values),
            "p90": np.percentile(values, 90),
            "worst": worst,
        }
        assert last["clients"][name] == pytest.approx(wanted, **close)
    assert last["clients"]["count"] == 10
    assert last["model"] == hashlib.sha256(run.parameters.tobytes()).hexdigest()


def test_percentiles_of_a_few():
    found = spread(
        [Accuracy()],
        [{"rows": 2, "accuracy/hits": 2 * a, "accuracy/rows": 2} for a in (0.0, 0.25, 1.0)],
    )
    assert found["accuracy"] == {
        "mean": pytest.approx(5 / 12), "weighted": pytest.approx(5 / 12),
        "p10": pytest.approx(0.05), "p50": 0.25, "p90": pytest.approx(0.85), "worst": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize("workers", [1, 2])
def test_private_parts_are_evaluated_as_the_round_leaves_them(train, plan, people, workers):
    run = train(share="layers.0.*", rounds=3, options={"workers": workers})
    store = SQLiteStore(run.path, readonly=True)
    _, latest = store.latest()
    memories = store.memory(people.clients)
    store.close()
    sharing = plan.task.layout.sharing("layers.0.*")
    start = sharing.take(plan.task.init(_key(plan))[0], shared=False)
    each = dict(run.history[-1]["clients"]["each"])
    for client in people.clients:
        private = memories[client]["private"] if client in memories else start
        w = sharing.merge(latest["algorithm.shared.x"], private)
        sums = plan.task.evaluate(w, np.zeros(0, "float32"), *people[client])
        assert each[client]["loss"] == sums["loss"] / sums["rows"]


def _key(plan):
    return keys.key(plan.seed).at("init")
