# SPDX-License-Identifier: Apache-2.0
"""Types that travel between the rooms, and the seams as Protocols.

A vector is an array whose last axis is the parameters; leading axes are clients. A payload is
a named tuple of vectors, so that an algorithm names what it sends; its per-client scalars have
a last axis of length one. `Vector` and `Scalar` in the annotations of a payload say which is
which (a Clip bounds vectors, never scalars).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from operator import lt
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from muster.errors import PlanError
from muster.keys import Key
from muster.layout import Layout

__all__ = [
    "Answer",
    "Batch",
    "ClientId",
    "ClientOutcome",
    "Clients",
    "Cohort",
    "Commits",
    "Declined",
    "Failed",
    "Fusing",
    "GradientsByRow",
    "Late",
    "LocalWork",
    "PrivateStep",
    "Rejected",
    "Reply",
    "Roster",
    "Scalar",
    "Sent",
    "State",
    "Store",
    "Task",
    "TaskTraits",
    "Tree",
    "Vector",
]

ClientId = int | str
Vector = Any  # an array (d,) or (clients, d)
Tree = Any  # None, arrays, numbers, tuples, named tuples and dicts of them


class Scalar:
    """Annotation of a payload field that is one number per client: `(1,)` or `(clients, 1)`."""


class State(NamedTuple):
    """The state of a hook between rounds: `shared` is sent with the model, `private` is not."""

    shared: Tree = None
    private: Tree = None


class LocalWork(NamedTuple):
    """The local work of a client in one round: `(1,)` or `(clients, 1)` each.

    `steps` is the number of local steps, `rates` the sum of the local rates used, `norm` the
    L1 norm of the step weights (FedNova's a_k).
    """

    steps: Any
    rates: Any
    norm: Any


class Sent(NamedTuple):
    """The shared states of algorithm and stages, the buffers, and `frozen`, as a cohort gets them.

    `frozen` `(f,)` are the parameters that nobody trains, None where there are none.
    """

    algorithm: Tree
    stages: tuple[Tree, ...]
    buffers: Any
    frozen: Any = None


class PrivateStep(NamedTuple):
    """For one client's private step: the source of its noise, and what its sum is divided by."""

    source: Any
    expected: int


class Batch(NamedTuple):
    """Rows for one step: `(rows, ...)` for one client or `(clients, rows, ...)` for a matrix.

    `scale` holds each row's share of its client's batch mean, zero for a padded row; None means
    one over the number of rows for each. `seed` is one integer per client for layers that draw,
    `private` a `PrivateStep` per client where single rows are kept private.
    """

    x: Any
    y: Any
    scale: Any = None
    seed: Any = None
    private: Any = None


@dataclass(frozen=True)
class Cohort:
    """The clients invited in one round, and how often each counts; it sorts itself by id.

    Raises `PlanError` for a client that is in it twice, or counts that do not fit.

    >>> Cohort(("b", "a"), (1, 2))
    Cohort(clients=('a', 'b'), times=(2, 1))
    """

    clients: tuple[ClientId, ...]
    times: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        given, times = tuple(self.clients), self.times
        if times is not None and len(times) != len(given):
            raise PlanError(
                f"a cohort of {len(given)} clients has {len(times)} counts of how often each was "
                f"drawn; give one for each client, or none"
            )
        object.__setattr__(self, "clients", given)
        if _rising(given):
            return
        order = sorted(range(len(given)), key=[_rank(client) for client in given].__getitem__)
        clients = tuple(map(given.__getitem__, order))
        for one, other in pairwise(clients):
            if one == other:
                raise PlanError(
                    f"client {one!r} is in a cohort twice; name it once, and say in `times` how "
                    f"often it counts"
                )
        object.__setattr__(self, "clients", clients)
        if times is not None:
            object.__setattr__(self, "times", tuple(times[place] for place in order))

    def counts(self) -> dict[ClientId, int]:
        """Count how often each client was drawn (1 unless drawn with replacement)."""
        return dict(zip(self.clients, self.times or (1,) * len(self.clients), strict=True))


def _rising(clients: tuple[ClientId, ...]) -> bool:
    """Return whether they are sorted, without repeats, and all of one type."""
    try:
        return all(map(lt, clients, clients[1:]))
    except TypeError:  # numbers and words
        return False


def _rank(client: ClientId) -> tuple[bool, ClientId]:
    """Return the rank of a client: numbers before words, each in its own order."""
    return isinstance(client, str), client


@dataclass(frozen=True)
class Roster:
    """A roster of the enrolled, with what is known of each: `clients` sorted by id.

    `rows()` are their row counts `(clients,)`; `losses` the mean loss on its rows that a client
    told last, where the plan's sampler needs losses; `seen` the last round in which its reply
    counted, of those that had one; `barred` why a client may not be drawn, by client, and None
    where nobody says who may be: then all are `eligible`.

    >>> people = Roster(("a", "b", "c"), lambda: [3, 1, 2], barred={"b": "fewer than 2 rows"})
    >>> people.eligible, people.eligible_rows().tolist()
    (('a', 'c'), [3, 2])
    """

    clients: tuple[ClientId, ...]
    rows: Callable[[], Any]
    losses: Mapping[ClientId, float] = field(default_factory=dict)
    seen: Mapping[ClientId, int] = field(default_factory=dict)
    barred: Mapping[ClientId, str] | None = None

    @cached_property
    def eligible(self) -> tuple[ClientId, ...]:
        """The clients that may be drawn, sorted by id."""
        if not self.barred:
            return self.clients
        return tuple(client for client in self.clients if client not in self.barred)

    def eligible_rows(self) -> Any:
        """Return the row counts of those that may be drawn, aligned with `eligible`."""
        rows = np.asarray(self.rows())
        if not self.barred:
            return rows
        return rows[[client not in self.barred for client in self.clients]]


@dataclass(frozen=True)
class ClientOutcome:
    """The outcome of one invited client, as a sampler is told of it after the round.

    `accepted`: its reply is in the sum that was stepped on. `loss` is its mean training loss, where
    the sampler needs losses and the reply counted. `missing` says why there is none: "declined",
    "failed", "late" or "rejected"; "" where there is one, or nothing was heard.
    """

    client: ClientId
    accepted: bool
    loss: float | None = None
    missing: str = ""


@dataclass(frozen=True)
class Reply:
    """The answer of one client, or the weighted sum of several (a worker's block, a region).

    `payload` and `buffers` are already multiplied by the weights and summed; `weight` is the
    sum of the weights; `metrics` are sums over the clients, empty where they keep them; `secure`
    is what each secure sum notes of itself; `parts`, for a rule, are the replies kept apart;
    `norms` is how long the update of each client was, of those where that may be said, and `losses`
    the mean training loss of each, where a sampler needs it.
    """

    clients: tuple[ClientId, ...]
    payload: Tree
    weight: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    buffers: Any = None
    secure: tuple[Mapping[str, Any], ...] = ()
    parts: tuple[Reply, ...] = ()
    norms: tuple[tuple[ClientId, float], ...] = ()
    losses: tuple[tuple[ClientId, float], ...] = ()


@dataclass(frozen=True)
class Declined:
    """A client that would not take part this round, and why."""

    client: ClientId
    reason: str


@dataclass(frozen=True)
class Failed:
    """A client that broke: at which stage, and the error's text."""

    client: ClientId
    stage: str
    error: str


@dataclass(frozen=True)
class Late:
    """A client whose reply did not come in time, and what time that was."""

    client: ClientId
    reason: str = "after the deadline"


@dataclass(frozen=True)
class Rejected:
    """A masked sum that honest clients cannot have made: whose it is, and what is wrong with it.

    Nobody is blamed: somebody among them lied, and a mask hides who.
    """

    clients: tuple[ClientId, ...]
    reason: str


Answer = Reply | Declined | Failed | Late | Rejected


@dataclass(frozen=True)
class TaskTraits:
    """The facts of a task that others need to know, declared by it.

    `gradients`: it shows the gradient of each step; else it has a training of its own. `by_row`: it
    shows each row's own, as `GradientsByRow`. `whole`: all steps of a client's round are one run,
    as something in it counts them. `piece`: the fewest steps that one run pays for, where a run is
    compiled. `threads` is the module whose own threads it computes with (its `get_num_threads` and
    `set_num_threads`), beside those of BLAS and OpenMP; "" for none.
    """

    gradients: bool = True
    by_row: bool = False
    whole: bool = False
    piece: int = 1
    threads: str = ""


class Task(Protocol):
    """Model, loss and data in one framework: vectors in, vectors out. A frozen, hashable value.

    `framework` is the package whose arrays it computes with, or "custom"; what it can do is not
    read off that but declared in `traits`. `draws` says whether layers draw inside
    forward (dropout). `engines` lists how a cohort may be trained: "loop" (one client at a
    time), "matrix" (the cohort as one matrix `(clients, d)`), "fused" (in place through
    `descend`, only when nothing bends gradients and local training is plain SGD).
    """

    framework: str
    draws: bool
    engines: tuple[str, ...]

    @property
    def traits(self) -> TaskTraits:
        """The facts that others need to know."""

    @property
    def layout(self) -> Layout:
        """Names, shapes and dtype behind the flat vectors."""

    def init(self, key: Key) -> tuple[Vector, Vector]:
        """Return the start: NumPy parameters `(d,)` and buffers `(b,)`."""

    def check(self, x: Any, y: Any) -> None:
        """Raise `DataError` for rows this task cannot be trained on."""

    def flops(self, batch: int) -> float:
        """Estimate the arithmetic of a training step on so many rows, for the choice of engine."""

    def arrays(self, tree: Tree) -> Tree:
        """Return NumPy arrays of a tree as this framework's arrays (sharing memory if possible)."""

    def numpy(self, tree: Tree) -> Tree:
        """Return the inverse of `arrays`."""

    def gradient(self, w: Vector, buffers: Vector, batch: Batch) -> tuple[Vector, Any, Vector]:
        """Return the mean loss's gradient, like `w`; the loss `()` or `(clients,)`; new buffers."""

    def loop(self, step: Callable[[Tree, Batch], Tree], carry: Tree, batches: Any) -> Tree:
        """Fold `step` over the batches: a Python loop, or one compiled scan."""

    def run(self, descent: Any, given: Tree, carry: Tree, batches: Any) -> Tree:
        """Run `descent.walk(given, carry, batches)`, compiled as one program where that pays."""

    def model(self, w: Vector, buffers: Vector) -> Any:
        """Return the framework's own model with these parameters."""

    @property
    def head(self) -> Any:
        """The head of the model's outputs (`metrics.head.Head`), to read metrics off them."""

    def evaluate(
        self, w: Vector, buffers: Vector, x: Any, y: Any, metrics: Sequence[Any] = ()
    ) -> dict[str, float]:
        """Sum over rows: "rows", the "loss", and those of the metrics (`metrics.sums.Tally`)."""


class Fusing(Task, Protocol):
    """A task that lists "fused"; `fuses` says what `descend` likes best: "client" or "cohort"."""

    fuses: str

    def descend(self, w: Vector, buffers: Vector, batch: Batch, rate: float) -> Any:
        """Do `w −= rate · gradient` in place, without a gradient buffer; return the loss."""


class GradientsByRow(Task, Protocol):
    """A task that shows each row's own gradient: of its loss alone, without the penalty of `l2`.

    `mixing` names a layer that mixes rows, if any.
    """

    l2: float
    mixing: str

    def gradients(self, w: Vector, buffers: Vector, batch: Batch) -> tuple[Any, Any]:
        """Return one client's gradients `(rows, d)` and losses `(rows,)`."""

    def clipped(self, w: Vector, buffers: Vector, batch: Batch, bound: float) -> tuple[Vector, Any]:
        """Sum all rows' gradients, each clipped to the bound, like `w`; also the mean loss."""


class Clients(Protocol):
    """The runtime seam: a simulation, a network and a tree of regions all implement it."""

    def known(self) -> Roster:
        """Return the roster of the enrolled."""

    def send(self, cohort: Cohort, sent: Sent, round: int) -> None:
        """Begin training this cohort on what was sent."""

    def replies(self) -> Iterator[Answer]:
        """Yield answers as they come; blocks in order (DESIGN: sums have a fixed shape)."""

    def evaluate(
        self, cohort: Sequence[ClientId], sent: Sent, round: int
    ) -> Iterator[tuple[ClientId, dict[str, float]]]:
        """Yield metric sums of what was sent on the rows that each client trains on.

        Asked before a round trains anybody, of those who may be drawn for it.
        """

    def settle(self, round: int, accepted: Sequence[ClientId]) -> None:
        """Tell the clients whose replies counted; idempotent; nobody when abandoned."""


@runtime_checkable
class Turns(Protocol):
    """A sampling that gives each client its turns by the plan's seed, so a client knows them."""

    def turn(self, client: ClientId, round: int, root: Key) -> bool:
        """Return whether a client has its turn in a round; `root` is the key of the plan's seed."""


class Commits(Protocol):
    """A place where a round is committed."""

    def reached(self) -> Set[ClientId]:
        """Return who was invited in a round that is committed, and so holds what is sent once."""

    def commit(
        self,
        round: int,
        arrays: Mapping[str, Any],
        record: Mapping[str, Any],
        accepted: Sequence[ClientId],
    ) -> None:
        """Make a round durable in one transaction: all of it or nothing."""


class Store(Protocol):
    """A store makes a run durable."""

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """Return the last committed round and its state's arrays by name, or None before it."""

    def versions(self) -> list[int]:
        """Return the committed versions whose states are kept, in order; the last is always one."""

    def state(self, round: int) -> dict[str, Any] | None:
        """Return the arrays of a version that is kept, or None."""

    def memory(
        self, clients: Iterable[ClientId], version: int | None = None
    ) -> dict[ClientId, dict[str, Any]]:
        """Return the committed memory of these clients; those without one are left out.

        With a `version` that is kept, as it was when that was committed.
        """

    def remember(self, round: int, client: ClientId, arrays: Mapping[str, Any]) -> None:
        """Stage a client's new memory; it counts only once its reply is in a commit."""

    def staged(self, round: int, clients: Iterable[ClientId]) -> dict[ClientId, dict[str, Any]]:
        """Return the memory of these clients that waits for this round's commit."""

    def commit(
        self,
        round: int,
        arrays: Mapping[str, Any],
        record: Mapping[str, Any],
        accepted: Sequence[ClientId],
        stays: Collection[int] = (),
    ) -> None:
        """Make a round durable in one transaction: all of it or nothing.

        Version 0 is what training started from. Of the versions that are kept, those in `stays`
        stay beside this one, with the memories of their time; all others go, after this is durable.
        """

    def history(self) -> list[dict[str, Any]]:
        """Return the records of the committed rounds in order, each round once."""
