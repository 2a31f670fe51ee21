# SPDX-License-Identifier: Apache-2.0
"""The quorum: how many clients a plan's round needs, and whether so many could ever be enough."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import count

from muster.errors import PlanError
from muster.plan.secure import check_cohort
from muster.plan.view import PlanView
from muster.types import ClientId

__all__ = ["fewest", "needed", "refuse_few", "refuse_unreachable", "shortage", "target_replies"]

SHOWN = 5  # clients that a sentence names
MOST = 1 << 20  # clients beyond which a plan is for nobody


def needed(minimum: float, goal: int) -> int:
    """Return the fewest replies that make a round count that is done with `goal` of them.

    >>> needed(5, 40), needed(0.5, 9)
    (5, 5)
    """
    return minimum if isinstance(minimum, int) else max(1, math.ceil(minimum * goal))


def target_replies(invited: int, overselect: float) -> int:
    """Count the replies of so many invited that are enough.

    >>> target_replies(13, 1.3)
    10
    """
    return math.ceil(round(invited / overselect, 9))


def refuse_unreachable(plan: PlanView) -> None:
    """Raise `PlanError` for a plan whose rounds never get as many replies as they need.

    Where its sampling says how many it draws; else it is known when clients are.
    """
    drawn = plan.selection.traits.count
    if drawn is not None and (why := _unmet(plan, drawn)):
        raise PlanError(f"{why}; lower minimum, or invite more")


def shortage(plan: PlanView, clients: int) -> str:
    """Say why no round over so many enrolled clients can ever count; "" where one can."""
    try:
        return _unmet(plan, plan.selection.size(clients))
    except PlanError as error:
        return str(error)


def _unmet(plan: PlanView, invited: int) -> str:
    """Say why so many invited are too few, even if they all reply; "" where they are not."""
    replies, least = plan.target_replies(invited), plan.needed(invited)
    if replies < least:
        taken = "" if replies == invited else f", of which the first {replies} replies are taken"
        return (
            f"Plan(minimum={plan.minimum!r}) needs {least} replies, and {plan.selection} invites "
            f"at most {invited}{taken}"
        )
    if plan.secure is None:
        least = plan.aggregation.min_replies
        return f"{plan.aggregation} needs {least} replies" if replies < least else ""
    try:
        check_cohort(plan, invited)
    except PlanError as error:
        return str(error)
    return ""


def fewest(plan: PlanView) -> int:
    """Return the fewest clients that a round needs to count. Raises `PlanError` for none."""
    enough = next((n for k in count() if (n := 1 << k) >= MOST or not shortage(plan, n)), MOST)
    if why := shortage(plan, enough):
        raise PlanError(f"{why}; no number of clients would do")
    few = enough // 2  # too few, or none at all
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (middle, enough) if shortage(plan, middle) else (few, middle)
    return enough


def refuse_few(plan: PlanView, clients: Sequence[ClientId]) -> None:
    """Raise `PlanError`, naming who is there, where no round over these clients can count."""
    why = shortage(plan, len(clients))
    if not why:
        return
    more = len(clients) - SHOWN
    named = ", ".join(map(repr, clients[:SHOWN])) + (f" and {more} more" if more > 0 else "")
    who = f"the {len(clients)} client{'s' * (len(clients) != 1)} there are ({named})"
    missing = fewest(plan) - len(clients)
    remedy = (
        "change that setting"
        if missing <= 0
        else (
            f"{missing} more {'is' if missing == 1 else 'are'} missing: enrol them, or change that "
            f"setting"
        )
    )
    raise PlanError(f"no round can ever count with {who}: {why}; {remedy}")
