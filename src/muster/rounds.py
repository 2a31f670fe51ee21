# SPDX-License-Identifier: Apache-2.0
"""One synchronous round: the straight line that all of muster follows.

    sample → send → [ local training ] → report → weight → encode → sum → decode → step
           → commit → settle

`play` is the only place that knows this order. It does not know which runtime, transport,
framework, algorithm or privacy stage is in use.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from muster import keys
from muster.errors import PlanError
from muster.plain import packed, unpacked
from muster.plan import Plan
from muster.plan.decoding import decoded
from muster.plan.losses import mean_losses
from muster.plan.private import empty_reply, noises_sum
from muster.privacy.noise_source import noise_source
from muster.sampling.sampler import strangers
from muster.types import (
    Answer,
    ClientId,
    ClientOutcome,
    Clients,
    Cohort,
    Commits,
    Reply,
    Roster,
    Sent,
    State,
)
from muster.vectors import leaves

__all__ = ["BEGINNING", "RunState", "drawn", "play", "start", "told"]

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

    `sampler` are the bytes of what the sampler keeps (`plain.packed`), None where it keeps nothing;
    `frozen` `(f,)` are the parameters that nobody trains, None where there are none.
    """

    algorithm: State
    stages: tuple[State, ...]
    sampler: Any
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
    plan: Plan,
    roster: Roster,
    sampler: Any,
    round: int,
    source: keys.RandomSource,
    losses: Mapping[ClientId, float] | None = None,
) -> tuple[Cohort, Any]:
    """Draw the cohort of a round; return it and the sampler's next state.

    A sampling that is `public` draws from the plan's seed, whatever the source is. Raises
    `PlanError` for a cohort with somebody who may not be drawn.
    """
    key = _source(plan, source).at("sample", round)
    cohort, after = plan.selection.sample(roster, unpacked(sampler), round, key, losses)
    if others := strangers(cohort.clients, roster):
        raise PlanError(
            f"{plan.selection} drew client {others[0]!r} in round {round}, which is not among the "
            f"{len(roster.eligible)} that may be drawn; draw among roster.eligible"
        )
    return cohort, packed(after)


def _source(plan: Plan, source: keys.RandomSource) -> keys.RandomSource:
    return keys.key(plan.seed) if plan.selection.traits.public else source


def _losses(
    plan: Plan, state: RunState, clients: Clients, roster: Roster, draw: tuple[int, Any]
) -> dict[ClientId, float | None] | None:
    """Ask candidates for their losses: None of one without an answer, or where nobody is asked."""
    if not plan.selection.traits.needs_losses:
        return None
    round, source = draw
    key = _source(plan, source).at("candidates", round)
    asked = plan.selection.candidates(roster, unpacked(state.sampler), round, key)
    if asked is None:
        return None
    found = mean_losses(clients.evaluate(asked.clients, state.sent(), round))
    return {client: found.get(client) for client in asked.clients}


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
    asked = _losses(plan, state, clients, roster, (round, key))
    cohort, sampler = drawn(plan, roster, state.sampler, round, key, told(asked))
    clients.send(cohort, state.sent(), round)
    tally = ReplyTally(asked)
    total = plan.aggregation.reduce(tally.replies(clients.replies()), cohort.clients)
    total = _counted(plan, total, len(cohort.clients))
    accepted = _among(cohort, total)
    sampler = _observed(plan, sampler, roster, tally.outcomes(cohort, accepted))
    if total is None:
        state = state._replace(sampler=sampler)
    else:
        draws = key.at("decode", round)
        draws = draws if source is None else noise_source(draws, total)
        state = _stepped(plan, state, roster, total, draws, sampler)
        total = replace(total, payload={}, buffers=None, parts=())  # large, and done with
    record = tally.record(plan, state, round, cohort, total, accepted) | _gates(roster, cohort)
    record["bytes_down"] += _sent_once(state, cohort, store)
    store.commit(round, dict(leaves(state)), record | measure(round, state), accepted)
    clients.settle(round, accepted)
    return state


def _stepped(
    plan: Plan, state: RunState, roster: Roster, total: Reply, key: keys.RandomSource, sampler: Any
) -> RunState:
    """Return the state that the sum leads to: decode it, divide it, and step."""
    denominator, share = _weights(plan, roster, total)
    mean, stages = decoded(plan, total, denominator, state.stages, key)
    algorithm = plan.algorithm.step(state.algorithm, mean.payload, share)
    return RunState(algorithm, stages, sampler, mean.buffers, state.frozen)


def told(asked: Mapping[ClientId, float | None] | None) -> dict[ClientId, float] | None:
    """Return the losses of those candidates that answered; None where nobody was asked."""
    return None if asked is None else {c: loss for c, loss in asked.items() if loss is not None}


def _observed(plan: Plan, sampler: Any, roster: Roster, outcomes: tuple[ClientOutcome, ...]) -> Any:
    """Tell the sampler what came back; return its state, as in `RunState`."""
    return packed(plan.selection.observe(unpacked(sampler), roster, outcomes))


def _gates(roster: Roster, cohort: Cohort) -> dict[str, Any]:
    """Count who passed each gate to the cohort, where somebody says who may be drawn at all."""
    if roster.barred is None:
        return {}
    barred = Counter(roster.barred[c] for c in roster.clients if c in roster.barred)
    gates = {"known": len(roster.clients), "eligible": len(roster.eligible)}
    return {
        "gates": gates | {"sampled": len(cohort.clients), "barred": dict(sorted(barred.items()))}
    }


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
    rows = roster.eligible_rows() if plan.weighting == "examples" else None
    sizes = np.ones(len(roster.eligible)) if rows is None else rows
    population = float(plan.weights(sizes, (1,)).sum())
    if plan.aggregation.denominator == "expected":
        share = plan.sampling.share(roster)
        return share * population, share
    return total.weight, total.weight / population


@dataclass
class ReplyTally:
    """Sorts answers as they stream by: replies go on to the sum, the rest is written down.

    `asked` are the losses of the candidates, where there were any.
    """

    asked: Mapping[ClientId, float | None] | None = None
    missing: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    norms: dict[ClientId, float] = field(default_factory=dict)
    losses: dict[ClientId, float] = field(default_factory=dict)

    def replies(self, answers: Iterator[Answer]) -> Iterator[Reply]:
        """Yield the replies alone, in order."""
        for answer in answers:
            if isinstance(answer, Reply):
                self.norms.update(answer.norms)
                self.losses.update(one for one in answer.losses if math.isfinite(one[1]))
                yield answer
            else:
                kind = type(answer).__name__.lower()
                self.missing.setdefault(kind, []).append(vars(answer))

    def outcomes(self, cohort: Cohort, accepted: tuple[ClientId, ...]) -> tuple[ClientOutcome, ...]:
        """Return what became of each client of a cohort, in its order."""
        counted, why = frozenset(accepted), dict[ClientId, str]()
        for kind, found in self.missing.items():
            for one in found:
                why |= dict.fromkeys(one.get("clients") or (one["client"],), kind)
        losses = {client: self.losses[client] for client in accepted if client in self.losses}
        return tuple(
            ClientOutcome(client, client in counted, losses.get(client), why.get(client, ""))
            for client in cohort.clients
        )

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
        if self.asked is not None:
            record["candidates"] = [[client, loss] for client, loss in self.asked.items()]
        losses = [[client, self.losses[client]] for client in accepted if client in self.losses]
        if losses:
            record["losses"] = losses
        if total is not None and total.metrics:
            sums = total.metrics
            record["train"] = {
                "loss": sums["loss"] / sums["rows"],
                "steps": sums["steps"] / len(accepted),
                "drift": (sums["drift"] / total.weight) ** 0.5,
            }
        return record | self.missing
