# SPDX-License-Identifier: Apache-2.0
"""One piece of a round: some of the cohort's clients trained here, their blocks summed."""

from __future__ import annotations

import traceback
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from muster.aggregation.fixed_sums import fixed_sum, partial_sum
from muster.aggregation.sums import add, block_size, fold_blocks
from muster.data import Population, Rows
from muster.errors import ClientError, MusterError
from muster.local import Group, Memory, Outcome, train
from muster.metrics.sums import HELD_OUT
from muster.plan import Plan
from muster.plan.losses import losses_of
from muster.plan.norms import norms_of, shows_norms
from muster.simulation.engine import grouped
from muster.types import ClientId, Failed, Reply, Sent
from muster.vectors import in_order, tree_map

__all__ = ["Ask", "WorkResult", "WorkUnit", "measure", "perform"]

Numbers = tuple[tuple[ClientId, float], ...]  # one of each of some clients


@dataclass(frozen=True)
class WorkUnit:
    """Some clients of a cohort of `invited`, in order, with their places in it and memories."""

    round: int
    invited: int
    clients: tuple[ClientId, ...]
    times: tuple[int, ...]
    places: tuple[int, ...]
    memories: tuple[Memory, ...] | None

    def without(self, clients: Collection[ClientId]) -> WorkUnit:
        """Return the piece without some of its clients."""
        keep = [i for i, client in enumerate(self.clients) if client not in clients]
        return WorkUnit(
            self.round,
            self.invited,
            tuple(self.clients[i] for i in keep),
            tuple(self.times[i] for i in keep),
            tuple(self.places[i] for i in keep),
            self.memories and tuple(self.memories[i] for i in keep),
        )


class Ask(NamedTuple):
    """One client to evaluate on its rows: those it trains on, or its test rows if it has any."""

    round: int
    client: ClientId
    memory: Memory | None
    trained: bool = False


class WorkResult(NamedTuple):
    """The result of a piece: block sums in order, new memories, and who failed.

    Where `Plan.needs_individual_replies`, one reply a client instead; where sums are in fixed
    point, one of all. `alone` says why its clients could not train as one group although each of
    them could by itself; empty if they did.
    """

    replies: tuple[Reply, ...]
    memories: dict[ClientId, Memory]
    failed: tuple[Failed, ...] = ()
    alone: str = ""


def perform(
    plan: Plan, engine: str, population: Population, sent: Sent, piece: WorkUnit, *, lenient: bool
) -> WorkResult:
    """Train a piece. A client that fails raises `ClientError`, or is left out when `lenient`."""
    failed: list[Failed] = []
    memories: dict[ClientId, Memory] = {}
    replies: list[Reply] = []
    alone = ""
    place = dict(zip(piece.clients, piece.places, strict=True))
    block = block_size(piece.invited)
    apart = plan.needs_individual_replies
    fixed = plan.aggregation.sum == "fixed" and not apart
    sink = failed if lenient else None
    for group in _groups(plan, engine, population, piece, sink):
        attempt = _attempt(plan, engine, sent, piece.round, group, sink)
        if attempt is None:
            continue
        outcome, alone = attempt[0], alone or attempt[1]
        memories |= zip(outcome.clients, outcome.memories or (), strict=False)
        told = _norms(plan, sent, outcome), losses_of(plan, outcome.clients, outcome.metrics)
        if fixed:  # one sum that grows: no client's place matters
            total = fixed_sum([*replies, _fixed(outcome, told)])
            replies = [] if total is None else [total]
            continue
        whole = outcome.clients == piece.clients
        places = piece.places if whole else [place[client] for client in outcome.clients]
        edges = list(range(len(places))) if apart else _edges(places, block)
        replies += _blocks(outcome, edges, told, fold=places[0] == 0 and not apart)
    if apart or fixed:
        return WorkResult(tuple(replies), memories, tuple(failed), alone)
    replies = list(fold_blocks(replies, lambda reply: place[reply.clients[0]] // block))
    if piece.places and piece.places[0] == 0:  # a left fold may begin here, and only here
        replies = [add(replies)] if replies else []
    return WorkResult(tuple(replies), memories, tuple(failed), alone)


def _groups(
    plan: Plan, engine: str, population: Population, piece: WorkUnit, failed: list[Failed] | None
) -> Iterator[Group]:
    """Yield the groups that train together, of clients whose rows are good."""
    if not piece.clients:
        return
    try:
        data = _rows(plan, population, piece.clients)
    except Exception:
        faults = _faults(plan, population, piece)
        if not faults:
            raise
        if failed is None:
            raise ClientError(piece.round, faults[0].client, "data", faults[0].error) from None
        failed += faults
        piece = piece.without({fault.client for fault in faults})
        yield from _groups(plan, engine, population, piece, failed)
        return
    whole = Group(
        piece.clients, piece.times, data.x, data.y, data.starts, data.sizes, piece.memories
    )
    yield from [whole] if grouped(engine, plan) else whole.alone()


def _rows(plan: Plan, population: Population, clients: Sequence[ClientId]) -> Rows:
    """Return the clients' rows; those loaded on demand are seen here for the first time."""
    data = population.gather(clients)
    if population.is_lazy:
        for start, size in zip(data.starts.tolist(), data.sizes.tolist(), strict=True):
            plan.task.check(data.x[start : start + size], data.y[start : start + size])
    return data


def _faults(plan: Plan, population: Population, piece: WorkUnit) -> list[Failed]:
    """Say whose rows cannot be loaded or trained on, and why."""
    found: list[Failed] = []
    for client in piece.clients:
        try:
            plan.task.check(*population[client])
        except Exception as error:
            found.append(Failed(client, "data", _text(error)))
    return found


def _attempt(
    plan: Plan, engine: str, sent: Sent, round: int, group: Group, failed: list[Failed] | None
) -> tuple[Outcome, str] | None:
    """Train a group; where failures are collected, again without whoever failed.

    With the outcome why its clients were trained one by one, if they were.
    """
    while group.clients:
        try:
            return _trained(plan, engine, sent, round, group)
        except ClientError as error:
            if failed is None:
                raise
            failed.append(Failed(error.client, error.stage, error.cause))
            group = group.without(error.client)
    return None


def _trained(plan: Plan, engine: str, sent: Sent, round: int, group: Group) -> tuple[Outcome, str]:
    """Return the outcome of a group, and why its clients were trained one by one, if they were.

    A group may fail where none of its clients does: the user's model may do in training what vmap
    has no rule for. Then nobody is to blame, and what each did alone counts. Every group is tried
    again: what became of another one depends on which process had it, and the bits must not.
    """
    try:
        with np.errstate(all="ignore"):  # what is not finite is refused when it is reported
            return train(plan, engine, round, sent, group), ""
    except ClientError:
        raise
    except Exception as error:
        if len(group.clients) == 1 and not grouped(engine, plan):
            raise ClientError(round, group.clients[0], "train", _text(error)) from error
        outcomes = [_trained(plan, "loop", sent, round, one)[0] for one in group.alone()]
        return _together(outcomes), f"{type(error).__name__}: {error}".partition("\n")[0]


def _together(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the outcomes of clients that trained one by one, as that of their group."""
    first = outcomes[0]
    memories = [memory for one in outcomes for memory in one.memories or ()]
    return Outcome(
        tuple(client for one in outcomes for client in one.clients),
        tree_map(lambda *rows: np.concatenate(rows), *(one.payload for one in outcomes)),
        np.concatenate([one.buffers for one in outcomes]),
        np.concatenate([one.weights for one in outcomes]),
        {name: np.concatenate([one.metrics[name] for one in outcomes]) for name in first.metrics},
        None if first.memories is None else tuple(memories),
    )


def _text(error: Exception) -> str:
    """Return our own errors as sentences; of the user's, all there is to know."""
    if isinstance(error, MusterError):
        return str(error)
    return "".join(traceback.format_exception(error))


def _edges(places: Sequence[int], block: int) -> list[int]:
    """Return the indices, in clients at these places, at which each block begins."""
    if places[-1] - places[0] == len(places) - 1:  # nobody is absent
        return [0, *range(block - places[0] % block, len(places), block)]
    at = [place // block for place in places]
    return [i for i in range(len(at)) if i == 0 or at[i] != at[i - 1]]


def _norms(plan: Plan, sent: Sent, outcome: Outcome) -> Numbers:
    """Return the length of each client's update; nobody's where that is to be hidden."""
    if not shows_norms(plan):
        return ()
    contract = plan.stages.now(sent.stages)[-1]
    found = norms_of(contract, outcome.payload, outcome.weights)
    return tuple(zip(outcome.clients, found, strict=True))


def _blocks(
    outcome: Outcome, edges: list[int], told: tuple[Numbers, Numbers], *, fold: bool
) -> list[Reply]:
    """Sum each run of clients that share a block, weighted, or (`fold`) all of them.

    `told` are the norms and the losses of single clients, where they may be said.
    """
    norms, losses = told
    weighted = outcome.buffers * outcome.weights[:, None].astype(outcome.buffers.dtype)
    names = tuple(outcome.metrics)
    table = np.stack([outcome.weights, *outcome.metrics.values()], axis=1)
    payload = {name: _runs(value, edges) for name, value in outcome.payload.items()}
    ends = [*edges[1:], len(table)]
    buffers, table = _runs(weighted, edges), _runs(table, edges)
    if fold:
        payload = {name: in_order(value)[None] for name, value in payload.items()}
        buffers, table, edges, ends = in_order(buffers)[None], in_order(table)[None], [0], ends[-1:]
    return [
        Reply(
            outcome.clients[first:end],
            {name: value[i] for name, value in payload.items()},
            float(table[i, 0]),
            dict(zip(names, table[i, 1:].tolist(), strict=True)),
            buffers[i],
            norms=norms[first:end],
            losses=losses[first:end],
        )
        for i, (first, end) in enumerate(zip(edges, ends, strict=True))
    ]


def _fixed(outcome: Outcome, told: tuple[Numbers, Numbers]) -> Reply:
    """Return the partial sum of all of them; of one client alone, its reply."""
    if len(outcome.clients) == 1:
        return _blocks(outcome, [0], told, fold=False)[0]
    buffers = outcome.buffers * outcome.weights[:, None].astype(outcome.buffers.dtype)
    norms, losses = told
    reply = Reply(outcome.clients, {}, 0.0, norms=norms, losses=losses)
    return partial_sum(reply, outcome.payload, buffers, outcome.weights, outcome.metrics)


def _runs(rows: Any, edges: list[int]) -> Any:
    """Sum rows `(k, d)` in order over each run that begins at an edge: `(runs, d)`."""
    k, runs = len(rows), len(edges)
    if runs == k:
        return rows
    size = edges[1] if runs > 1 else k
    if edges != list(range(0, k, size)):  # clients are absent: a run is shorter than the others
        ends = [*edges[1:], k]
        return np.stack([in_order(rows[a:b]) for a, b in zip(edges, ends, strict=True)])
    whole = k // size
    even = in_order(rows[: whole * size].reshape(whole, size, -1).swapaxes(0, 1))
    if runs == whole:
        return even
    return np.concatenate([even, in_order(rows[whole * size :])[None]])


def measure(plan: Plan, population: Population, sent: Sent, ask: Ask) -> dict[str, float]:
    """Return metric sums of the shared model, with the client's private part, on its own rows.

    "held out" counts its test rows. What goes wrong raises `ClientError` with client and round.
    """
    client, round = ask.client, ask.round
    try:
        tested = None if ask.trained else population.test(client)
        x, y = tested or population[client]
        w, buffers = plan.whole(sent, ask.memory)
        with np.errstate(all="ignore"):
            sums = plan.task.evaluate(w, buffers, x, y, plan.measured)
            return sums | {HELD_OUT: sums["rows"] if tested is not None else 0.0}
    except Exception as error:
        raise ClientError(round, client, "evaluate", _text(error)) from error
