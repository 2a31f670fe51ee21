# SPDX-License-Identifier: Apache-2.0
"""Doubts about a model: a loss that is no number, no more than a constant answer, a rise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from muster.metrics.constant import beaten
from muster.plan import EarlyStopping, Plan, Target

__all__ = ["doubt", "warned"]

RISE = 2.0  # times its first value, from which a training loss has risen


def doubt(plan: Plan, found: Mapping[str, Any], least: Mapping[str, float], what: str) -> str:
    """Say why an evaluation (a record's part) should not be taken for a good one, or "".

    `least` is what the best constant answer to the measured rows, or a guess, reaches
    (`metrics.constant`), and `what` which of the two.
    """
    spread = found.get("clients") or {}
    over = {name: part["weighted"] for name, part in spread.items() if isinstance(part, dict)}
    metrics: Mapping[str, float] = found.get("metrics") or over
    unread = _unread(plan, found)
    if unread:
        return unread
    loss = metrics.get("loss")
    if loss is not None and not math.isfinite(loss):
        return f"the loss is {loss:g}: training has diverged"
    if beaten(metrics, least):
        return ""
    said = " and ".join(
        f"{name} {metrics[name]:.4g} ({what} has {least[name]:.4g})"
        for name in ("accuracy", "loss")
        if name in metrics and name in least
    )
    return f"the model is no better than {what}: {said}; it has not learned, or diverged"


def _unread(plan: Plan, found: Mapping[str, Any]) -> str:
    """Say which rule, to stop or to keep by, names a metric without a measured value, or ""."""
    metrics = found.get("metrics") or {}
    rules = [(one, one.metric) for one in plan.stop if isinstance(one, Target | EarlyStopping)]
    for rule, name in [*rules, *([(plan.keep, plan.keep.best)] if plan.keep.best else [])]:
        if name not in metrics:
            return (
                f"{rule} read nothing: {name} was measured neither on central test rows nor "
                f"on test rows of clients"
            )
        if math.isnan(metrics[name]):
            return f"{rule} read nothing: {name} has no value on these rows"
    return ""


def warned(history: Sequence[Mapping[str, Any]]) -> str:
    """Say what a run's last evaluation, or the course of its training loss, warns of, or "".

    >>> warned([{"train": {"loss": 0.5}}, {"train": {"loss": 40.0}}])
    'the training loss rose from 0.5 in the first round to 40 in the last: training diverges'
    """
    last: Mapping[str, Any] = next(
        (r for r in reversed(history) if "metrics" in r or "clients" in r), {}
    )
    if last.get("warning"):
        return str(last["warning"])
    losses = [float(r["train"]["loss"]) for r in history if r.get("train")]
    if losses and not math.isfinite(losses[-1]):
        return f"the training loss of the last round is {losses[-1]:g}: training has diverged"
    if len(losses) > 1 and losses[-1] > RISE * losses[0] > 0:
        return (
            f"the training loss rose from {losses[0]:.4g} in the first round to {losses[-1]:.4g} "
            f"in the last: training diverges"
        )
    return ""
