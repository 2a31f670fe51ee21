# SPDX-License-Identifier: Apache-2.0
"""The metrics that a plan measures: those it names, or the usual ones of its task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from muster.errors import PlanError
from muster.metrics.accuracy import Accuracy
from muster.metrics.auc import AUC
from muster.metrics.error import RMSE
from muster.metrics.f1 import F1
from muster.metrics.head import OutputHead
from muster.metrics.metric import LONGEST, TAKEN, Metric, called
from muster.metrics.r2 import R2
from muster.metrics.task_mean import Loss, TaskMean

__all__ = ["chosen", "usual"]


def usual(head: OutputHead) -> tuple[Metric, ...]:
    """Return the metrics beside the loss where a plan names none.

    Accuracy of classes, and AUC where there are two; RMSE and R² of numbers; of a task with its
    own training what that measures.

    >>> [metric.name for metric in usual(OutputHead("softmax", 2))]
    ['accuracy', 'auc']
    """
    if head.rows_of == "classes":
        two = head.kind == "sigmoid" or head.width == 2
        return (Accuracy(), AUC()) if two else (Accuracy(),)
    return (RMSE(), R2()) if head.rows_of == "numbers" else head.means


def chosen(metrics: Sequence[Any], head: OutputHead, task: str) -> tuple[Metric, ...]:
    """Return the loss and the given metrics, or the usual ones. Raises `PlanError` for others.

    `task` is what an error calls the task.
    """
    for metric in metrics:
        _refuse(metric, head, task)
    found = (Loss(), *(metrics or usual(head)))
    names = [metric.name for metric in found]
    for name in names:
        if names.count(name) > 1:
            raise PlanError(
                f"Plan(metrics=...) has {names.count(name)} metrics named {name!r} (the loss is "
                f"always measured); give each a name of its own"
            )
    return found


def _refuse(metric: Any, head: OutputHead, task: str) -> None:
    if isinstance(metric, str):
        raise PlanError(
            f"Plan(metrics=[{metric!r}]): that is a name; give a metric, such as "
            f"muster.metrics.Accuracy() or muster.metrics.F1('macro')"
        )
    if isinstance(metric, type) and issubclass(metric, Metric):
        raise PlanError(f"Plan(metrics=[{metric.__name__}]): that is a class; call it")
    if not isinstance(metric, Metric):
        raise PlanError(
            f"Plan(metrics=[{metric!r}]): that is no metric; wrap a function of values by row as "
            f"muster.metrics.ByRow(function, lower_is_better=...), or give a muster.metrics.Metric"
        )
    _refuse_name(metric)
    if head.kind == "none" and metric not in head.means:
        raise PlanError(
            f"{metric} reads outputs of a model, which {task} does not show; return the mean from "
            f"its measure, and declare it there as metrics=(TaskMean({metric.name!r}, ...),)"
        )
    if head.kind != "none" and isinstance(metric, TaskMean):
        raise PlanError(f"{metric} is measured by a task with its own fit, which {task} is not")
    if metric.rows_of is not None and head.rows_of not in (None, metric.rows_of):
        raise PlanError(f"{metric} is of {metric.rows_of}, and {task} predicts {head.rows_of}")
    if metric.needs != "outputs" and head.rows_of != "classes":
        raise PlanError(
            f"{metric} reads {metric.needs}, and {task} does not say that its outputs are classes; "
            f"use a Classifier, or a metric that reads outputs"
        )
    if isinstance(metric, F1) and metric.classes is None and head.rows_of is None:
        return
    if isinstance(metric, F1) and metric.average != "binary" and _unknown(metric, head):
        raise PlanError(
            f"{metric} counts by class, and {task} does not say how many there are before it sees "
            f"rows; give F1({metric.average!r}, classes=...)"
        )


def _unknown(metric: F1, head: OutputHead) -> bool:
    return metric.classes is None and head.kind == "softmax" and head.width is None


def _refuse_name(metric: Metric) -> None:
    try:
        name = metric.name
        lower = metric.lower_is_better
    except (NotImplementedError, AttributeError) as error:
        raise PlanError(
            f"{metric!r} has no name or no direction ({error}); give it a name and "
            f"lower_is_better = True or False"
        ) from None
    if not called(name):
        raise PlanError(
            f"{metric!r} is named {name!r}; a name has 1 to {LONGEST} printable letters without a "
            f"slash, and is none of {', '.join(sorted(TAKEN))}"
        )
    if not isinstance(lower, bool):
        raise PlanError(f"{metric!r} has lower_is_better={lower!r}; say True or False")
    if metric.needs not in ("outputs", "probabilities", "labels"):
        raise PlanError(f"{metric!r} needs {metric.needs!r}; use outputs, probabilities or labels")
