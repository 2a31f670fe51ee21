# SPDX-License-Identifier: Apache-2.0
"""Round after round, from what is committed to what the plan says is the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from muster.errors import RunError
from muster.mapped import own
from muster.plan import Plan
from muster.rounds import BEGINNING, RunState, play, start
from muster.runs.folder import append, following, publish
from muster.runs.keeping import Keeping
from muster.runs.known import KnownClients
from muster.runs.privacy.guard import RunAccountant
from muster.runs.suspicion import Suspicion
from muster.store.facts import FactStore
from muster.types import Clients, Roster
from muster.vectors import leaves, rebuild, tree_map

__all__ = ["Examines", "Options", "Watch", "drive"]

Watch = Callable[[dict[str, Any]], None]


def _unwatched(record: dict[str, Any]) -> None:
    """Ignore the records: nobody looks at them."""


def _unmarked(label: str) -> None:
    """Do nothing: nobody waits at the labelled points of a commit."""


@dataclass(frozen=True)
class Options:
    """Options of how to run, as against what: the plan.

    The engine moves the last bits of a result, and a run that goes on without clients (`lenient`)
    or draws with secret `entropy` has another one; the rest changes nothing.

    `workers`: None lets muster choose, 1 stays in this process. `lenient`: go on without a
    client that fails. `watch` is called with each committed record, `tell` with what else a
    person should hear of (an "event" and its "text"), `at` at each labelled point of a commit
    (`store.sqlite.LABELS`). What noise reveals is charged in the run, and in the file
    `ledger`, which runs over the same people share; `entropy(n)` draws n secret bytes for noise
    and cohorts, None takes them from the plan's seed. `held` is who holds how many rows, where one
    machine knows it though its server does not. `pause(why)` lets a run stand still until somebody
    says that it goes on; without one it ends there, and can be resumed.
    """

    engine: str = "auto"
    workers: int | None = None
    lenient: bool = False
    watch: Watch = _unwatched
    clock: Callable[[], float] = time.perf_counter
    tell: Watch = _unwatched
    at: Callable[[str], None] = _unmarked
    ledger: Path | None = None
    entropy: Callable[[int], bytes] | None = None
    held: Roster | None = None
    pause: Callable[[str], None] | None = None
    override: bool = False


class Examines(Protocol):
    """An examiner says how good a state is (see `measure.Examiner`)."""

    def examine(self, round: int, state: RunState) -> dict[str, Any]:
        """Return the record's part about it."""


def drive(
    plan: Plan, clients: Clients, store: FactStore, examiner: Examines, options: Options
) -> None:
    """Play round after round until the plan, or the budget of privacy, says stop.

    Before the first comes version 0, what training starts from: a commit and a record like any
    other. Stop rules read rounds alone.
    """
    (done, state), watch = _resumed(plan, store), _Stopwatch(options.clock)
    keeping = Keeping(plan, store)
    begins = done < 0
    if begins:
        done = 0
        found = examiner.examine(0, state) | {"seconds": watch.lap()}
        keeping.commit(0, dict(leaves(state)), {**BEGINNING, **found}, ())
    history = store.history()
    known = KnownClients(clients, history)
    guard = RunAccountant(
        plan,
        known.known,
        store,
        file=options.ledger,
        entropy=options.entropy,
        held=options.held,
    )
    guard.close(done)
    spent, halted = None, ""
    publish(store.path, history)
    due = [r for r in history if r.get("metrics") and plan.evaluate.due(r["round"], 0)]
    seen = [r["metrics"] for r in due if r["round"]]  # without the extra one after a last round
    suspicion = Suspicion(history)
    if begins and options.watch is not _unwatched:
        options.watch(store.last_record())
    watch.lap()

    def measure(round: int, state: RunState) -> dict[str, Any]:
        found = examiner.examine(round, state)
        if found.get("metrics") and plan.evaluate.due(round, 0):
            seen.append(found["metrics"])
        if "clients" in found and round < plan.rounds and not _met(plan, seen):
            found["clients"].pop("each", None)  # of the last evaluation alone
        again = guard.give_out(round, state)
        if again:
            options.tell({"event": "charged again", "text": again})
        return found | guard.record() | {"seconds": watch.lap()}

    with following(store.path) as lines:
        while done < plan.rounds and not _met(plan, seen) and not halted:
            spent = guard.charge_round(done + 1, state.sampler)
            if spent:
                break
            done += 1
            state = play(plan, state, known, keeping, done, measure, guard.source())
            guard.close(done)
            append(lines, store.last_line())
            record = store.last_record()
            known.note(record)
            if options.watch is not _unwatched:
                options.watch(record)
            halted = suspicion.seen(record)
            if halted and options.pause is not None:
                options.pause(halted)
                halted = ""
    rule = _met(plan, seen)
    stopped = spent or halted or (repr(rule) if rule and done < plan.rounds else None)
    store.note(stopped=stopped, spent=bool(spent), halted=bool(halted))
    if not halted:
        guard.end(state)


class _Stopwatch:
    """Seconds since the last look."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._began = clock, clock()

    def lap(self) -> float:
        """Return the seconds since the last lap."""
        began, self._began = self._began, self._clock()
        return self._began - began


def _resumed(plan: Plan, store: FactStore) -> tuple[int, RunState]:
    """Return the last committed round and its state, or -1 and the start."""
    latest = store.latest()
    if latest is None:
        return -1, start(plan)
    template = tree_map(lambda _: 0, start(plan))  # its form alone: it would be a model more
    if "sampler" in latest[1]:
        template = template._replace(sampler=0)
    try:
        state = rebuild(template, latest[1])
    except KeyError as error:
        raise RunError(
            f"the state in {store.path} has no {error}, which this plan needs; "
            f"restore the folder from a copy, or start a new run"
        ) from None
    return latest[0], tree_map(_aligned, state)


def _aligned(array: Any) -> Any:
    fits = array.ctypes.data % 64 == 0 and array.flags.writeable
    return array if fits else own(array)


def _met(plan: Plan, seen: list[dict[str, float]]) -> Any:
    """Return the rule that says stop, if one does."""
    return next((rule for rule in plan.stop if rule.met(seen, plan.directions)), None)
