# SPDX-License-Identifier: Apache-2.0
"""The numbers of an evaluation, against NumPy by hand."""

import hashlib
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

import muster
from muster import keys
from muster.errors import PlanError
from muster.metrics import AUC, Accuracy, ByRow
from muster.metrics import sums as metric_sums
from muster.rounds import start
from muster.runs.measure import Examiner, spread
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
    last = run.trained[-1]
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
    shares = (0.0, 0.25, 1.0)
    found = spread(
        {"accuracy": False}, [{"rows": 2}] * 3, [{"accuracy": share} for share in shares]
    )
    assert found["accuracy"] == {
        "mean": pytest.approx(5 / 12),
        "weighted": pytest.approx(5 / 12),
        "p10": pytest.approx(0.05),
        "p50": 0.25,
        "p90": pytest.approx(0.85),
        "worst": 0.0,
    }


@pytest.mark.parametrize("workers", [1, 2])
def test_private_parts_are_evaluated_as_the_round_leaves_them(train, plan, people, workers):
    run = train(share="layers.0.*", rounds=3, options={"workers": workers})
    store = SQLiteStore(run.path, readonly=True)
    _, latest = store.latest()
    memories = store.memory(people.clients)
    store.close()
    sharing = plan.task.layout.sharing("layers.0.*")
    start = sharing.take(plan.task.init(_key(plan))[0], shared=False)
    each = dict(run.trained[-1]["clients"]["each"])
    for client in people.clients:
        private = memories[client]["private"] if client in memories else start
        w = sharing.merge(latest["algorithm.shared.x"], private)
        sums = plan.task.evaluate(w, np.zeros(0, "float32"), *people[client])
        assert each[client]["loss"] == sums["loss"] / sums["rows"]


TESTS = {f"c{i}": (np.ones((i, 4), np.float32), np.arange(i) % 3) for i in range(1, 6)}


def own_tests(people, clients=("c1", "c2", "c3", "c4", "c5")):
    """The same people, some of whom have test rows."""
    rows = {client: people[client] for client in people.clients}
    return muster.Population.from_arrays(rows, {c: TESTS[c] for c in clients} or None)


def test_without_central_rows_all_test_rows_of_clients_are_one(plan, people, tmp_path):
    population = own_tests(people)
    run = muster.simulate(replace(plan, rounds=2), population, path=tmp_path / "own")
    central = muster.simulate(
        replace(plan, rounds=2), population, population.pooled_test(), path=tmp_path / "central"
    )
    assert run.metrics == pytest.approx(central.metrics, rel=1e-6)
    assert (run.measured, central.measured) == ("the clients' own test rows", "central test rows")
    on = "their own test rows (5 clients), or the rows they trained on (5)"
    assert run.trained[-1]["clients"]["on"] == on


def test_training_rows_give_no_metrics_and_are_named(train):
    run = train(judged=False, rounds=1)
    assert run.metrics == {} and run.measured == ""
    assert run.trained[-1]["clients"]["on"] == "the rows they trained on"
    assert 0 <= run.trained[-1]["clients"]["accuracy"]["mean"] <= 1


@pytest.mark.parametrize("share", ["layers.0.*", "!layers.0.*"])
def test_with_private_tensors_central_metrics_are_those_of_the_clients_own_models(
    train, plan, people, share
):
    run = train(share=share, rounds=2, sampling=muster.sampling.All())
    assert run.measured == "central test rows, as the mean over the clients' own models"
    rows, found = people.pooled(), []
    for client in people.clients:
        w = plan.task.layout.flat(run.model(client))
        found.append(plan.task.evaluate(w, None, *rows)["loss"] / len(rows[0]))
    assert run.metrics["loss"] == pytest.approx(np.mean(found), rel=1e-6)
    nobodys = plan.task.evaluate(run.parameters, None, *rows)["loss"] / len(rows[0])
    assert abs(nobodys - run.metrics["loss"]) > 1e-3


def test_where_private_tensors_are_not_known_central_metrics_are_left_out(plan):
    plan = replace(plan, share="layers.0.*")
    rows = np.zeros((2, 4), np.float32), np.zeros(2, int)

    class Away:
        def held(self, clients):
            return None

        def measure(self, sent, clients, round):
            return iter(())

    found = Examiner(plan, Away(), Away(), lambda: ("a",), rows).examine(5, start(plan))
    assert set(found) == {"model"}


def test_a_value_that_a_client_has_not_is_left_out_of_the_spread():
    counts = [{"zeros": [1, 0], "ones": [0, 1]}, {"zeros": [2, 0], "ones": [0, 0]}]
    each = [
        {"rows": 2.0, "held out": 0.0}
        | {f"auc/{k}/{i}": n for k, v in c.items() for i, n in enumerate(v)}
        for c in counts
    ]
    found = spread({"auc": False}, each, [metric_sums.values([AUC(2)], sums) for sums in each])
    assert found["auc"]["mean"] == found["auc"]["worst"] == 1.0
    assert found["count"] == 2
    assert "auc" not in spread({"auc": False}, each[1:], [metric_sums.values([AUC(2)], each[1])])


def test_without_a_direction_nobody_is_the_worst():
    found = spread({}, [{"rows": 1}] * 2, [{"score": 1.0}, {"score": 3.0}])
    assert found["score"]["mean"] == 2.0 and "worst" not in found["score"]


def by_row(outputs, y):
    return (outputs.argmax(1) == y) * 1.0


def mean(outputs, y):
    return by_row(outputs, y).mean()


def number(outputs, y):
    return float(mean(outputs, y))


def within(outputs, y, k):
    return (np.argsort(-outputs, 1)[:, :k] == y[:, None]).any(1)


@pytest.mark.parametrize("judged", [True, False])
@pytest.mark.parametrize("function", [mean, number])
def test_a_mean_is_refused_before_anything_is_trained(train, tmp_path, function, judged):
    metric = ByRow(function, lower_is_better=False)
    with pytest.raises(PlanError, match="it must return one number for each row"):
        train(metrics=[metric], judged=judged)
    assert not (tmp_path / "run").exists()


def test_values_by_row_and_partials_are_taken(train):
    ways = [
        ByRow(by_row, lower_is_better=False),
        ByRow(partial(within, k=1), lower_is_better=False),
    ]
    run = train(metrics=[*ways, Accuracy()], rounds=2)
    assert run.metrics["by_row"] == run.metrics["within"] == run.metrics["accuracy"] > 0.3
    assert run.directions == {"loss": True, "by_row": False, "within": False, "accuracy": False}
    assert list(run.metrics) == list(run.directions)


def _key(plan):
    return keys.key(plan.seed).at("init")
