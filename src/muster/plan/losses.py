# SPDX-License-Identifier: Apache-2.0
"""A sampler that reads losses of single clients, and plans that do not show any."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from muster.errors import PlanError
from muster.plan.view import PlanView
from muster.types import ClientId, Reply

__all__ = ["losses_of", "mean_losses", "refuse_hidden_losses", "with_loss"]


def mean_losses(
    sums: Iterable[tuple[ClientId, Mapping[str, float]]],
) -> dict[ClientId, float]:
    """Return each client's mean loss, from its sums "loss" and "rows"; no entry without a value.

    >>> mean_losses([("a", {"rows": 2.0, "loss": 3.0}), ("b", {"rows": 0.0, "loss": 0.0})])
    {'a': 1.5}
    """
    found = {c: one["loss"] / one["rows"] for c, one in sums if one.get("rows", 0) > 0}
    return {client: loss for client, loss in found.items() if np.isfinite(loss)}


def losses_of(
    plan: PlanView, clients: Sequence[ClientId], metrics: Mapping[str, Any]
) -> tuple[tuple[ClientId, float], ...]:
    """Return the mean training loss of each client, where the plan's sampler needs it.

    `metrics` has the sums `(clients,)`. One that is not finite stands as infinite.
    """
    if not plan.sampling.traits.needs_losses or not {"loss", "rows"} <= metrics.keys():
        return ()
    with np.errstate(all="ignore"):
        found = np.asarray(metrics["loss"]) / np.asarray(metrics["rows"])
    return tuple(zip(clients, np.where(np.isfinite(found), found, np.inf).tolist(), strict=True))


def with_loss(plan: PlanView, reply: Reply) -> Reply:
    """Return one client's reply with its mean training loss beside, where that is needed."""
    sums = {name: np.array([value]) for name, value in reply.metrics.items()}
    return replace(reply, losses=losses_of(plan, reply.clients, sums))


def refuse_hidden_losses(plan: PlanView) -> None:
    """Raise `PlanError`, with the remedy, where losses are hidden or noise is to protect them.

    A cohort that is chosen by losses tells of them, whatever noise the sum has; and a mask shows
    the sum of losses at the most.
    """
    if not plan.sampling.traits.needs_losses:
        return
    hides = "a mask hides" if plan.secure is not None else ""
    if plan.local.examples is not None:
        hides = f"{plan.local.examples} protects"
    elif plan.stages.releases():
        hides = "noise protects"
    if hides:
        raise PlanError(
            f"{plan.sampling} draws clients by their losses, which {hides} in this plan; use a "
            f"sampler that needs none, such as Uniform(count=...), or leave out what hides them"
        )
