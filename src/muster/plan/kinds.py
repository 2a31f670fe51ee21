# SPDX-License-Identifier: Apache-2.0
"""The kind of each field of a plan: a class for a value, or no list, is said at once."""

from __future__ import annotations

import inspect

from muster.algorithms.algorithm import Algorithm
from muster.errors import PlanError
from muster.local import Local
from muster.metrics.head import OutputHead
from muster.optimizers import Optimizer
from muster.plan.keep import Keep
from muster.plan.stopping import Every
from muster.plan.view import PlanView
from muster.sampling.sampler import Sampler
from muster.spelling import alien

__all__ = ["refuse_kinds"]


def _has(value: object, name: str) -> bool:
    """Return whether a value has an attribute, unread: reading may build a user's model.

    An `AttributeError` from in there would look as if the attribute were missing.
    """
    return inspect.getattr_static(value, name, None) is not None


def refuse_kinds(plan: PlanView) -> None:
    """Raise `PlanError`, with the remedy, for a field of another kind than is needed."""
    kinds = {"algorithm": Algorithm, "local": Local, "evaluate": Every, "keep": Keep}
    kinds |= {"sampling": Sampler}
    seams = {"task": "layout", "aggregation": "min_replies"}
    for name in (*kinds, *seams):
        value, kind = getattr(plan, name), kinds.get(name)
        fits = isinstance(value, kind) if kind else _has(value, seams[name])
        if not fits or isinstance(value, type):
            noun = kind.__name__ if kind else name
            raise PlanError(
                f"Plan({name}={value!r}): that is no {noun}; give one (did you forget to call it?)"
            )
    task = plan.task  # what goes wrong inside its own `head` is shown as what it is
    if not _has(task, "head") or not isinstance(task.head, OutputHead):
        raise PlanError(
            f"Plan(task={plan.task!r}): it does not say what its outputs are; give it head = "
            f"muster.metrics.head.OutputHead('own'), or another kind"
        )
    if not _has(task, "traits"):
        raise PlanError(
            f"Plan(task={plan.task!r}): it does not say what it can do; give it traits = "
            f"muster.types.TaskTraits(), or with what differs"
        )
    server = vars(plan.algorithm).get("server")
    if server is not None and not isinstance(server, Optimizer):
        raise PlanError(f"{type(plan.algorithm).__name__}(server={alien(server, Optimizer)}")
    if not isinstance(plan.share, (str, tuple, list)):
        raise PlanError(f"Plan(share={plan.share!r}): name patterns are needed, such as '*'")
    for name in ("pipeline", "stop", "metrics"):
        if not isinstance(getattr(plan, name), (tuple, list)):
            raise PlanError(
                f"Plan({name}={getattr(plan, name)!r}): a list is needed; put [ ] around it"
            )
    for rule in plan.stop:
        if not _has(rule, "met") or isinstance(rule, type):
            raise PlanError(
                f"Plan(stop=[{rule!r}]): that is no rule; give rules such as "
                f"EarlyStopping('loss', evaluations=5)"
            )
