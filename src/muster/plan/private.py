# SPDX-License-Identifier: Apache-2.0
"""Private plans: what makes their noise hide anybody, and what each round then reveals."""

from __future__ import annotations

from typing import Any

import numpy as np

from muster.errors import PlanError
from muster.pipeline.stage import Stage
from muster.plan.keep import Keep
from muster.plan.view import PlanView
from muster.privacy.ledger import Budget
from muster.privacy.release import Charge, Release, Selection
from muster.types import Reply, Roster

__all__ = ["charges", "empty_reply", "noises_sum", "refuse_budget", "refuse_exposed", "selection"]


def refuse_exposed(plan: PlanView) -> None:
    """Raise `PlanError`, with the remedy, for a plan whose noise would not hide its clients."""
    _refuse_told(plan)
    releases = plan.stages.releases()
    if not releases:
        if plan.budget is not None and plan.local.examples is None:
            raise PlanError(
                f"Plan(budget={plan.budget}): no stage adds noise, so nothing is bounded; put "
                f"Clip(bound) and Noise(multiplier) into the pipeline, or "
                f"Local(examples=PerExample(clip, multiplier)), or leave the budget out"
            )
        return
    _refuse_sampling(plan)
    _refuse_minimum(plan, releases)
    noise = plan.stages.contracts[-1].noise
    if noise and plan.aggregation.denominator != "expected":
        raise PlanError(
            f"{noise} hides who took part only where the sum is divided by a fixed number, and "
            f"{plan.aggregation} divides by the replies; use Mean(denominator='expected')"
        )
    if plan.sharing.averaged:
        raise PlanError(
            f"{noise or 'LocalNoise'} hides parameters, and {plan.sharing.averaged} averaged "
            f"buffers (BatchNorm statistics) would travel beside them in the clear; keep them "
            f"local with Plan(share='!*.bn*'), by your layers' names, or use a model with GroupNorm"
        )
    for release in releases:
        _refuse_release(plan, release)
    _refuse_kept(plan)


def _refuse_told(plan: PlanView) -> None:
    """Refuse to tell metrics: they are functions of the rows that `PerExample` is to hide."""
    if not plan.local.reports and plan.evaluate.clients != 0:
        raise PlanError(
            f"{plan.local.examples} keeps metrics with the clients, and {plan.evaluate} asks some "
            f"for theirs; use Plan(evaluate=Every(clients=0)), or PerExample(metrics='public')"
        )


def _refuse_sampling(plan: PlanView) -> None:
    if not plan.sampling.traits.kind:
        raise PlanError(
            f"{plan.sampling} has no privacy accounting: a client may count more than once, or by "
            f"its data; use Poisson(rate), Uniform(count=...), Rotation(slots) or All()"
        )


def _refuse_minimum(plan: PlanView, releases: tuple[Release, ...]) -> None:
    """Refuse noise on the sum of a round that may be given up for want of replies.

    Whether it is given up is a bit that no noise covers: where nine of ten answer, and the tenth
    decides, it tells for certain whether the tenth was there. So a sum of nobody is a release like
    any other, and the least number of replies is one. Behind a mask fewer than its own minimum are
    never opened, and the coins of `Poisson` are seen: there neighbours are those of zero-out, who
    are invited, answer and are lost alike, so the bit is the same in both and tells nothing. Noise
    in shares needs its minimum, has the same neighbours, and keeps it for the same reason.
    """
    central = any(release.trust == "central" for release in releases)
    if central and not (isinstance(plan.minimum, int) and plan.minimum == 1):
        raise PlanError(
            f"{plan.stages.contracts[-1].noise} is added to a sum, and Plan(minimum="
            f"{plan.minimum!r}) would give a round up for want of replies, which tells who took "
            f"part and no noise hides; use Plan(minimum=1): a sum of nobody is noise like any other"
        )


def _refuse_release(plan: PlanView, release: Release) -> None:
    least = release.survivors
    if release.discrete and not (isinstance(plan.minimum, int) and plan.minimum >= least):
        raise PlanError(
            f"{plan.stages.contracts[-1].noise} makes its noise for {least} replies, and "
            f"Plan(minimum={plan.minimum!r}) would release fewer; use Plan(minimum={least})"
        )
    kept = plan.sampling.traits.separation
    if release.mechanism == "matrix" and release.separation > kept:
        raise PlanError(
            f"the noise counts on {release.separation} rounds between two turns of a client, and "
            f"{plan.sampling} keeps {kept}; use BandedNoise(separation={kept}), or a sampling "
            f"that keeps turns apart, such as Rotation(slots={release.separation})"
        )


def _refuse_kept(plan: PlanView) -> None:
    """Refuse to keep correlated noise: its state has the rows that take it off the model again."""
    if plan.keep == Keep():
        return
    for stage in plan.stages.stages:
        if type(stage).ended is not Stage.ended:
            raise PlanError(
                f"{plan.keep} would keep older models, and with each the last rows of its noise, "
                f"which take that noise off again: {stage} is correlated over rounds; leave keep "
                f"out, or use Noise(multiplier)"
            )


def refuse_budget(budget: object) -> None:
    """Raise `PlanError` for what is no budget."""
    if budget is not None and not isinstance(budget, Budget):
        raise PlanError(
            f"Plan(budget={budget!r}): that is no budget; give muster.privacy.Budget(epsilon=2.0, "
            f"delta=1e-6), or None"
        )


def noises_sum(plan: PlanView) -> bool:
    """Return whether the server adds noise to the sum: then a sum of nobody is a release, too."""
    return any(release.trust == "central" for release in plan.stages.releases())


def empty_reply(plan: PlanView) -> Reply:
    """Return the sum of no replies; noise then hides that there were none."""
    return Reply((), plan.stages.empty_reply(plan.dtype), 0.0, {}, np.zeros(0, plan.dtype))


def selection(plan: PlanView, roster: Roster) -> Selection:
    """Return the selection by which the plan draws its clients from those.

    A mask needs its cohort to know one another, so whoever is in it, and the server, sees who is.
    """
    traits = plan.sampling.traits
    kind: Any = traits.kind  # which a selection refuses where it is none that is accounted
    return Selection(
        kind,
        plan.sampling.share(roster),
        seen=plan.secure is not None,
        separation=traits.separation,
    )


def charges(plan: PlanView, roster: Roster, run: str) -> tuple[Charge, ...]:
    """Return the charges of one round, one for each stage with noise.

    The second one and those after it go by the run's name with their number, as a ledger has one
    entry for a round of a run.
    """
    how = selection(plan, roster)
    named = (run if not i else f"{run}#{i + 1}" for i in range(len(plan.stages.releases())))
    return tuple(
        Charge(release, how, run=name)
        for release, name in zip(plan.stages.releases(), named, strict=True)
    )
