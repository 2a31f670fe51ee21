# SPDX-License-Identifier: Apache-2.0
"""Replay: the model is a function of the plan and of who was invited and accepted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from muster.data import Population
from muster.errors import RunError
from muster.keys import RandomSource
from muster.plan import Plan
from muster.rounds import RunState, play, start, told
from muster.runs.folder import digest, unlike
from muster.runs.known import KnownClients
from muster.runs.simulate import afresh, check
from muster.sampling.sampler import Sampler, SamplerTraits
from muster.simulation import LocalExecutor, Simulation, choose
from muster.simulation.recorded import RecordedSums
from muster.simulation.threads import one_thread
from muster.store.memory import MemoryStore
from muster.store.sqlite import SQLiteStore
from muster.types import (
    Answer,
    ClientId,
    ClientOutcome,
    Cohort,
    Declined,
    Failed,
    Late,
    Rejected,
    Roster,
    Tree,
)
from muster.vectors import leaves

__all__ = ["Replayed", "replay"]


class Replayed(NamedTuple):
    """The outcome: rounds replayed, whether every bit agrees, and the first array that differs."""

    rounds: int
    identical: bool
    differs: str | None


@dataclass(frozen=True)
class Recorded(Sampler):
    """Sampling by the record: in each round exactly those who were invited then.

    The plan's own sampling draws beside it, with the losses of the record, for what it keeps from
    round to round. `losses` are those that were told, by round; None where nobody was asked.
    """

    cohorts: Mapping[int, Cohort]
    losses: Mapping[int, Mapping[ClientId, float] | None]
    before: Sampler

    @property
    def traits(self) -> SamplerTraits:
        """The traits of the plan's own sampling; how many are drawn is in the record."""
        return replace(self.before.traits, count=None, fraction=None)

    def sample(
        self,
        roster: Roster,
        state: Tree,
        round: int,
        key: RandomSource,
        losses: Mapping[ClientId, float] | None = None,
    ) -> tuple[Cohort, Tree]:
        """Return the recorded cohort, and the state that the plan's own sampling goes on with."""
        _, after = self.before.sample(roster, state, round, key, self.losses[round])
        return self.cohorts[round], after

    def observe(self, state: Tree, roster: Roster, replies: Sequence[ClientOutcome]) -> Tree:
        """Have the plan's own sampling make of it what it does."""
        return self.before.observe(state, roster, replies)

    def share(self, roster: Roster) -> float:
        """Return the inclusion probability under the plan's own sampling."""
        return self.before.share(roster)


def replay(path: str | Path, plan: Plan, population: Population) -> Replayed:
    """Train a run again from its record and compare the final state bit for bit.

    Raises `RunError` when the plan or the population is not the run's.
    """
    plan = afresh(plan)
    population, _ = check(replace(plan, stop=()), population, None)
    store = SQLiteStore(path, readonly=True)
    try:
        facts, history, latest = store.snapshot()
    finally:
        store.close()
    if latest is None:
        raise RunError(f"the run in {path} has no committed round to replay; resume it first")
    changed = unlike(facts["plan"], plan)
    if changed:
        raise RunError(
            f"the run in {path} was trained by another plan ({changed}); restore that to replay it"
        )
    for word in facts.get("overrides", ()):
        raise RunError(
            f"the run in {path} went on with another plan after round {word['after']} "
            f"({word['said']}), so no one plan trains it again; replay a run without an override"
        )
    if facts.get("population", {}).get("digest") not in (None, digest(population)):
        raise RunError(
            f"the run in {path} was trained on other clients or row counts than the "
            f"{len(population)} given; restore that population to replay it"
        )
    if facts.get("privacy", {}).get("randomness") == "secret":
        raise RunError(
            f"the run in {path} drew its noise from secrets that are erased, so nobody can train "
            f"it again; `muster audit verify` shows that its log was not changed"
        )
    trained = [record for record in history if record["round"] > 0]
    found = {name: np.asarray(a) for name, a in leaves(_played(plan, population, trained, facts))}
    names = sorted(found.keys() | latest[1].keys())
    differs = next((n for n in names if not _same(found.get(n), latest[1].get(n))), None)
    return Replayed(len(trained), differs is None, differs)


def _same(a: Any, b: Any) -> bool:
    """Return whether they are equal in every bit: also a zero's sign and a NaN's payload."""
    if a is None or b is None:
        return False
    return (a.shape, a.dtype, a.tobytes()) == (b.shape, b.dtype, b.tobytes())


def _played(
    plan: Plan, population: Population, history: Sequence[dict[str, Any]], facts: dict[str, Any]
) -> RunState:
    """Play every recorded round again, with the recorded cohorts and accepted sets."""
    cohorts = {
        r["round"]: Cohort(tuple(r["invited"]), tuple(r["times"]) if "times" in r else None)
        for r in history
    }
    absent = {r["round"]: frozenset(r["invited"]) - frozenset(r["accepted"]) for r in history}
    losses = {
        r["round"]: told(dict(r["candidates"]) if "candidates" in r else None) for r in history
    }
    least = plan.minimum if plan.overselect == 1 else 1  # what counts as nobody's sum is as it was
    drawing = Recorded(cohorts, losses, plan.selection)
    again = replace(plan, sampling=drawing, overselect=1.0, minimum=least)
    choice = choose(plan, population, 1, facts["engine"])
    choice = replace(choice, together=facts["together"])
    executor = LocalExecutor(plan, choice.engine, population)
    sums = None
    if plan.secure is not None:
        sums = RecordedSums({record["round"]: record.get("secure", ()) for record in history})
    store = MemoryStore()
    simulation = Simulation(plan, population, store, choice, executor, absent, masks=sums)
    known = KnownClients(simulation, (), {r["round"]: _missing(r) for r in history})
    state = start(plan)
    with one_thread(plan.task):
        for record in history:
            if "clients" in record.get("population", {}):
                simulation.enrol(record["population"]["clients"])
            state = play(again, state, known, store, record["round"], lambda *_: {})
            known.note(record)
    return state


def _missing(record: Mapping[str, Any]) -> tuple[Answer, ...]:
    """Return the answers of those who gave no reply in a recorded round, and why."""
    kinds: tuple[Any, ...] = (Declined, Failed, Late, Rejected)
    return tuple(
        kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in one.items()})
        for kind in kinds
        for one in record.get(kind.__name__.lower(), ())
    )
