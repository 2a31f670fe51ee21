# SPDX-License-Identifier: Apache-2.0
"""A plan as its own checks see it: they are needed to build one, so none can name the class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from muster.aggregation.mean import Mean
from muster.aggregation.robust import RobustAggregator
from muster.local.view import LocalPlan
from muster.metrics import Metric
from muster.pipeline.secure_sum import SecureSum
from muster.pipeline.stage import Pipeline, Stage
from muster.plan.keep import Keep
from muster.plan.stopping import EarlyStopping, Every, Target
from muster.privacy.ledger import Budget
from muster.sampling.sampler import Sampler

if TYPE_CHECKING:
    from muster.secagg import Frame

__all__ = ["PlanView"]


class PlanView(LocalPlan, Protocol):
    """The fields of `Plan`, and what it derives from them, to be read."""

    @property
    def sampling(self) -> Sampler:
        """The sampling."""

    @property
    def pipeline(self) -> tuple[Stage, ...]:
        """The stages as they were given."""

    @property
    def aggregation(self) -> Mean | RobustAggregator:
        """The divisor of the sum, or the rule in its place."""

    @property
    def weighting(self) -> str:
        """The weighting: by rows, or equal."""

    @property
    def share(self) -> str | tuple[str, ...]:
        """Patterns of the tensors that travel."""

    @property
    def rounds(self) -> int:
        """The number of rounds."""

    @property
    def dtype(self) -> str:
        """The dtype of the parameters."""

    @property
    def evaluate(self) -> Every:
        """The rounds that are evaluated, and how many clients are asked."""

    @property
    def stop(self) -> tuple[Target | EarlyStopping, ...]:
        """The rules that end a run early."""

    @property
    def minimum(self) -> int | float:
        """The fewest replies of a round, or their part."""

    @property
    def budget(self) -> Budget | None:
        """The most that noise may reveal."""

    @property
    def keep(self) -> Keep:
        """The models that stay."""

    @property
    def selection(self) -> Sampler:
        """The sampling, drawing as many more as are invited."""

    @property
    def stages(self) -> Pipeline:
        """The composed pipeline with its contracts."""

    @property
    def measured(self) -> tuple[Metric, ...]:
        """Every metric of an evaluation."""

    @property
    def directions(self) -> dict[str, bool]:
        """The metrics by name, each True where less is better."""

    @property
    def sums(self) -> frozenset[str] | None:
        """The names of all sums that a client is asked for, where they are known."""

    @property
    def secure(self) -> SecureSum | None:
        """The masks, if the pipeline ends with them."""

    @property
    def frame(self) -> Frame:
        """The place of a payload in the vector that is masked."""

    def needed(self, invited: int) -> int:
        """Return the fewest replies that make a round of so many invited count."""

    def target_replies(self, invited: int) -> int:
        """Return how many replies of so many invited are enough."""
