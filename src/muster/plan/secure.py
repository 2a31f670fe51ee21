# SPDX-License-Identifier: Apache-2.0
"""Plans whose sums are masked: what they must not do, and what such a sum cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from muster.errors import PlanError
from muster.extras import require
from muster.pipeline.secure_sum import SecureSum
from muster.pipeline.sum_bounds import SumBounds
from muster.plan.view import PlanView
from muster.types import Sent

if TYPE_CHECKING:
    from muster.secagg import SessionTerms

__all__ = [
    "check_cohort",
    "refuse_leaks",
    "refused_session",
    "refused_sum",
    "session_terms",
    "sum_sizes",
]


def refuse_leaks(plan: PlanView) -> None:
    """Raise `PlanError`, with the remedy, for a plan with SecureSum that would undo it."""
    secure = _masks(plan)
    distributed = [one for one in plan.stages.releases() if one.trust == "distributed"]
    if secure.groups > 1 and distributed:
        raise PlanError(
            f"{plan.stages.contracts[-1].noise} makes its noise for one sum of all, and "
            f"SecureSum(groups={secure.groups}) opens several with less noise in each; use "
            f"groups=1, or LocalNoise"
        )
    if plan.sharing.averaged:
        raise PlanError(
            f"SecureSum masks parameters, and {plan.sharing.averaged} averaged buffers (BatchNorm "
            f"statistics) would travel beside them in the clear; keep them local with "
            f"Plan(share='!*.bn*'), by your layers' names, or use a model without, such as one "
            f"with GroupNorm"
        )
    _refuse_weights(plan)
    if secure.metrics == "hidden" and plan.evaluate.clients != 0:
        raise PlanError(
            f"SecureSum keeps metrics with the clients, and {plan.evaluate} asks some for theirs; "
            f"use Plan(evaluate=Every(clients=0)), or SecureSum(metrics='public')"
        )
    count = plan.selection.traits.count
    _ = plan.frame
    if count is not None:  # else it is known when clients are: see `Plan.groups`
        check_cohort(plan, count)


def session_terms(plan: PlanView, size: int, /, **about: Any) -> SessionTerms:
    """Return the terms of a session of so many of a plan's clients: one group, or all of it.

    `about` is what it is of, by name, as in `SecureSum.terms`. Both sides make their terms here,
    each from its own plan; a plan asks for as many survivors as make its round count, and as its
    noise in shares is charged for. Raises `PlanError` where so many do not hide one another.
    """
    return _masks(plan).terms(plan.frame, size, *_floors(plan, size), **about)


def refused_session(plan: PlanView, size: int) -> str:
    """Say why there is no session of so many of a plan's clients, with the remedy, or ""."""
    nothing = bytes(32)
    try:
        session_terms(plan, size, study="", run="", round=0, plan=nothing, model=nothing)
    except PlanError as error:
        return str(error)
    return ""


def sum_sizes(plan: PlanView, size: int | None = None) -> tuple[int, int | None]:
    """Return the fewest and the most clients that are in one secure sum of a plan.

    `size` is how many are invited to it; None takes what the plan says of every sum, and the most
    is None where that is open.
    """
    secure = _masks(plan)
    if size is not None:
        made = secure.bears(size, *_floors(plan, size))
        whole = size <= require("muster.secagg.graph", extra="site").FULL
        return made.least if whole else made.minimum, size
    own = plan.minimum if isinstance(plan.minimum, int) and secure.groups == 1 else 0
    least = max(secure.minimum, own, plan.stages.honest_shares())
    drawn = plan.selection.traits.count
    return least, None if drawn is None else -(-drawn // secure.groups)


def check_cohort(plan: PlanView, count: int) -> None:
    """Raise `PlanError`, with the remedy, for a cohort that the plan's settings do not hide."""
    _masks(plan).check(plan.frame, count, plan.rounds, *_floors(plan, count))


def _masks(plan: PlanView) -> SecureSum:
    """Return the masks of a plan that has some."""
    assert plan.secure is not None, "asked of a plan without SecureSum"
    return plan.secure


def _floors(plan: PlanView, size: int) -> tuple[int, int]:
    """Return the fewest replies that count, and the honest ones that shared noise pays for."""
    return plan.needed(size), plan.stages.honest_shares()


def refused_sum(
    plan: PlanView, sent: Sent, sums: Mapping[str, Any], weight: int, count: int
) -> str:
    """Say why so many honest clients cannot have made these integer sums, or "" if they can.

    `sent` is what they were sent, with the bounds that move between rounds.
    """
    contract = plan.stages.now(sent.stages)[-1]
    bounds = SumBounds(contract, count, plan.weighting == "equal", plan.stages.share_variance())
    return bounds.refusal(sums, weight)


def _refuse_weights(plan: PlanView) -> None:
    """Refuse weights of the population, which are a sum of secret row counts."""
    if plan.weighting == "equal":
        return
    if plan.algorithm.remembers:
        raise PlanError(
            f"{plan.algorithm} needs the cohort's share of all clients' rows, which SecureSum "
            f"keeps secret; use Plan(weighting='equal')"
        )
    if plan.aggregation.denominator == "expected":
        raise PlanError(
            "Mean(denominator='expected') divides by what all clients' rows lead to expect, which "
            "SecureSum keeps secret; use Plan(weighting='equal'), or denominator='replies'"
        )
