# SPDX-License-Identifier: Apache-2.0
"""All that a client tells the server beside its update: decided here, for who says it and who asks.

Noise and masks cover an update. Losses, metrics and row counts are exact functions of the rows
that no noise covers, so what hides an update says nothing of these: who keeps them is the plan
(`SecureSum(metrics=...)`, `PerExample(metrics=...)`, `Every(clients=0)`) and a site's policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Disclosure", "Keeps", "NOTHING", "told"]

Shown = Literal["hidden", "public"]


@dataclass(frozen=True)
class Keeps:
    """All that a site's policy has it keep, and whether it adds `noise` of its own to its update.

    `metrics`: losses and metrics; `rows`: how many rows there are, and so all that tells of it.
    """

    metrics: bool = False
    rows: bool = False
    noise: bool = False


@dataclass(frozen=True)
class Disclosure:
    """All that is told beside an update: with the enrolment, with each training, and when asked.

    `enrolled`: the number of rows, and the steps that are done while it trains; `trained`: loss,
    steps, drift and rows of a training; `measured`: the sums of metrics over rows, and how many.
    """

    enrolled: bool = True
    trained: bool = True
    measured: bool = True

    @property
    def rows(self) -> bool:
        """Return whether the number of rows is told in any of these."""
        return self.enrolled or self.trained or self.measured


NOTHING = Keeps()


def told(
    masks: Shown | None,
    examples: Shown | None,
    *,
    evaluates: bool,
    keeps: Keeps = NOTHING,
) -> Disclosure:
    """Return what a client tells under a plan and a policy.

    `masks` and `examples` are the `metrics` of `SecureSum` and of `PerExample`, None without;
    `evaluates` says whether the plan asks any client to measure a model.

    >>> told(None, "hidden", evaluates=False)
    Disclosure(enrolled=True, trained=False, measured=False)
    """
    kept = keeps.metrics or keeps.rows or "hidden" in (masks, examples)
    return Disclosure(masks is None and not keeps.rows, not kept, not kept and evaluates)
