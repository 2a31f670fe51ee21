# SPDX-License-Identifier: Apache-2.0
"""Metrics of a plan are checked when it is made, and its stop rules read them by name."""

from dataclasses import dataclass, replace

import pytest

from muster import EarlyStopping, Every, Local, Plan, Target, algorithms, metrics, tasks
from muster.errors import PlanError
from muster.federation.protocol.message import LIMIT, Measured, to_json
from muster.plan.registry import from_text, to_value

PLAN = Plan(task=tasks.numpy.MLP([4, 3]), algorithm=algorithms.FedAvg(), local=Local(steps=1))


@dataclass(frozen=True)
class Wide(metrics.Metric):
    """As many sums as it is told to."""

    width: int = 9
    name = "wide"
    lower_is_better = True

    def sums(self, outputs, y):
        return {"all": [len(y)] * self.width}

    def value(self, sums):
        return float(sums["all"].mean())


def test_the_usual_metrics_or_those_that_are_named():
    assert PLAN.directions == {"loss": True, "accuracy": False}
    made = replace(PLAN, metrics=[metrics.TopK(2), metrics.Brier()])
    assert made.directions == {"loss": True, "top 2": False, "brier": True}
    assert made.sums == {
        "rows",
        "held out",
        "loss",
        "top 2/hits",
        "top 2/rows",
        "brier/squares",
        "brier/rows",
    }
    assert isinstance(made.metrics, tuple) and hash(made.metrics)


@pytest.mark.parametrize("rule", [Target("top 3", 0.9), EarlyStopping("top 3", 2)])
def test_a_rule_without_its_metric_is_refused_with_the_names(rule):
    with pytest.raises(PlanError, match="measures 'loss', 'top 2': did you mean 'top 2'"):
        replace(PLAN, metrics=[metrics.TopK(2)], stop=[rule])
    with pytest.raises(PlanError, match="'accuracy': name one, or add it to metrics"):
        replace(PLAN, stop=[replace(rule, metric="perplexity")])
    assert replace(PLAN, metrics=[metrics.TopK(3)], stop=[rule]).stop == (rule,)


@pytest.mark.parametrize("name", [None, 3, metrics.Accuracy()])
def test_a_rule_names_its_metric_by_a_word(name):
    for make in (lambda: Target(name, 0.5), lambda: EarlyStopping(name, 3)):
        with pytest.raises(PlanError, match="give the name of a metric of the plan"):
            make()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "0.9", None])
def test_a_target_is_a_number(value):
    with pytest.raises(PlanError, match="value must be a finite number"):
        Target("loss", value)


def test_more_sums_than_a_client_is_asked_for_are_refused():
    made = replace(PLAN, metrics=[Wide(1390)])
    said = Measured("r" * 128, 1, "0" * 64, dict.fromkeys(made.sums, -1.2345678901234567e-300))
    assert len(to_json(said)) < LIMIT  # whatever the numbers are, it can be told
    with pytest.raises(PlanError, match=r"are 1503 sums of up to .* a client tells 60000 at most"):
        replace(PLAN, metrics=[Wide(1500)])
    assert replace(PLAN, metrics=[Wide(1500)], evaluate=Every(clients=0)).sums


def test_metrics_are_written_in_a_shell_and_recorded_as_values():
    assert from_text("[F1('macro'), AUC(bins=50)]") == (metrics.F1("macro"), metrics.AUC(50))
    value = to_value(replace(PLAN, metrics=[metrics.TopK(2)]))
    assert value["metrics"] == [{"class": "TopK", "k": 2}]
