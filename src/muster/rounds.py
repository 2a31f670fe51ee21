# SPDX-License-Identifier: Apache-2.0
"""One synchronous round: the straight line that all of muster follows.

    sample → send → [ local training ] → report → weight → encode → sum → decode → step
           → commit → settle

`play` is the only place that knows this order. It does not know which runtime, transport,
framework, algorithm or privacy stage is in use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from muster import keys
from muster.plan import Plan
from muster.types import (
    Answer,
    Clients,
    Cohort,
    Reply,
    Roster,
    Sent,
    State,
    Store,
    Tree,
)
from muster.vectors import divided, leaves, tree_map

__all__ = ["RunState", "play", "start"]


class RunState(NamedTuple):
    """Everything the server carries from round to round; committed together."""

    algorithm: State
    stages: tuple[State, ...]
    sampler: Tree
    buffers: Any

    def sent(self) -> Sent:
        """What a cohort receives."""
        return Sent(self.algorithm.shared, tuple(s.shared for s in self.stages), self.buffers)


Measure = Callable[[int, RunState], dict[str, Any]]


def start(plan: Plan) -> RunState:
    """The state before the first round, a function of the plan alone."""
    x, buffers = plan.task.init(keys.key(plan.seed).at("init"))
    take = plan.sharing.take
    algorithm = plan.algorithm.init(take(x))
    return RunState(algorithm, plan.stages.init(), None, take(buffers, buffers=True))


def play(
    plan: Plan, state: RunState, clients: Clients, store: Store, round: int, measure: Measure
) -> RunState:
    """One round, from the draw of the cohort to clients that know whether they counted."""
    roster, key = clients.known(), keys.key(plan.seed)
    cohort, sampler = plan.inviting.sample(
        roster, state.sampler, round, key.at("sample", round), None
    )
    clients.send(cohort, state.sent(), round)
    tally = Tally()
    total = plan.aggregation.reduce(tally.replies(clients.replies()), cohort.clients)
    accepted = total.clients if total else ()
    if total is None or len(accepted) < plan.needed(len(cohort.clients)):
        state, accepted = state._replace(sampler=sampler), ()
    else:
        denominator, share = _weights(plan, roster, total)
        total, stages = plan.stages.decode(total, state.stages, key.at("decode", round))
        mean = tree_map(lambda field: divided(field, denominator), total.payload)
        algorithm = plan.algorithm.step(state.algorithm, plan.algorithm.payload(**mean), share)
        buffers = tree_map(lambda b: b / total.weight, total.buffers)
        state = RunState(algorithm, stages, sampler, buffers)
    record = tally.record(plan, state, round, cohort, total if accepted else None)
    store.commit(round, dict(leaves(state)), record | measure(round, state), accepted)
    clients.settle(round, accepted)
    return state


def _weights(plan: Plan, roster: Roster, total: Reply) -> tuple[float, float]:
    """What the sum is divided by, and its share of the population's weight (if rows are known)."""
    if plan.secure is not None and plan.weighting == "examples":
        return total.weight, math.nan  # no algorithm that a secure plan may have asks for it
    rows = np.asarray(roster.rows()) if plan.weighting == "examples" else None
    sizes = np.ones(len(roster.clients)) if rows is None else rows
    population = float(plan.weights(sizes, (1,)).sum())
    if plan.aggregation.denominator == "expected":
        share = plan.sampling.share(roster)
        return share * population, share
    return total.weight, total.weight / population


@dataclass
class Tally:
    """Sorts answers as they stream by: replies go on to the sum, the rest is written down."""

    missing: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def replies(self, answers: Iterator[Answer]) -> Iterator[Reply]:
        """The replies alone, in order."""
        for answer in answers:
            if isinstance(answer, Reply):
                yield answer
            else:
                kind = type(answer).__name__.lower()
                self.missing.setdefault(kind, []).append(vars(answer))

    def record(
        self, plan: Plan, state: RunState, round: int, cohort: Cohort, total: Reply | None
    ) -> dict[str, Any]:
        """The round's line in the history: who, what it cost, how training went."""
        accepted = total.clients if total else ()
        down = sum(np.asarray(leaf).nbytes for _, leaf in leaves(state.sent()))
        record: dict[str, Any] = {
            "round": round,
            "invited": list(cohort.clients),
            "accepted": list(accepted),
            "abandoned": bool(cohort.clients) and not accepted,
            "bytes_down": down * len(cohort.clients),
            "bytes_up": plan.upload_bytes(len(cohort.clients) or 1) * len(accepted),
        }
        if cohort.times is not None:
            record["times"] = list(cohort.times)
        if total is not None and total.secure:
            record["secure"] = dict(total.secure)
        if total is not None and total.metrics:
            sums = total.metrics
            record["train"] = {
                "loss": sums["loss"] / sums["rows"],
                "steps": sums["steps"] / len(accepted),
                "drift": (sums["drift"] / total.weight) ** 0.5,
            }
        return record | self.missing
