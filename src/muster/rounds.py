# SPDX-License-Identifier: Apache-2.0
"""One synchronous round: the straight line that all of muster follows.

    sample → send → [ local training ] → report → weight → encode → sum → decode → step
           → commit → settle

`play` is the only place that knows this order. It does not know which runtime, transport,
framework, algorithm or privacy stage is in use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from muster import keys
from muster.plan import Plan
from muster.plan.decoding import decoded
from muster.plan.private import empty_reply, noises_sum
from muster.privacy.noise_source import noise_source
from muster.types import (
    Answer,
    ClientId,
    Clients,
    Cohort,
    Commits,
    Reply,
    Roster,
    Sent,
    State,
    Tree,
)
from muster.vectors import leaves

__all__ = ["BEGINNING", "RunState", "drawn", "play", "start"]

# The record of version 0, before what is measured of it: nobody was asked for it.
BEGINNING: Mapping[str, Any] = {
    "round": 0,
    "invited": [],
    "accepted": [],
    "abandoned": False,
    "bytes_down": 0,
    "bytes_up": 0,
}


class RunState(NamedTuple):
    """Everything the server carries from round to round; committed together.

    `frozen` `(f,)` are the parameters that nobody trains, None where there are none.
    """

    algorithm: State
    stages: tuple[State, ...]
    sampler: Tree
    buffers: Any
    frozen: Any = None

    def sent(self) -> Sent:
        """Return the states and buffers that a cohort receives."""
        stages = tuple(s.shared for s in self.stages)
        return Sent(self.algorithm.shared, stages, self.buffers, self.frozen)


Measure = Callable[[int, RunState], dict[str, Any]]


def start(plan: Plan) -> RunState:
    """Return the state before the first round, a function of the plan alone."""
    x, buffers = plan.task.init(keys.key(plan.seed).at("init"))
    take = plan.sharing.take
    algorithm = plan.algorithm.init(take(x))
    frozen = take(x, shared=None).copy() if plan.task.layout.frozen else None
    return RunState(algorithm, plan.stages.init(), None, take(buffers, buffers=True), frozen)


def drawn(
    plan: Plan, roster: Roster, sampler: Tree, round: int, source: keys.RandomSource
) -> tuple[Cohort, Tree]:
    """Draw the cohort of a round; return it and the sampler's next state.

    A sampling that is `public` draws from the plan's seed, whatever the source is.
    """
    if getattr(plan.selection, "public", False):
        source = keys.key(plan.seed)
    return plan.selection.sample(roster, sampler, round, source.at("sample", round), None)


def play(
    plan: Plan,
    state: RunState,
    clients: Clients,
    store: Commits,
    round: int,
    measure: Measure,
    source: keys.RandomSource | None = None,
) -> RunState:
    """Play one round, from the draw of the cohort to clients that know whether they counted.

    Cohort and noise are drawn from `source`: the plan's seed, or a secret of this round alone,
    whose noise is bound to the sum that it hides (see `noise_source`).
    """
    roster, key = clients.known(), source or keys.key(plan.seed)
    cohort, sampler = drawn(plan, roster, state.sampler, round, key)
    clients.send(cohort, state.sent(), round)
    tally = ReplyTally()
    total = plan.aggregation.reduce(tally.replies(clients.replies()), cohort.clients)
    total = _counted(plan, total, len(cohort.clients))
    if total is None:
        state = state._replace(sampler=sampler)
    else:
        draws = key.at("decode", round)
        draws = draws if source is None else noise_source(draws, total)
        state = _stepped(plan, state, roster, total, draws, sampler)
        total = replace(total, payload={}, buffers=None, parts=())  # large, and done with
    accepted = _among(cohort, total)
    record = tally.record(plan, state, round, cohort, total, accepted)
    record["bytes_down"] += _sent_once(state, cohort, store)
    store.commit(round, dict(leaves(state)), record | measure(round, state), accepted)
    clients.settle(round, accepted)
    return state


def _stepped(
    plan: Plan, state: RunState, roster: Roster, total: Reply, key: keys.RandomSource, sampler: Tree
) -> RunState:
    """Return the state that the sum leads to: decode it, divide it, and step."""
    denominator, share = _weights(plan, roster, total)
    mean, stages = decoded(plan, total, denominator, state.stages, key)
    algorithm = plan.algorithm.step(state.algorithm, mean.payload, share)
    return RunState(algorithm, stages, sampler, mean.buffers, state.frozen)


def _counted(plan: Plan, total: Reply | None, invited: int) -> Reply | None:
    """Return the sum if replies suffice; a sum of nobody where noise hides that it is one."""
    if total is None:
        return empty_reply(plan) if plan.needed(invited) <= 1 and noises_sum(plan) else None
    enough = plan.has_quorum(len(total.clients), len(total.parts) or 1, invited)
    return total if enough else None


def _among(cohort: Cohort, total: Reply | None) -> tuple[ClientId, ...]:
    """Return the clients in the sum, in the cohort's order."""
    accepted = frozenset(total.clients if total else ())
    return tuple(client for client in cohort.clients if client in accepted)


def _sent_once(state: RunState, cohort: Cohort, store: Commits) -> int:
    """Count the bytes of what nobody trains, once for each client that no round invited yet."""
    if state.frozen is None:
        return 0
    return np.asarray(state.frozen).nbytes * len({*cohort.clients} - store.reached())


def _weights(plan: Plan, roster: Roster, total: Reply) -> tuple[float, float]:
    """Return the divisor of the sum, and its share of the population's weight, if known."""
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
class ReplyTally:
    """Sorts answers as they stream by: replies go on to the sum, the rest is written down."""

    missing: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    norms: dict[ClientId, float] = field(default_factory=dict)

    def replies(self, answers: Iterator[Answer]) -> Iterator[Reply]:
        """Yield the replies alone, in order."""
        for answer in answers:
            if isinstance(answer, Reply):
                self.norms.update(answer.norms)
                yield answer
            else:
                kind = type(answer).__name__.lower()
                self.missing.setdefault(kind, []).append(vars(answer))

    def record(
        self,
        plan: Plan,
        state: RunState,
        round: int,
        cohort: Cohort,
        total: Reply | None,
        accepted: tuple[ClientId, ...],
    ) -> dict[str, Any]:
        """Return the round's line in the history: who, what it cost, how training went."""
        each = state.sent()._replace(frozen=None)  # see `_sent_once`
        down = sum(np.asarray(leaf).nbytes for _, leaf in leaves(each))
        record: dict[str, Any] = {
            "round": round,
            "invited": list(cohort.clients),
            "accepted": list(accepted),
            "abandoned": bool(cohort.clients) and total is None,
            "bytes_down": down * len(cohort.clients),
            "bytes_up": plan.upload_bytes(len(cohort.clients) or 1) * len(accepted),
        }
        if cohort.times is not None:
            record["times"] = list(cohort.times)
        if total is not None and total.secure:
            record["secure"] = [dict(note) for note in total.secure]
        norms = [[client, self.norms[client]] for client in accepted if client in self.norms]
        if norms:
            record["norms"] = norms
        if total is not None and total.metrics:
            sums = total.metrics
            record["train"] = {
                "loss": sums["loss"] / sums["rows"],
                "steps": sums["steps"] / len(accepted),
                "drift": (sums["drift"] / total.weight) ** 0.5,
            }
        return record | self.missing
