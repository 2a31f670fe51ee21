# SPDX-License-Identifier: Apache-2.0
"""The examples of plans with noise run as they are, within their budgets."""

from dataclasses import replace

import pytest

import muster
from private_digits import plan as digits
from private_digits import population as writers
from private_hospitals import plan as hospitals
from private_hospitals import population as wards


@pytest.mark.parametrize(
    ("plan", "population", "least"), [(digits, writers, 0.8), (hospitals, wards, 0.6)]
)
def test_an_example_learns_within_its_budget(plan, population, least, tmp_path):
    people, test = population()
    run = muster.simulate(plan, people, test, path=tmp_path / "run", workers=1)
    assert (len(run.trained), run.facts["spent"]) == (plan.rounds, False)
    assert run.metrics["accuracy"] > least
    assert run.trained[-1]["privacy"]["epsilon"] <= plan.budget.epsilon


def test_a_smaller_budget_stops_it(tmp_path):
    people, test = wards()
    tight = replace(hospitals, budget=replace(hospitals.budget, epsilon=5.0))
    run = muster.simulate(tight, people, test, path=tmp_path / "run", workers=1)
    assert 0 < len(run.trained) < hospitals.rounds
    assert run.facts["spent"]
