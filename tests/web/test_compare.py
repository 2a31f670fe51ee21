# SPDX-License-Identifier: Apache-2.0
"""Runs side by side: the table is the history's numbers, the page shows the table."""

import json

import pytest

from muster.errors import RunError
from muster.runs.run import Run
from muster.web import compare

PROX = {"class": "FedProx", "mu": 0.1, "server": {"class": "SGD", "rate": 1.0}}


def test_numbers_equal_the_history(make, history):
    good, poor = make("good", history(top=0.9)), make("poor", history(top=0.7))
    first, second = compare.table([good, poor])
    values = [record["metrics"]["accuracy"] for record in good.history]
    assert (first["last"], first["best"], first["best_round"]) == (values[-1], max(values), 6)
    goal = max(record["metrics"]["accuracy"] for record in poor.history)
    assert first["goal"] == second["goal"] == goal
    assert first["rounds_to_goal"] == next(r for r, v in enumerate(values, 1) if v >= goal) == 2
    assert second["rounds_to_goal"] == 6
    assert (first["bytes_up"], first["bytes_to_goal"]) == (7200, 2400)
    assert first["seconds"] == sum(record["seconds"] for record in good.history)
    json.dumps([first, second], allow_nan=False)


def test_a_falling_metric_has_its_goal_above(make, history):
    lines = compare.table([make("a", history(top=0.9)), make("b", history(top=0.7))], "loss")
    assert lines[0]["goal"] == lines[1]["best"] > lines[0]["best"]


def test_what_differs(make, plan):
    same = make("a")
    assert compare.table([same, same])[0]["differs"] == {}
    slow = plan | {
        "seed": 3,
        "algorithm": {"class": "FedAvg", "server": {"class": "SGD", "rate": 0.1}},
    }
    pair = compare.table([same, make("b", plan=slow)])
    assert [line["differs"] for line in pair] == [
        {"algorithm.server.rate": 1.0, "seed": None},
        {"algorithm.server.rate": 0.1, "seed": 3},
    ]
    three = compare.table([same, make("c", plan=slow), make("d", plan=plan | {"algorithm": PROX})])
    assert [line["differs"]["algorithm"]["class"] for line in three] == [
        "FedAvg",
        "FedAvg",
        "FedProx",
    ]
    assert "algorithm.server.rate" not in three[0]["differs"]


def test_runs_of_one_name_are_told_apart(make):
    lines = compare.table([make("x/run"), make("y/run")])
    assert [line["id"] for line in lines] == ["x/run", "y/run"]
    again = compare.table([make("z")] * 2)
    assert len({line["id"] for line in again}) == 2


def test_runs_without_numbers(make, history):
    lines = history()
    for record in lines:
        del record["metrics"], record["clients"]
    good, blind, empty = make(), make("blind", lines), make("empty", [], plan=None)
    table = compare.table([good, blind, empty])
    assert [line["best"] is None for line in table] == [False, True, True]
    assert table[2]["algorithm"] is None
    for line in compare.table([blind, empty]):
        assert line["metric"] is line["goal"] is line["rounds_to_goal"] is None


def test_means_over_clients_stand_in(make, history):
    lines = history()
    for record in lines:
        del record["metrics"]
    run = make(history=lines)
    assert compare.table([run])[0]["last"] == lines[-1]["clients"]["accuracy"]["mean"]


def test_a_run_that_diverged_has_no_last_value(make, history):
    lines = history()
    lines[-1]["metrics"]["accuracy"] = float("nan")
    (line,) = compare.table([make(history=lines)])
    assert line["last"] is None and line["best"] == lines[-2]["metrics"]["accuracy"]


def test_refusals(make):
    with pytest.raises(RunError, match="no runs were given"):
        compare.table([])
    with pytest.raises(RunError, match="'f1'; the runs have accuracy, loss"):
        compare.table([make()], "f1")


@pytest.mark.parametrize("count", [1, 2, 20])
def test_the_page(make, history, plan, tmp_path, count):
    runs = [
        make(f"run<b>{n}", history(top=0.9 - n / 50), plan=plan | {"seed": n}) for n in range(count)
    ]
    text = compare.write(runs, tmp_path / "deep" / "c.html").read_text()
    assert text.count("<svg ") == 1 and "<b>" not in text
    assert "run&lt;b&gt;0 has the best accuracy" in text
    assert f"{runs[0].history[-1]['metrics']['accuracy']:.4f}" in text
    again = compare.write([Run(run.path) for run in runs], tmp_path / "d.html")
    assert again.read_text() == text


def test_the_page_without_numbers(make, tmp_path):
    text = compare.write([make(history=[])], tmp_path / "c.html").read_text()
    assert "None of these runs was evaluated." in text
    assert "<svg" not in text
