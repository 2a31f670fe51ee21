# SPDX-License-Identifier: Apache-2.0
"""A sampler of your own: prefer whoever waited longest, and say what others must know of it.

python examples/own_sampler.py
"""

from collections.abc import Mapping
from dataclasses import dataclass

import muster
from muster import algorithms, data, optimizers, pipeline, tasks
from muster.keys import RandomSource
from muster.sampling import Cohort, Sampler, SamplerTraits
from muster.testing import check_sampler
from muster.types import ClientId, Roster, Tree


@dataclass(frozen=True)
class LongestWaiting(Sampler):
    """The clients whose last round is furthest back; ties by a draw."""

    count: int = 3

    @property
    def traits(self) -> SamplerTraits:
        """So many each round, by a rule that anybody may know."""
        return SamplerTraits(kind="deterministic", count=self.count, replacement=False)

    def sample(
        self,
        roster: Roster,
        state: Tree,
        round: int,
        key: RandomSource,
        losses: Mapping[ClientId, float] | None = None,
    ) -> tuple[Cohort, Tree]:
        """Draw the first so many, by when they were drawn last."""
        last = state or {}
        tie = dict(zip(roster.eligible, key.uniform(len(roster.eligible)), strict=True))
        order = sorted(roster.eligible, key=lambda c: (last.get(c, 0), tie[c]))
        chosen = tuple(order[: self.count])
        return Cohort(chosen), {**last, **dict.fromkeys(chosen, round)}


plan = muster.Plan(
    task=tasks.numpy.MLP((64, 32, 10)),
    algorithm=algorithms.FedAvg(),
    local=muster.Local(epochs=1, batch=16, optimizer=optimizers.SGD(0.1)),
    sampling=LongestWaiting(3),
    pipeline=(pipeline.Clip(1.0), pipeline.Noise(0.5)),
    weighting="equal",
    rounds=9,
)

if __name__ == "__main__":
    check_sampler(LongestWaiting())
    run = muster.simulate(plan, data.digits(clients=9, alpha=0.5))
    print(run.participation())
    print(run.privacy().text)
