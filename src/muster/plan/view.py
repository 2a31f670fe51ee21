# SPDX-License-Identifier: Apache-2.0
"""A plan as its own checks see it: they are needed to build one, so none can name the class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from muster.aggregation.mean import Mean
from muster.aggregation.robust import RobustAggregator
from muster.algorithms.algorithm import Algorithm
from muster.layout import Sharing
from muster.local import Local
from muster.metrics import Metric
from muster.pipeline.secure_sum import SecureSum
from muster.pipeline.stage import Pipeline, Stage
from muster.plan.keep import Keep
from muster.plan.stopping import EarlyStopping, Every, Target
from muster.privacy.ledger import Budget
from muster.sampling.sampler import Sampler
from muster.types import Task

if TYPE_CHECKING:
    from muster.secagg import Frame

__all__ = ["PlanView"]


class PlanView(Protocol):
    """The fields of `Plan`, and what it derives from them, to be read."""

    @property
    def task(self) -> Task:
        """Model, loss and data."""

    @property
    def algorithm(self) -> Algorithm:
        """The hooks of the method."""

    @property
    def local(self) -> Local:
        """Local training."""

    @property
    def sampling(self) -> Sampler:
        """Who is drawn."""

    @property
    def pipeline(self) -> tuple[Stage, ...]:
        """The stages as they were given."""

    @property
    def aggregation(self) -> Mean | RobustAggregator:
        """What the sum is divided by, or the rule in its place."""

    @property
    def weighting(self) -> str:
        """By rows, or equal."""

    @property
    def share(self) -> str | tuple[str, ...]:
        """Patterns of the tensors that travel."""

    @property
    def rounds(self) -> int:
        """How many."""

    @property
    def seed(self) -> int:
        """Where draws begin."""

    @property
    def dtype(self) -> str:
        """Of the parameters."""

    @property
    def evaluate(self) -> Every:
        """When, and how many clients are asked."""

    @property
    def stop(self) -> tuple[Target | EarlyStopping, ...]:
        """When to end early."""

    @property
    def minimum(self) -> int | float:
        """The fewest replies of a round, or their part."""

    @property
    def budget(self) -> Budget | None:
        """What noise may reveal at the most."""

    @property
    def keep(self) -> Keep:
        """Which models stay."""

    @property
    def selection(self) -> Sampler:
        """The sampling, drawing as many more as are invited."""

    @property
    def sharing(self) -> Sharing:
        """Which coordinates travel."""

    @property
    def stages(self) -> Pipeline:
        """The composed pipeline with its contracts."""

    @property
    def measured(self) -> tuple[Metric, ...]:
        """Every metric of an evaluation."""

    @property
    def directions(self) -> dict[str, bool]:
        """Of each metric by name, whether less is better."""

    @property
    def sums(self) -> frozenset[str] | None:
        """The names of all sums that a client is asked for, where they are known."""

    @property
    def secure(self) -> SecureSum | None:
        """The masks, if the pipeline ends with them."""

    @property
    def frame(self) -> Frame:
        """How a payload lies in the vector that is masked."""

    def needed(self, invited: int) -> int:
        """The fewest replies that make a round of so many invited count."""

    def target_replies(self, invited: int) -> int:
        """How many replies of so many invited are enough."""
