# SPDX-License-Identifier: Apache-2.0
"""`check_clients`: replies in order, sums of a fixed shape, memories that count when settled."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from muster.aggregation import Mean
from muster.aggregation.sums import block_size
from muster.algorithms import Scaffold
from muster.data import Population
from muster.local import Local
from muster.metrics.sums import HELD_OUT
from muster.optimizers import SGD
from muster.plan import Plan
from muster.rounds import RunState, start
from muster.simulation import Choice, LocalExecutor, Simulation
from muster.store import MemoryStore
from muster.tasks import numpy as tasks
from muster.testing.claim import claim, close, closed, same
from muster.types import ClientId, Clients, Cohort, Declined, Failed, Late, Reply, Store
from muster.vectors import leaves

__all__ = ["Make", "check_clients"]

COUNT = 70  # clients, so that blocks hold more than one
Absent = Mapping[int, frozenset[ClientId]]
Make = Callable[[Plan, Population, Store, Absent], Clients]


def check_clients(make: Make) -> None:
    """Raise `AssertionError` where a runtime breaks a promise of `Clients`.

    `make(plan, population, store, absent)` returns the clients of this population; in round r
    those in `absent[r]` do not answer. It is called several times; what has `close` is closed.

    >>> def make(plan, population, store, absent):
    ...     hands = LocalExecutor(plan, "loop", population)
    ...     return Simulation(plan, population, store, Choice("loop", 4, True, ""), hands, absent)
    >>> check_clients(make)
    """
    _roster_and_evaluation(make)
    everybody = tuple(f"c{i:02}" for i in range(COUNT))
    some = everybody[1::2]
    for cohort, gone in (
        (everybody, frozenset[ClientId]()),
        (everybody, frozenset(everybody[:3] + everybody[40:45])),
        (some, frozenset(some[::3])),
        (everybody[:1], frozenset[ClientId]()),
        (some, frozenset(some)),
    ):
        _one_round(make, Cohort(cohort), gone)
    _memories(make, everybody)


class Scene(NamedTuple):
    """A plan and data to train on, a store, the state before round 1, and the clients."""

    plan: Plan
    population: Population
    store: Store
    state: RunState
    clients: Clients


def _data() -> Population:
    draw = np.random.default_rng(5)
    rows = {}
    for i in range(COUNT):
        n = 3 + i % 5
        rows[f"c{i:02}"] = draw.normal(size=(n, 4)), draw.integers(0, 3, n)
    return Population.from_arrays(rows)


@contextlib.contextmanager
def _scene(make: Make, absent: Absent | None = None, batch: int | None = 2) -> Iterator[Scene]:
    plan = Plan(
        task=tasks.SoftmaxRegression(4, 3),
        algorithm=Scaffold(),
        local=Local(epochs=2, batch=batch, optimizer=SGD(0.1)),
        dtype="float64",
    )
    population, store = _data(), MemoryStore()
    clients = make(plan, population, store, absent or {})
    try:
        yield Scene(plan, population, store, start(plan), clients)
    finally:
        closed(clients)


def _plain(plan: Plan, population: Population, store: Store, absent: Absent) -> Clients:
    """Return the runtime to compare all others with: one client at a time, in this process."""
    executor = LocalExecutor(plan, "loop", population)
    return Simulation(plan, population, store, Choice("loop", 1, True, "plain"), executor, absent)


def _roster_and_evaluation(make: Make) -> None:
    with _scene(make) as scene:
        roster, population = scene.clients.known(), scene.population
        claim(roster.clients == population.clients, "known() is not the enrolled, sorted by id")
        rows = np.asarray(roster.rows())
        claim((rows == population.sizes).all(), "known().rows() are not the clients' row counts")
        asked = population.clients[3:20:2]
        found = list(scene.clients.evaluate(asked, scene.state.sent(), 1))
        names = tuple(client for client, _ in found)
        claim(names == asked, f"evaluate yields {names}, not each of {asked} once, in order")
        for client, sums in found:
            x, y = population[client]
            w, measured = scene.state.algorithm.shared.x, scene.plan.measured
            wanted = scene.plan.task.evaluate(w, None, x, y, measured) | {HELD_OUT: 0.0}
            close(sums, wanted, 1e-9, f"the metric sums of client {client!r}")


def _replies(scene: Scene, cohort: Cohort, round: int) -> list[Reply]:
    scene.clients.send(cohort, scene.state.sent(), round)
    return [answer for answer in scene.clients.replies() if isinstance(answer, Reply)]


def _one_round(make: Make, cohort: Cohort, gone: frozenset[ClientId]) -> None:
    absent = {1: gone}
    with _scene(_plain) as scene:
        kept = Cohort(tuple(c for c in cohort.clients if c not in gone))
        wanted = _reduced(_replies(scene, kept, 1), cohort)
    with _scene(make, absent) as scene:
        scene.clients.send(cohort, scene.state.sent(), 1)
        answers = list(scene.clients.replies())
        claim(not list(scene.clients.replies()), "replies() yields a round a second time")
    _order(answers, cohort, gone)
    replies = [answer for answer in answers if isinstance(answer, Reply)]
    total = _reduced(replies, cohort)
    if wanted is None or total is None:
        claim(wanted is total, f"there is a reply where {len(kept.clients)} clients answer")
        return
    claim(total.clients == wanted.clients, "the sum is over other clients than those who answer")
    for name in ("payload", "metrics", "buffers"):
        found, right = (getattr(reply, name) for reply in (total, wanted))
        close(found, right, 1e-10, f"the sum of {name} over the cohort")
    close(total.weight, wanted.weight, 1e-12, "the sum of the weights")
    with _scene(make, absent) as scene:
        again = _reduced(_replies(scene, cohort, 1), cohort)
    assert again is not None
    claim(same(again.payload, total.payload), "the same round twice gives other bits")


def _reduced(replies: list[Reply], cohort: Cohort) -> Reply | None:
    return Mean().reduce(iter(replies), cohort.clients)


def _order(answers: list[Any], cohort: Cohort, gone: frozenset[ClientId]) -> None:
    """Check that each client answers once, and replies stand in order and keep to their blocks."""
    replies = [answer for answer in answers if isinstance(answer, Reply)]
    heard = [client for reply in replies for client in reply.clients]
    expected = [client for client in cohort.clients if client not in gone]
    claim(heard == expected, f"replies come from {heard}, expected {expected} in this order")
    for answer in answers:
        if isinstance(answer, Declined | Failed | Late):
            claim(answer.client in gone, f"client {answer.client!r} answered, yet is {answer}")
    place = {
        client: i // block_size(len(cohort.clients)) for i, client in enumerate(cohort.clients)
    }
    for i, reply in enumerate(replies):
        blocks = {place[client] for client in reply.clients}
        claim(
            len(blocks) == 1 or i == 0,
            f"a reply sums the blocks {sorted(blocks)}; one block each, or the first a run of them",
        )


def _memories(make: Make, everybody: tuple[ClientId, ...]) -> None:
    """Check that a memory counts once its reply is accepted; an abandoned round leaves none.

    Full batches are the same in every round, so that only memories can make a difference.
    """
    cohort, accepted = Cohort(everybody[:9]), everybody[:9:2]
    with _scene(make, batch=None) as scene:
        first = _replies(scene, cohort, 1)
        _settled(scene, 1, ())
        again = _replies(scene, cohort, 2)
        claim(_equal(first, again), "an abandoned round changes what clients remember")
        _settled(scene, 2, accepted)
        with _scene(_plain, batch=None) as plain:
            _replies(plain, Cohort(accepted), 2)
            plain.store.commit(2, {}, {}, accepted)
            wanted = _reduced(_replies(plain, cohort, 3), cohort)
        found = _reduced(_replies(scene, cohort, 3), cohort)
        assert wanted is not None and found is not None
        close(found.payload, wanted.payload, 1e-10, "the round after one that accepted a part")


def _settled(scene: Scene, round: int, accepted: tuple[ClientId, ...]) -> None:
    scene.store.commit(round, dict(leaves(scene.state)), {"round": round}, accepted)
    scene.clients.settle(round, accepted)
    before = scene.store.memory(scene.population.clients)
    scene.clients.settle(round, accepted)
    after = scene.store.memory(scene.population.clients)
    claim(same(before, after), "settle() is not idempotent: a second call changes a memory")


def _equal(a: list[Reply], b: list[Reply]) -> bool:
    return all(same(one.payload, two.payload) for one, two in zip(a, b, strict=True))
