# SPDX-License-Identifier: Apache-2.0
"""Plans with a rule that looks at every reply, and what the rule needs to see."""

from __future__ import annotations

from muster.errors import PlanError
from muster.plan.view import PlanView
from muster.vectors import leaves

__all__ = ["refuse_outvoted"]


def refuse_outvoted(plan: PlanView) -> None:
    """Raise `PlanError`, with the remedy, for a plan whose rule would judge too little or amiss."""
    rule, secure = plan.aggregation, plan.secure
    groups = 1 if secure is None else secure.groups
    if secure is not None and groups < max(2, rule.min_replies):
        raise PlanError(
            f"{rule} looks at every reply, and SecureSum(groups={groups}) shows {groups}; give "
            f"SecureSum(groups=...) of at least {max(2, rule.min_replies)}, or use Mean()"
        )
    if plan.sampling.traits.replacement:
        raise PlanError(
            f"{rule} counts each client once, and {plan.sampling} may draw one twice; use "
            f"Uniform(count=...)"
        )
    if secure is None and plan.weighting == "examples":
        raise PlanError(
            f"{rule} counts each client once, whatever rows it claims; use Plan(weighting='equal')"
        )
    _refuse_few(plan)
    for stage, state in zip(plan.stages.stages, plan.stages.init(), strict=True):
        if any(leaves(state)):
            raise PlanError(
                f"{rule} decodes each reply by itself, and {stage} learns from the sum of all; "
                f"leave it out (Clip(bound) in place of AdaptiveClip), or use Mean()"
            )


def _refuse_few(plan: PlanView) -> None:
    """Refuse a cohort that is smaller than what the rule needs."""
    count = plan.sampling.traits.count
    if plan.secure is None and count is not None and count < plan.aggregation.min_replies:
        raise PlanError(
            f"{plan.aggregation} needs {plan.aggregation.min_replies} replies, and {plan.sampling} "
            f"invites fewer; invite more, or expect fewer liars"
        )
