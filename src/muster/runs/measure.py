# SPDX-License-Identifier: Apache-2.0
"""Evaluation of a round: centrally, and on the clients' own rows with its spread."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from muster import keys
from muster.data.arrays import Pair, as_pair
from muster.errors import DataError
from muster.local import Memory
from muster.metrics.constant import constant, guess
from muster.metrics.sums import HELD_OUT, added, values
from muster.plan import Plan
from muster.rounds import RunState
from muster.runs.doubt import doubt
from muster.types import ClientId, Sent

__all__ = ["Examiner", "check_rows", "spread"]

CENTRAL = "central test rows"
OWN_MODELS = "central test rows, as the mean over the clients' own models"
TESTED = "the clients' own test rows"
TRAINED = "the rows they trained on"


class Memories(Protocol):
    """A source of what clients keep, as it will count after this round's commit (or None)."""

    def held(self, clients: Sequence[ClientId]) -> dict[ClientId, Memory] | None:
        """Return the memories of these clients, where they are known."""


class Measures(Protocol):
    """An evaluator of a model on clients' own rows."""

    def measure(
        self, sent: Sent, clients: Sequence[tuple[ClientId, Memory | None]], round: int
    ) -> Iterator[tuple[ClientId, dict[str, float]]]:
        """Yield metric sums by client, in order."""


class Examiner:
    """Evaluates a state where the plan says so, and says on which rows.

    `clients()` are those to choose from, `rows` the central test rows, if any. Where clients keep
    tensors to themselves
    there is no model that the central rows could be put to: the metrics are then the mean over the
    chosen clients of their own models, where those are known here, else those of the clients' own
    test rows.
    """

    def __init__(
        self,
        plan: Plan,
        memories: Memories,
        measures: Measures,
        clients: Callable[[], Sequence[ClientId]],
        rows: tuple[Any, Any] | None,
    ) -> None:
        self._plan, self._memories, self._measures = plan, memories, measures
        self._clients, self._rows = clients, rows
        self._constant = {} if rows is None else constant(plan.task.head, rows[1])

    def examine(self, round: int, state: RunState) -> dict[str, Any]:
        """Return the record's "metrics" and "measured" (on what), "clients", "model", "warning".

        "model" is a digest of the parameters. Asked after the replies of a round and before its
        commit: private parts are those that the commit will make count. Of version 0 nobody is
        asked, it has the metrics of the central rows alone, and there is nothing to warn of.
        """
        plan = self._plan
        if not plan.evaluate.due(round, plan.rounds):
            return {}
        x = state.algorithm.shared.x
        digest = hashlib.sha256(np.ascontiguousarray(x).data)
        if state.frozen is not None:
            digest.update(np.ascontiguousarray(state.frozen).data)
        found: dict[str, Any] = {"model": digest.hexdigest()}
        chosen = self._chosen(round) if round else ()
        memories = self._memories.held(chosen) or {}
        if self._rows is not None and not plan.sharing.private:
            whole = plan.whole(state.sent(), None)
            sums = plan.task.evaluate(*whole, *self._rows, plan.measured)
            found |= {"metrics": values(plan.measured, sums), "measured": CENTRAL}
        elif self._rows is not None and memories:
            own = self._own(state, list(memories.values()))
            found |= {"metrics": own, "measured": OWN_MODELS}
        if chosen:
            asked = [(client, memories.get(client)) for client in chosen]
            each = dict(self._measures.measure(state.sent(), asked, round))
            if each:
                found |= self._of_clients(each, known="metrics" in found)
        why = self._doubt(found) if round else ""
        return found | ({"warning": why} if why else {})

    def _doubt(self, found: dict[str, Any]) -> str:
        if self._constant:
            return doubt(self._plan, found, self._constant, "one answer to all rows")
        rows = int(found.get("clients", {}).get("rows", 0))
        return doubt(self._plan, found, guess(self._plan.task.head, rows), "a guess")

    def _of_clients(self, each: dict[ClientId, dict[str, float]], *, known: bool) -> dict[str, Any]:
        """Return the spread over clients; where nothing is central, also all their test rows."""
        measured, names = self._plan.measured, self._plan.sums
        if names is not None and not all(sums.keys() <= names for sums in each.values()):
            each = {c: {k: v for k, v in s.items() if k in names} for c, s in each.items()}
        own = [values(measured, sums) for sums in each.values()]
        found: dict[str, Any] = {"clients": spread(self._plan.directions, list(each.values()), own)}
        found["clients"]["each"] = [[c, one] for c, one in zip(each, own, strict=True)]
        tested = [sums for sums in each.values() if sums.get(HELD_OUT, 0) > 0]
        if tested and not known:
            found |= {"metrics": values(measured, added(tested)), "measured": TESTED}
        return found

    def _own(self, state: RunState, memories: list[Memory]) -> dict[str, float]:
        """Measure each client's own model on the central rows; the mean over those with a value."""
        assert self._rows is not None
        plan, sent = self._plan, state.sent()
        found = []
        for memory in memories:
            sums = plan.task.evaluate(*plan.whole(sent, memory), *self._rows, plan.measured)
            found.append(values(plan.measured, sums))
        return {name: _mean([one[name] for one in found]) for name in found[0]}

    def _chosen(self, round: int) -> Sequence[ClientId]:
        most = self._plan.evaluate.clients
        clients = () if most == 0 else self._clients()
        if most is None or most >= len(clients):
            return clients
        draw = keys.key(self._plan.seed).at("evaluate", round).generator()
        places = sorted(draw.choice(len(clients), most, replace=False).tolist())
        return [clients[place] for place in places]


def check_rows(plan: Plan, rows: Any, what: str = "evaluate_on") -> Pair:
    """Return central test rows as arrays; `DataError` for what is no pair `(x, y)` of this plan."""
    pair = as_pair(what, rows)
    try:
        plan.task.check(*pair)
    except DataError as error:
        raise DataError(f"{what}: {error}") from None
    return pair


def spread(
    lower: Mapping[str, bool],
    each: Sequence[Mapping[str, float]],
    found: Sequence[Mapping[str, float]],
) -> dict[str, Any]:
    """Return the spread of metrics over clients: means, percentiles, the worst client.

    `lower` says of which metrics less is better; without a word of it there is no worst. `each` are
    the sums of each client, `found` their values. "count" is how many these are, "rows" of how many
    rows, "on" which of their rows they were measured on; where a metric has no value for some, it
    is of those that have one.

    >>> sums = [{"rows": 1, "loss": 2.0}, {"rows": 3, "loss": 0.0}]
    >>> spread({"loss": True}, sums, [{"loss": 2.0}, {"loss": 0.0}])["loss"]["weighted"]
    0.5
    """
    rows = sum(sums.get("rows", 0.0) for sums in each)
    result: dict[str, Any] = {"count": len(each), "rows": int(rows), "on": _on(each)}
    for name in dict.fromkeys(name for one in found for name in one):
        pairs = [
            (one[name], float(sums["rows"]))
            for one, sums in zip(found, each, strict=True)
            if not math.isnan(one.get(name, math.nan))
        ]
        if pairs:
            result[name] = _spread(*np.array(pairs).T, lower=lower.get(name))
    return result


def _spread(found: Any, rows: Any, *, lower: bool | None) -> dict[str, float]:
    with np.errstate(invalid="ignore"):  # percentiles of infinities are not a number
        low, middle, high = (float(p) for p in np.percentile(found, (10, 50, 90)))
    worst = {} if lower is None else {"worst": float(found.max() if lower else found.min())}
    return {
        "mean": float(found.mean()),
        "weighted": float((found * rows).sum() / rows.sum()),
        "p10": low,
        "p50": middle,
        "p90": high,
    } | worst


def _on(each: Sequence[Mapping[str, float]]) -> str:
    """Say which of their own rows the clients were measured on."""
    tested = sum(sums.get(HELD_OUT, 0) > 0 for sums in each)
    if tested in (0, len(each)):
        return "their own test rows" if tested else TRAINED
    rest = len(each) - tested
    return f"their own test rows ({tested} clients), or {TRAINED} ({rest})"


def _mean(found: Sequence[float]) -> float:
    known = [value for value in found if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan
