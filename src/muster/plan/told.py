# SPDX-License-Identifier: Apache-2.0
"""All that a plan has its clients tell beside their updates, by itself and by its record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from muster.privacy.told import NOTHING, Disclosure, Keeps, told

__all__ = ["told_of", "told_of_value"]


def told_of(plan: Any, keeps: Keeps = NOTHING) -> Disclosure:
    """Return what a client with this plan tells, whose policy `keeps` so much.

    >>> from muster import Local, PerExample, Plan, Every, algorithms, tasks
    >>> local = Local(steps=1, batch=2, examples=PerExample(1.0, 1.0))
    >>> plan = Plan(tasks.numpy.LogisticRegression(2), algorithms.FedAvg(), local,
    ...             evaluate=Every(clients=0))
    >>> told_of(plan).trained
    False
    """
    secure, examples = plan.secure, plan.local.examples
    return told(
        None if secure is None else secure.metrics,
        None if examples is None else examples.metrics,
        evaluates=plan.evaluate.clients != 0,
        keeps=keeps,
    )


def told_of_value(value: Mapping[str, Any], keeps: Keeps = NOTHING) -> Disclosure:
    """Return the same of a recorded plan (`registry.to_value`)."""
    masks = [one["metrics"] for one in value.get("pipeline", ()) if one["class"] == "SecureSum"]
    examples = value["local"]["examples"]
    return told(
        masks[0] if masks else None,
        None if examples is None else examples["metrics"],
        evaluates=value["evaluate"]["clients"] != 0,
        keeps=keeps,
    )
