# SPDX-License-Identifier: Apache-2.0
"""The privacy of single rows, such as one patient of a hospital, as a plan says it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from muster.errors import PlanError
from muster.layout import Layout
from muster.privacy.gaussian import LEAST, MOST, gaussian, is_number
from muster.spelling import Spelled

__all__ = ["PerExample"]

CLIPS = 1e-30, 1e30


@dataclass(frozen=True)
class PerExample(Spelled):
    """DP-SGD in each client's local training: Abadi et al. 2016 (arXiv 1607.00133), Algorithm 1.

    Each row's gradient is scaled to an L2 norm of at most `clip`; the sum of a batch gains
    Gaussian noise of standard deviation `multiplier` · `clip` and is divided by a fixed number.
    "poisson" batches draw each row by a coin of its own with rate batch/n, which alone makes a
    step more private than its noise; "shuffled" ones are cut from a fresh order of the rows and
    make nothing more private. A full batch is either.

    Deviations: the sum is divided by batch (n where that is less), never by the rows that came;
    a penalty of the loss, which reads no row, is added after the noise; any local optimizer and
    any bending of the gradient follow, which read nothing but shared state and earlier private
    steps.

    A client's training loss, drift and metrics of evaluation are functions of its rows that no
    noise covers; they stay with it unless `metrics` is "public". Its number of rows counts as
    public. Neighbours: one row adds nothing to any gradient (zero-out), all row counts the same.

    >>> PerExample(clip=1.0, multiplier=1.1).batches
    'poisson'
    """

    clip: float
    multiplier: float
    batches: Literal["poisson", "shuffled"] = "poisson"
    metrics: Literal["hidden", "public"] = "hidden"

    def __post_init__(self) -> None:
        for name, ends, remedy in (
            ("clip", CLIPS, "such as 1.0; without a bound no noise hides a row"),
            ("multiplier", (LEAST, MOST), "such as 1.1; without noise nothing is private"),
        ):
            value, (least, most) = getattr(self, name), ends
            if not (is_number(value) and least <= value <= most):
                raise PlanError(
                    f"PerExample({name}={value!r:.40}): a finite number above 0 is needed, "
                    f"{remedy} (from {least:g} to {most:g})"
                )
        if self.batches not in ("poisson", "shuffled"):
            raise PlanError(
                f"PerExample(batches={self.batches!r}): use 'poisson', which makes a step more "
                f"private, or 'shuffled', which does not"
            )
        if self.metrics not in ("hidden", "public"):
            raise PlanError(f"PerExample(metrics={self.metrics!r}): use 'hidden' or 'public'")

    def accept(self, task: Any) -> None:
        """Raise `PlanError`, with the remedy, for a task whose rows cannot be told apart."""
        if not task.traits.by_row:
            raise PlanError(
                f"{self} needs the gradient of each row, which a {task.framework} task does not "
                f"show; use a numpy or torch task, or Clip and Noise for the privacy of clients"
            )
        if task.mixing or task.layout.buffers:
            layer = task.mixing or next(e.name for e in task.layout.entries if e.kind == "buffer")
            raise PlanError(
                f"{self} needs a model that sees each row by itself, and {layer} mixes rows or "
                f"keeps what they were; put GroupNorm or LayerNorm in its place"
            )

    def noise(self, private: Any, layout: Layout) -> tuple[Any, Any]:
        """Return the noise added to the sums, and the number that they are then divided by.

        `(d,)` and a number for a `Private`, `(clients, d)` and `(clients, 1)` for an array of
        them. What nobody trains gets no noise.
        """
        together = isinstance(private, np.ndarray)
        many = list(private) if together else [private]
        drawn = np.empty((len(many), layout.size), layout.dtype)
        for row, (source, _) in zip(drawn, many, strict=True):
            row[...] = gaussian(source, layout.size, self.multiplier * self.clip)
        for name in layout.frozen:
            layout.named(drawn)[name][...] = 0
        if together:
            return drawn, np.array([[each.expected] for each in many], layout.dtype)
        return drawn[0], many[0].expected
