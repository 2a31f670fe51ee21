# SPDX-License-Identifier: Apache-2.0
"""Canaries: clients of a simulation whose whole update is one random direction.

How plainly a direction shows in what was released estimates how much is revealed of a client
(Andrew et al. 2023, arXiv 2302.03098), in one run and without attacking anybody.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from muster import keys
from muster.data import Population
from muster.plan import Plan
from muster.privacy.audits.canary import canary, canary_epsilon
from muster.rounds import play, start
from muster.simulation import LocalExecutor, Simulation, choose
from muster.simulation.threads import one_thread
from muster.store.memory import MemoryStore
from muster.types import Answer, ClientId, Cohort, Reply, Roster, Sent

__all__ = ["Canaries", "CanaryScores", "Estimate", "shown", "why_not"]

MOST, COORDINATES = 500, 20_000_000  # canaries, and numbers that they may hold together
FEWEST = 400  # coordinates, below which random directions are not nearly orthogonal
DRAWS, SURE = 100, 0.01  # resamples of the canaries, and the share of them that may lie lower


class Estimate(NamedTuple):
    """ε as canaries estimate it, and the least that resampling them makes plausible."""

    epsilon: float
    least: float


class CanaryScores(NamedTuple):
    """Scores of canaries: in the last model alone, and in the models of all rounds."""

    last: Estimate
    every: Estimate
    canaries: int
    rounds: int


class Canaries:
    """The clients of a simulation and, beside them, canaries with their directions `(m, d)`."""

    def __init__(self, plan: Plan, inner: Simulation, directions: NDArray[np.float64]) -> None:
        self._plan, self._inner = plan, inner
        known = inner.known()
        whole = all(isinstance(client, int) for client in known.clients)
        first = max((c for c in known.clients if isinstance(c, int)), default=0) + 1
        names = (first + i if whole else f"~canary-{i:05d}" for i in range(len(directions)))
        self.directions: dict[ClientId, Any] = dict(zip(names, directions, strict=True))
        most = int(np.max(known.rows()))
        rows = np.concatenate([known.rows(), np.full(len(directions), most)])
        self._roster = Roster((*known.clients, *self.directions), lambda: rows)
        self._most = most
        self._asked: tuple[list[ClientId], Sent, int] | None = None

    def known(self) -> Roster:
        """Return everybody, canaries last; a canary has as many rows as the largest client."""
        return self._roster

    def send(self, cohort: Cohort, sent: Sent, round: int) -> None:
        """Send to those who hold data, for them to train; canaries have nothing to do."""
        real = tuple(client for client in cohort.clients if client not in self.directions)
        self._asked = [c for c in cohort.clients if c in self.directions], sent, round
        self._inner.send(Cohort(real), sent, round)

    def replies(self) -> Iterator[Answer]:
        """Yield the updates of those who trained, then one of each canary, as long as its bound."""
        yield from self._inner.replies()
        assert self._asked is not None
        asked, sent, round = self._asked
        for client in asked:
            yield self._reply(client, sent, round)

    def _reply(self, client: ClientId, sent: Sent, round: int) -> Reply:
        plan, field = self._plan, self._plan.stages.contracts[0].fields[0].name
        bound = plan.stages.now(sent.stages)[-1].bound
        clip = [c.bound for c in plan.stages.now(sent.stages) if c.bound is not None]
        length = 0.999 * (clip[0] if clip else bound or 1.0)
        row = (length * self.directions[client]).astype(plan.dtype)[None]
        draws = keys.Keys(keys.key(plan.seed).at("encode", round), (client,))
        weights = plan.weights(np.array([self._most]), (1,))
        payload, _ = plan.encode(
            plan.algorithm.payload(**{field: row}), sent.stages, None, draws, weights
        )
        told = {"rows": 1.0, "loss": 0.0, "steps": 0.0, "drift": 0.0}
        sums = told if plan.local.reports else {}
        one = {name: rows[0] for name, rows in payload.items()}
        return Reply((client,), one, float(weights[0]), sums, np.zeros(0, plan.dtype))

    def evaluate(self, cohort: Any, sent: Sent, round: int) -> Iterator[Any]:
        """Evaluate nobody."""
        return iter(())

    def settle(self, round: int, accepted: Any) -> None:
        """Settle nothing: nobody remembers anything."""


def why_not(plan: Plan) -> str | None:
    """Say why canaries cannot audit a plan, or None."""
    payload = plan.stages.contracts[0].fields
    if len(payload) != 1 or payload[0].scalar:
        return f"{type(plan.algorithm).__name__} sends more than one vector of updates"
    if payload[0].size < FEWEST:
        return f"the model has {payload[0].size} coordinates, and canaries need {FEWEST}"
    if plan.remembers:
        return "clients keep a memory between rounds, which canaries have not"
    if any(shared for *_, shared in plan.sharing.buffers):
        return "the plan shares buffers, which canaries have not"
    return None


def shown(plan: Plan, population: Population, rounds: int, delta: float) -> CanaryScores:
    """Return the canaries' scores in a simulation of this plan; half as many again stay unseen.

    A secure sum is left out of the simulation, as its sums have the same bits without it.
    """
    stages = plan.pipeline[:-1] if plan.secure is not None else plan.pipeline
    plan = replace(plan, pipeline=stages, evaluate=replace(plan.evaluate, clients=0), budget=None)
    size = plan.stages.contracts[0].fields[0].size
    # More than a fraction of the dimensions, and canaries would hide one another.
    count = max(20, min(MOST, size // 4, COORDINATES // size // 2))
    root = keys.key(plan.seed).at("canaries")
    seen = np.stack([canary(root.at(i), size) for i in range(count)])
    unseen = np.stack([canary(root.at("unseen", i), size) for i in range(count)])
    choice = choose(plan, population, max(1, len(population) // 2))
    store = MemoryStore()
    executor = LocalExecutor(plan, choice.engine, population)
    clients = Canaries(plan, Simulation(plan, population, store, choice, executor), seen)
    state, inside, outside = start(plan), [], []
    first = np.asarray(state.algorithm.shared.x, np.float64)
    with one_thread(plan.task):
        for round in range(1, rounds + 1):
            before = np.asarray(state.algorithm.shared.x, np.float64)
            state = play(plan, state, clients, store, round, lambda *_: {})
            moved = np.asarray(state.algorithm.shared.x, np.float64) - before
            if moved.any():
                inside.append(_cosines(seen, moved))
                outside.append(_cosines(unseen, moved))
    whole = np.asarray(state.algorithm.shared.x, np.float64) - first
    if not inside:
        return CanaryScores(Estimate(0.0, 0.0), Estimate(0.0, 0.0), count, rounds)
    draw = root.at("resample").generator()
    last = _estimate(_cosines(seen, whole), size, delta, draw)
    every = _estimate(np.max(inside, 0), np.max(outside, 0), delta, draw)
    return CanaryScores(last, every, count, rounds)


def _estimate(
    seen: NDArray[np.float64],
    unseen: NDArray[np.float64] | int,
    delta: float,
    draw: np.random.Generator,
) -> Estimate:
    """Estimate ε at δ, and its lower quantile over resamples (a bootstrap, so itself no proof)."""

    def again() -> float:
        other = unseen if isinstance(unseen, int) else draw.choice(unseen, len(unseen))
        return canary_epsilon(draw.choice(seen, len(seen)), other, delta)

    resampled = [again() for _ in range(DRAWS)]
    return Estimate(canary_epsilon(seen, unseen, delta), float(np.quantile(resampled, SURE)))


def _cosines(directions: NDArray[np.float64], moved: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = directions @ moved / np.linalg.norm(moved)
    return found
