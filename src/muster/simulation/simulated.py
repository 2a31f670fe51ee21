# SPDX-License-Identifier: Apache-2.0
"""Clients simulated on one machine: here in this process, or by a pool of workers."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from muster import keys
from muster.data import Population
from muster.errors import ClientError
from muster.extras import require
from muster.local import Memory
from muster.plan import Plan
from muster.simulation.engine import Choice
from muster.simulation.work_unit import Ask, WorkResult, WorkUnit, measure, perform
from muster.types import Answer, ClientId, Cohort, Reply, Roster, Sent, Store
from muster.vectors import leaves, rebuild

if TYPE_CHECKING:
    from muster.simulation.recorded import RecordedSums
    from muster.simulation.secagg import SimulatedSecAgg

__all__ = ["Executor", "LocalExecutor", "Simulation"]


class Executor(Protocol):
    """An executor does the work: this process, or a pool."""

    def perform(self, sent: Sent, pieces: Iterable[WorkUnit]) -> Iterator[WorkResult]:
        """Yield the result of each piece, in order."""

    def measure(
        self,
        sent: Sent,
        clients: Iterable[tuple[ClientId, Memory | None]],
        round: int = 0,
        *,
        trained: bool = False,
    ) -> Iterator[tuple[ClientId, dict[str, float]]]:
        """Yield metric sums on each client's own rows, in order; `round` is for what goes wrong.

        Its test rows where it has any, else (or where `trained`) those that it trains on.
        """

    def close(self) -> None:
        """Let go of processes and memory."""


class LocalExecutor:
    """The work done in this process, one piece after the other."""

    def __init__(
        self, plan: Plan, engine: str, population: Population, *, lenient: bool = False
    ) -> None:
        self._plan, self._engine, self._population = plan, engine, population
        self._lenient = lenient

    def perform(self, sent: Sent, pieces: Iterable[WorkUnit]) -> Iterator[WorkResult]:
        """Train piece by piece."""
        for piece in pieces:
            yield perform(
                self._plan, self._engine, self._population, sent, piece, lenient=self._lenient
            )

    def measure(
        self,
        sent: Sent,
        clients: Iterable[tuple[ClientId, Memory | None]],
        round: int = 0,
        *,
        trained: bool = False,
    ) -> Iterator[tuple[ClientId, dict[str, float]]]:
        """Evaluate client by client; when lenient, without those that fail."""
        for client, memory in clients:
            ask = Ask(round, client, memory, trained)
            try:
                sums = measure(self._plan, self._population, sent, ask)
            except ClientError:
                if self._lenient:
                    continue
                raise
            yield client, sums

    def close(self) -> None:
        """Close nothing: there is nothing to let go of."""


class Simulation:
    """The Clients seam over a population on this machine; client memory lives in the store.

    `absent` names, by round, clients that do not answer (a replay's dropouts). Under SecureSum
    `masks` runs the sessions (by default with the operating system's randomness), or gives their
    sums again as a record has them.
    """

    def __init__(
        self,
        plan: Plan,
        population: Population,
        store: Store,
        choice: Choice,
        executor: Executor,
        absent: Mapping[int, frozenset[ClientId]] | None = None,
        *,
        masks: SimulatedSecAgg | RecordedSums | None = None,
    ) -> None:
        self._absent = absent or {}
        self._plan, self._population, self._store = plan, population, store
        self._choice, self._hands = choice, executor
        self._pending: tuple[Cohort, Sent, int] | None = None
        self._blank = self._fresh() if plan.remembers else None
        self._masks: SimulatedSecAgg | RecordedSums | None = masks
        if plan.secure is not None and masks is None:
            self._masks = require("muster.simulation.secagg", extra="site").SimulatedSecAgg()
        self._round, self._invited, self._parts = 0, 0, 0
        self._heard: set[ClientId] = set()
        self.alone = ""  # why clients that were to train as one group trained one by one
        self._roster = population.roster()

    def _fresh(self) -> Memory:
        x, buffers = self._plan.task.init(keys.key(self._plan.seed).at("init"))
        return self._plan.fresh_memory(x, buffers)

    def known(self) -> Roster:
        """Return everybody in the population."""
        return self._roster

    def enrol(self, clients: Sequence[ClientId]) -> None:
        """Let some of the population be enrolled from now on (as a record says they were)."""
        self._roster = self._population.only(clients).roster()

    def send(self, cohort: Cohort, sent: Sent, round: int) -> None:
        """Note what to train on; the work begins when replies are asked for."""
        self._pending = cohort, sent, round

    def replies(self) -> Iterator[Answer]:
        """Yield block sums in order; each reply by itself for a rule; or sums of secure sessions.

        Each client's new memory is staged before its reply is yielded.
        """
        if self._pending is None:
            return
        (cohort, sent, round), self._pending = self._pending, None
        self._round, self._invited, self._parts = round, len(cohort.clients), 0
        self._heard = set()
        trained = partial(self._trained, sent=sent, round=round)
        if self._masks is None:
            answers = trained(cohort)
        else:
            gone = self._absent.get(round, frozenset())
            answers = self._masks.answers(self._plan, round, cohort, sent, trained, gone)
        for answer in answers:
            if isinstance(answer, Reply):
                self._heard.update(answer.clients)
                self._parts += 1
            yield answer

    def _trained(self, cohort: Cohort, sent: Sent, round: int) -> Iterator[Answer]:
        """Yield the work, piece by piece, as it is asked for."""
        for done in self._hands.perform(sent, self._pieces(cohort, round)):
            for client, memory in done.memories.items():
                self._store.remember(round, client, dict(leaves(memory)))
            if done.alone and not self.alone:
                self.alone = done.alone
                warnings.warn(
                    f"the model does not train as a matrix of clients ({done.alone}); muster goes "
                    f"on one client at a time, and engine='loop' begins so",
                    RuntimeWarning,
                    stacklevel=2,
                )
            yield from done.failed
            yield from done.replies

    def _pieces(self, cohort: Cohort, round: int) -> Iterator[WorkUnit]:
        n, gone = len(cohort.clients), self._absent.get(round)
        times = cohort.times or (1,) * n
        for part in self._choice.pieces(n):
            places = tuple(range(part.start, part.stop))
            clients, counts = cohort.clients[part], times[part]
            if gone:
                places = tuple(i for i in places if cohort.clients[i] not in gone)
                clients = tuple(cohort.clients[i] for i in places)
                counts = tuple(times[i] for i in places)
            kept = self.memories(clients)
            memories = None if kept is None else tuple(kept[client] for client in clients)
            yield WorkUnit(round, n, clients, counts, places, memories)

    def memories(self, clients: Sequence[ClientId]) -> dict[ClientId, Memory] | None:
        """Return these clients' memories, the blank one for those that never took part."""
        if self._blank is None:
            return None
        return self._rebuilt(clients, self._store.memory(clients))

    def held(self, clients: Sequence[ClientId]) -> dict[ClientId, Memory] | None:
        """Return these clients' memories as they will be once the round just played is committed.

        Asked between the last reply and the commit, for evaluation.
        """
        if self._blank is None:
            return None
        found = self._store.memory(clients)
        if self._plan.has_quorum(len(self._heard), self._parts, self._invited):
            heard = [client for client in clients if client in self._heard]
            found = found | self._store.staged(self._round, heard)
        return self._rebuilt(clients, found)

    def _rebuilt(
        self, clients: Sequence[ClientId], found: Mapping[ClientId, dict[str, Any]]
    ) -> dict[ClientId, Memory]:
        blank = self._blank
        assert blank is not None
        return {c: rebuild(blank, found[c]) if c in found else blank for c in clients}

    def evaluate(
        self, cohort: Sequence[ClientId], sent: Sent, round: int
    ) -> Iterator[tuple[ClientId, dict[str, float]]]:
        """Yield metric sums of the shared model on each client's own rows."""
        kept = self.memories(cohort) or {}
        asked = [(client, kept.get(client)) for client in cohort]
        return self._hands.measure(sent, asked, round, trained=True)

    def settle(self, round: int, accepted: Sequence[ClientId]) -> None:
        """Tell nothing: the store's commit has already advanced the accepted memories."""

    def close(self) -> None:
        """Let go of processes and memory."""
        self._hands.close()
