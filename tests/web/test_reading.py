# SPDX-License-Identifier: Apache-2.0
"""A history read: why the run ended, what is best, who is missing."""

import pytest

from muster.web import reading


@pytest.mark.parametrize(
    ("stop", "sentence"),
    [
        ([], "6 of 9 planned rounds are committed; the run can be resumed."),
        ([{"class": "Target", "metric": "accuracy", "value": 0.99}], "the run can be resumed."),
        ([{"class": "Target", "metric": "accuracy", "value": 0.8}], "its target of 0.8000."),
        (
            [{"class": "EarlyStopping", "metric": "loss", "evaluations": 2}],
            "the run can be resumed.",
        ),
        ([{"class": "mine:Rule", "x": 1}], "the run can be resumed."),
    ],
)
def test_why_a_run_ended(make, plan, stop, sentence):
    run = make(plan=plan | {"rounds": 9, "stop": stop})
    assert reading.ending(run).endswith(sentence)


def test_early_stopping_and_a_recorded_reason(make, plan, history):
    lines = history()
    for record in lines[1:]:
        record["metrics"]["loss"] = 2.0
    patient = [{"class": "EarlyStopping", "metric": "loss", "evaluations": 3}]
    run = make(plan=plan | {"rounds": 9, "stop": patient}, history=lines)
    assert "had not improved in 3 evaluations" in reading.ending(run)
    run = make("b", stopped="the privacy budget is spent")
    assert reading.ending(run) == "Stopped after 6 of 6 rounds: the privacy budget is spent."
    assert reading.ending(make("c", plan=None)) == "6 rounds committed."


def test_the_best_value_is_the_first_of_the_best():
    points = [(1, 0.5), (2, 0.9), (3, 0.9)]
    assert reading.best(points, lower=False) == (2, 0.9)
    assert reading.best(points, lower=True) == (1, 0.5)
    assert reading.best([], lower=True) is None
    assert reading.best(points, lower=None) is None  # nothing says which way is better


def test_clients_are_counted_from_the_population_or_the_invitations(make):
    assert reading.clients(make()) == (3, False)
    known = {"clients": ["a"], "rows": [1]}
    assert reading.clients(make("b", population=known)) == (1, True)
    assert reading.clients(make("c", population=known | {"count": 7})) == (7, True)


def test_missing_totals_are_none():
    assert reading.total([{"round": 1}], "bytes_up") is None
    assert reading.total([{"bytes_up": 1}, {"bytes_up": 2}], "bytes_up") == 3


def test_duration_never_shows_sixty_seconds():
    assert reading.duration(119.7) == "2 min 0 s"
    assert reading.duration(None) == reading.size(None) == "–"


def test_a_plan_with_stages_in_rows():
    value = {"pipeline": [{"class": "Clip", "bound": 1.0}], "stop": [], "layers": [3, [4]]}
    assert reading.rows(value) == [
        ("pipeline[1]", "Clip"),
        ("pipeline[1].bound", "1.0"),
        ("stop", "none"),
        ("layers", "[3, [4]]"),
    ]
