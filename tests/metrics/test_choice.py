# SPDX-License-Identifier: Apache-2.0
"""The metrics of a plan: those it names, or the usual; what is no metric is refused."""

import pytest

from muster import metrics
from muster.errors import PlanError
from muster.metrics import AUC, F1, MAE, Accuracy, Loss, Metric, TaskMean
from muster.metrics.choice import chosen, usual
from muster.metrics.head import OutputHead

CLASSES, NUMBERS, OWN = OutputHead("softmax", 4), OutputHead("numbers", 1), OutputHead("own")


class Named(Metric):
    """A metric with a name, and perhaps a direction."""

    def __init__(self, name, lower=True, needs="outputs"):
        if name is not None:
            self.name = name
        self.needs = needs
        if lower is not None:
            self.lower_is_better = lower


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (CLASSES, ["accuracy"]),
        (OutputHead("softmax", 2), ["accuracy", "auc"]),
        (OutputHead("softmax"), ["accuracy"]),
        (OutputHead("sigmoid", 1), ["accuracy", "auc"]),
        (NUMBERS, ["rmse", "r2"]),
        (OWN, []),
        (OutputHead("none", means=(TaskMean("score", False),)), ["score"]),
    ],
)
def test_the_usual_metrics_of_a_task(head, expected):
    assert [metric.name for metric in usual(head)] == expected
    assert [metric.name for metric in chosen((), head, "it")] == ["loss", *expected]


def test_a_plan_measures_what_it_names_and_the_loss():
    assert chosen([F1("macro")], CLASSES, "it") == (Loss(), F1("macro"))


@pytest.mark.parametrize(
    ("metric", "head", "message"),
    [
        (
            "accuracy",
            CLASSES,
            r"that is a name; give a metric, such as muster.metrics.Accuracy\(\)",
        ),
        (Accuracy, CLASSES, "that is a class; call it"),
        (
            len,
            CLASSES,
            r"wrap a function of values by row as muster.metrics.ByRow\(function, lower",
        ),
        (None, CLASSES, "that is no metric"),
        (Accuracy(), NUMBERS, r"Accuracy\(\) is of classes, and it predicts numbers"),
        (MAE(), CLASSES, r"MAE\(\) is of numbers, and it predicts classes"),
        (Accuracy(), OWN, "reads labels, and it does not say that its outputs are classes"),
        (
            AUC(),
            OutputHead("none"),
            r"reads outputs of a model, which it does not show; .*TaskMean",
        ),
        (TaskMean("score", False), CLASSES, "measured by a task with its own fit, which it is not"),
        (F1("macro"), OutputHead("softmax"), r"give F1\('macro', classes=...\)"),
        (Named("a/b"), CLASSES, "without a slash"),
        (Named("rows"), CLASSES, "is none of"),
        (Named(""), CLASSES, "1 to 64 printable letters"),
        (Named("x" * 65), CLASSES, "1 to 64 printable letters"),
        (Named(" a"), CLASSES, "1 to 64 printable letters"),
        (Named(3), CLASSES, "1 to 64 printable letters"),
        (Named(None), CLASSES, "no name or no direction"),
        (Named("a", None), CLASSES, "no name or no direction"),
        (Named("a", "up"), CLASSES, "say True or False"),
        (Named("a", needs="logits"), CLASSES, "use outputs, probabilities or labels"),
    ],
)
def test_what_is_no_metric_of_a_task_is_refused(metric, head, message):
    with pytest.raises(PlanError, match=message):
        chosen([metric], head, "it")


def test_two_metrics_of_one_name_are_refused():
    with pytest.raises(PlanError, match="2 metrics named 'auc'"):
        chosen([AUC(5), AUC(9)], OutputHead("sigmoid", 1), "it")
    with pytest.raises(PlanError, match=r"2 metrics named 'loss' \(the loss is always measured"):
        chosen([metrics.Loss()], CLASSES, "it")
