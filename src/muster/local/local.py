# SPDX-License-Identifier: Apache-2.0
"""Local training, as a plan says it."""

from __future__ import annotations

from dataclasses import dataclass

from muster.errors import PlanError
from muster.optimizers import SGD, Optimizer
from muster.privacy.per_example import PerExample
from muster.schedules import Constant, Schedule
from muster.spelling import Spelled, alien

__all__ = ["Local"]


@dataclass(frozen=True)
class Local(Spelled):
    """Local training of one round: `epochs` over the client's rows, or `steps` for everybody.

    `batch` rows a step, None for the full batch, 1 for single-sample; one epoch is ceil(n/batch)
    steps and keeps the short last batch. `schedule` multiplies the optimizer's rate by round. A
    round is not an epoch: with 10 % of the clients and E = 1 the data are seen once in 10 rounds.
    `examples` keeps each of the client's rows private, and draws the batches by its own rule.

    >>> Local(epochs=5, batch=10).epochs
    5
    """

    epochs: int | None = None
    steps: int | None = None
    batch: int | None = None
    optimizer: Optimizer = SGD(0.1)
    schedule: Schedule = Constant()
    examples: PerExample | None = None

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise PlanError(
                f"Local(epochs={self.epochs}, steps={self.steps}): give exactly one of epochs "
                f"and steps, such as Local(epochs=1, batch=32)"
            )
        for name in ("epochs", "steps", "batch"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise PlanError(f"Local({name}={value!r}): {name} must be a whole number above 0")
        for name, kind in (("optimizer", Optimizer), ("schedule", Schedule)):
            if not isinstance(getattr(self, name), kind):
                raise PlanError(f"Local({name}={alien(getattr(self, name), kind)}")
        if self.examples is not None and not isinstance(self.examples, PerExample):
            raise PlanError(
                f"Local(examples={self.examples!r}): that is no PerExample; give one such as "
                f"PerExample(clip=1.0, multiplier=1.1)"
            )

    @property
    def reports(self) -> bool:
        """Return whether clients tell how training went: not if single rows are private."""
        return self.examples is None or self.examples.metrics == "public"
