# SPDX-License-Identifier: Apache-2.0
"""The plan: everything that defines a run, as one value, checked when it is built."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from muster.aggregation.mean import Mean
from muster.aggregation.robust import RobustAggregator
from muster.algorithms.algorithm import Algorithm
from muster.errors import PlanError
from muster.keys import Keys, RandomSource
from muster.layout import Sharing
from muster.local import Descent, Local, Memory
from muster.metrics import Metric
from muster.metrics.choice import chosen
from muster.metrics.sums import names
from muster.metrics.trial import tried
from muster.optimizers import SGD
from muster.pipeline.secure_sum import SecureSum
from muster.pipeline.stage import Pipeline, Stage, contract_of
from muster.plan.keep import Keep
from muster.plan.kinds import refuse_kinds
from muster.plan.losses import refuse_hidden_losses
from muster.plan.measured import refuse_unmeasured
from muster.plan.private import refuse_budget, refuse_exposed
from muster.plan.quorum import needed, refuse_unreachable, target_replies
from muster.plan.robust import refuse_outvoted
from muster.plan.secure import check_cohort, refuse_leaks
from muster.plan.stopping import EarlyStopping, Every, Target
from muster.privacy.ledger import Budget
from muster.sampling.everybody import All
from muster.sampling.sampler import Sampler
from muster.spelling import Spelled
from muster.types import ClientId, Reply, Sent, Task, Tree

if TYPE_CHECKING:
    from muster.secagg import Frame

__all__ = ["Plan"]

MOST_ROWS = 10**12  # of one client, that a sum of floats tells apart
_UNSAID: Any = None  # what becomes of it is said in `Plan`


@dataclass(frozen=True)
class Plan(Spelled):
    """A plan to train: what, how, with whom, for how long; it prints, compares and travels.

    `weighting` is "examples" (n_k rows) or "equal"; `cap` the most rows a client counts with
    (needed by stages that sum in integers); `share` which tensors travel; `minimum` the fewest
    accepted replies a round needs, or (below 1.0) which fraction. Over a network a round, and an
    evaluation, takes replies for `deadline` seconds (None: for as long as work goes on, and half a
    day at the most), and `overselect` invites so many times the clients it needs.
    Where no `aggregation` is given it is Mean(), and under noise on the sum Mean("expected").
    A run stops before its noise reveals more than the `budget`. `metrics` are measured beside the
    loss, by default the usual ones of the task; `stop` and `keep` name some of them, and `keep`
    says which models stay on the disk.
    Raises `PlanError`, with the remedy, for what cannot run.
    """

    task: Task
    algorithm: Algorithm
    local: Local
    sampling: Sampler = All()
    pipeline: tuple[Stage, ...] = ()
    aggregation: Mean | RobustAggregator = _UNSAID
    weighting: Literal["examples", "equal"] = "examples"
    share: str | tuple[str, ...] = "*"
    rounds: int = 10
    seed: int = 0
    dtype: Literal["float32", "float64"] = "float32"
    evaluate: Every = Every()
    metrics: tuple[Metric, ...] = ()
    stop: tuple[Target | EarlyStopping, ...] = ()
    minimum: int | float = 1
    deadline: float | None = None
    overselect: float = 1.0
    cap: int | None = None
    budget: Budget | None = None
    keep: Keep = Keep()

    def __post_init__(self) -> None:
        unsaid = self.aggregation is _UNSAID
        if unsaid:
            object.__setattr__(self, "aggregation", Mean())
        refuse_kinds(self)
        for name in ("pipeline", "stop", "share", "metrics"):
            if not isinstance(getattr(self, name), str):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        self._check_values()
        if self.task.layout.dtype != self.dtype:
            object.__setattr__(self, "task", self.task.astype(self.dtype))  # type: ignore[attr-defined]
        self.algorithm.accept(self.local, self.weighting)
        self._check_combination()
        _ = self.stages, self.sharing  # raise now, not in round 1
        if unsaid and self.stages.contracts[-1].noise and not self.sampling.traits.replacement:
            object.__setattr__(self, "aggregation", Mean("expected"))
            self._check_replies()
            self._check_combination()
        refuse_unmeasured(self)
        refuse_exposed(self)
        refuse_hidden_losses(self)
        if self.secure is not None:
            refuse_leaks(self)
        if isinstance(self.aggregation, RobustAggregator):
            refuse_outvoted(self)
        refuse_unreachable(self)

    def _check_values(self) -> None:
        if not isinstance(self.rounds, int) or self.rounds < 1:
            raise PlanError(f"Plan(rounds={self.rounds!r}): a whole number above 0 is needed")
        self._check_replies()
        if not isinstance(self.seed, int) or self.seed < 0:
            raise PlanError(f"Plan(seed={self.seed!r}): a whole number from 0 up is needed")
        if self.weighting not in ("examples", "equal"):
            raise PlanError(f"Plan(weighting={self.weighting!r}): use 'examples' or 'equal'")
        if self.dtype not in ("float32", "float64"):
            raise PlanError(f"Plan(dtype={self.dtype!r}): use 'float32' or 'float64'")
        refuse_budget(self.budget)
        if self.cap is not None and not (isinstance(self.cap, int) and 1 <= self.cap <= MOST_ROWS):
            raise PlanError(
                f"Plan(cap={self.cap!r:.40}): a number of rows above 0 is needed, at most "
                f"{MOST_ROWS:g}"
            )

    def _check_replies(self) -> None:
        least, patience, more = self.minimum, self.deadline, self.overselect
        if not _number(least) or least <= 0 or (least > 1 and not isinstance(least, int)):
            raise PlanError(
                f"Plan(minimum={least!r}): a whole number above 0, or a fraction up to 1, is needed"
            )
        if patience is not None and not (_number(patience) and 0 < patience < math.inf):
            raise PlanError(f"Plan(deadline={patience!r}): seconds above 0, or None, are needed")
        if not _number(more) or not 1 <= more < math.inf:
            raise PlanError(f"Plan(overselect={more!r}): a factor from 1.0 up is needed")
        if more > 1 and self.aggregation.denominator == "expected":
            raise PlanError(
                f"Plan(overselect={more}): Mean(denominator='expected') expects everybody who is "
                f"drawn to count; use Mean(denominator='replies'), or overselect=1.0"
            )
        _ = self.selection

    def _check_combination(self) -> None:
        if self.local.examples is not None:
            self.local.examples.accept(self.task)
        layout = self.task.layout
        if layout.frozen and all(
            e.name in layout.frozen for e in layout.entries if e.kind == "parameter"
        ):
            raise PlanError(
                f"{self.task}: every tensor of the model has requires_grad=False, and a plan needs "
                f"something to train; leave it True for at least one"
            )
        drawn = self.sampling.traits.replacement
        if drawn and self.weighting == "examples":
            raise PlanError(
                f"{self.sampling} draws clients by their rows, so weighting='examples' would "
                f"count size twice; use Plan(weighting='equal')"
            )
        if drawn and (self.algorithm.remembers or any(s.needs_sum for s in self.stages.stages)):
            raise PlanError(
                f"{self.sampling} may draw a client twice in a round, which neither client "
                f"memory nor a bound on the weight allows; use Uniform(count=...)"
            )
        if drawn and self.aggregation.denominator == "expected":
            raise PlanError(
                f"Mean(denominator='expected') needs one inclusion probability for all, which "
                f"{self.sampling} has not; use Mean(denominator='replies')"
            )
        if self.aggregation.denominator == "expected" and self._sends_scalars():
            raise PlanError(
                f"{self.algorithm} multiplies means of what clients send, which "
                f"Mean(denominator='expected') would scale twice; use Mean(denominator='replies')"
            )
        if not self.task.traits.gradients and self.algorithm.modifies_gradient:
            raise PlanError(
                f"{self.algorithm} bends every local gradient, which a task with its own fit() "
                f"does not show; use FedAvg or FedNova, or a numpy, torch or jax task"
            )

    def _sends_scalars(self) -> bool:
        return any(field.scalar for field in self.stages.contracts[0].fields)

    @cached_property
    def selection(self) -> Sampler:
        """The sampling, drawing `overselect` times as many."""
        if self.overselect == 1:
            return self.sampling
        traits, known = self.sampling.traits, vars(self.sampling)
        if traits.count is not None and not traits.replacement and "count" in known:
            more: Any = {"count": math.ceil(traits.count * self.overselect)}
        elif traits.fraction is not None and "fraction" in known:
            more = {"fraction": min(1.0, traits.fraction * self.overselect)}
        else:
            raise PlanError(
                f"Plan(overselect={self.overselect}): {self.sampling} has no number of clients to "
                f"draw more of; use Uniform(count=...), or overselect=1.0"
            )
        drawing: Any = self.sampling
        return cast("Sampler", replace(drawing, **more))

    def needed(self, invited: int) -> int:
        """Return the fewest replies that make a round of so many invited count."""
        return needed(self.minimum, self.target_replies(invited))

    def has_quorum(self, replies: int, parts: int, invited: int) -> bool:
        """Return whether a round of so many invited counts, with so many replies and sums."""
        return replies >= self.needed(invited) and parts >= self.aggregation.min_replies

    def target_replies(self, invited: int) -> int:
        """Count the replies of so many invited that are enough; a network round takes no more."""
        return target_replies(invited, self.overselect)

    @cached_property
    def sharing(self) -> Sharing:
        """The coordinates that travel, and those that do not."""
        return self.task.layout.sharing(self.share)

    @cached_property
    def stages(self) -> Pipeline:
        """The composed pipeline with its contracts."""
        bits = 8 * np.dtype(self.dtype).itemsize
        cap = 1.0 if self.weighting == "equal" else self.cap
        contract = contract_of(self.algorithm.payload, self.sharing.size, bits, cap and float(cap))
        return Pipeline.build(self.pipeline, contract)

    @cached_property
    def measured(self) -> tuple[Metric, ...]:
        """Every metric of an evaluation: the loss, and `metrics` or the usual ones of the task."""
        return chosen(self.metrics, self.task.head, f"tasks.{type(self.task).__name__}")

    @cached_property
    def directions(self) -> dict[str, bool]:
        """Of each metric by name, whether less is better."""
        return {metric.name: metric.lower_is_better for metric in self.measured}

    @cached_property
    def sums(self) -> frozenset[str] | None:
        """The names of all sums that a client is asked for, flat (`metrics.sums`).

        None where they are known only when there are rows: of a task with its own `measure`, and
        of a user's metric where the task does not say what its outputs are.
        """
        if self.task.head.kind == "none":
            return None
        return names(self.measured, tried(self.measured, self.task.head))

    @cached_property
    def secure(self) -> SecureSum | None:
        """The pipeline's SecureSum, if it ends with one."""
        last = self.pipeline[-1:]
        return last[0] if last and isinstance(last[0], SecureSum) else None

    @cached_property
    def frame(self) -> Frame:
        """The frame in which an encoded payload and its weight lie, for SecureSum to mask."""
        if self.secure is None:
            raise PlanError("this plan masks nothing; put SecureSum() last in its pipeline")
        return self.secure.frame(self.stages.contracts[len(self.pipeline) - 1])

    @cached_property
    def needs_individual_replies(self) -> bool:
        """Return whether replies are not added as they come: masked first, or judged."""
        return self.secure is not None or isinstance(self.aggregation, RobustAggregator)

    def partial_sums(
        self, replies: Iterable[Reply], invited: Sequence[ClientId]
    ) -> Iterable[Reply]:
        """Return single replies on their way to the aggregation: their sum, or each by itself.

        None where there are none. Replies are in client order.
        """
        if self.secure is not None or isinstance(self.aggregation, RobustAggregator):
            return replies
        total = self.aggregation.partial(replies, invited)
        return () if total is None else (total,)

    def groups(
        self, cohort: Sequence[ClientId], draw: RandomSource
    ) -> tuple[tuple[ClientId, ...], ...]:
        """Return whose updates are masked together: all, or random groups drawn for this cohort.

        Raises `PlanError` where so many clients in so many groups do not hide one another.
        """
        if self.secure is None:
            return (tuple(cohort),)
        check_cohort(self, len(cohort))
        return self.secure.split(cohort, draw)

    @cached_property
    def veiled(self) -> bool:
        """Return whether what a client sends hides something of it: own noise, or a mask."""
        noisy = any(release.trust != "central" for release in self.stages.releases())
        return noisy or self.secure is not None or self.local.examples is not None

    @cached_property
    def remembers(self) -> bool:
        """Return whether clients keep anything between rounds."""
        return (
            self.algorithm.remembers
            or any(memory is not None for memory in self.stages.memory())
            or self.sharing.private
        )

    def descent(self, engine: str) -> Descent:
        """Return local training under this plan's algorithm, as a value."""
        return Descent(
            self.task,
            self.algorithm,
            self.local.optimizer,
            self.sharing,
            fused=engine == "fused" and self.fusible,
            examples=self.local.examples,
        )

    @property
    def fusible(self) -> bool:
        """Return whether gradients are left alone, so that a task may update in place."""
        alone = not self.algorithm.modifies_gradient and self.local.examples is None
        return alone and type(self.local.optimizer) is SGD

    def weights(self, sizes: Any, times: Sequence[int]) -> Any:
        """Return each client's weight `(clients,)`: capped rows or one, times how often drawn."""
        rows = np.ones(len(sizes)) if self.weighting == "equal" else sizes.astype(float)
        if self.cap is not None and self.weighting == "examples":
            rows = np.minimum(rows, self.cap)
        return rows * np.asarray(times, float)

    def encode(
        self,
        payload: Tree,
        sent: tuple[Tree, ...],
        memory: Tree,
        key: Keys,
        weights: Any,
        *,
        own: bool = False,
    ) -> tuple[dict[str, Any], tuple[Tree, ...]]:
        """Encode the algorithm's payload rows through the pipeline.

        `own`: nobody needs the rows any more, so their memory may be written to.
        """
        return self.stages.encode(payload._asdict(), sent, memory, key, weights, own=own)

    def fresh_memory(self, x: Any, buffers: Any) -> Memory:
        """Return the memory of a client that never took part; `x`, `buffers`: the full start."""
        take = self.sharing.take
        shared = take(x)
        if not self.sharing.private:
            return Memory(self.algorithm.memory(shared), self.stages.memory())
        return Memory(
            self.algorithm.memory(shared),
            self.stages.memory(),
            take(x, shared=False),
            take(buffers, shared=False, buffers=True),
        )

    def whole(self, sent: Sent, memory: Memory | None = None) -> tuple[Any, Any]:
        """Return the full vectors `(d,)` and `(b,)` of what was sent, with a client's private part.

        `memory` may hold a leading axis of clients; None is for plans that keep nothing private.
        """
        memory, merge = memory or Memory(), self.sharing.merge
        return (
            merge(sent.algorithm.x, memory.private, sent.frozen),
            merge(sent.buffers, memory.buffers, buffers=True),
        )

    def upload_bytes(self, invited: int = 1) -> int:
        """Count the bytes a client sends a round: the payload as the contract has it, and buffers.

        Under SecureSum the masked vector of a cohort of so many, without keys and shares.
        """
        if self.secure is not None:
            return self.secure.nbytes(self.frame, invited)
        item = np.dtype(self.dtype).itemsize
        return -(-self.stages.contracts[-1].bits // 8) + self.sharing.averaged * item


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
