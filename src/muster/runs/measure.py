# SPDX-License-Identifier: Apache-2.0
"""Evaluation of a round: centrally, and on the clients' own rows with its spread."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from muster import keys
from muster.data.arrays import Pair, as_pair
from muster.errors import DataError
from muster.local import Memory
from muster.plan import Plan, falls
from muster.rounds import RunState
from muster.types import ClientId, Sent

__all__ = ["Examiner", "check_rows", "means", "spread"]


class Memories(Protocol):
    """Who knows what clients keep, as it will count after this round's commit (or None)."""

    def held(self, clients: Sequence[ClientId]) -> dict[ClientId, Memory] | None:
        """The memories of these clients, where they are known."""


class Measures(Protocol):
    """Who evaluates a model on clients' own rows."""

    def measure(
        self, sent: Sent, clients: Sequence[tuple[ClientId, Memory | None]], round: int
    ) -> Iterator[tuple[ClientId, dict[str, float]]]:
        """Metric sums by client, in order."""


class Examiner:
    """Evaluates a state where the plan says so.

    `clients()` are those to choose from, `rows` the central test rows, if any. Where nothing is
    shared there is no global model: the central metrics are then the mean over the chosen
    clients of their own models.
    """

    def __init__(
        self, plan: Plan, memories: Memories, measures: Measures,
        clients: Callable[[], Sequence[ClientId]], rows: tuple[Any, Any] | None,
    ) -> None:  # fmt: skip
        self._plan, self._memories, self._measures = plan, memories, measures
        self._clients, self._rows = clients, rows
        self._start: Memory | None = None  # of a client never seen

    def examine(self, round: int, state: RunState) -> dict[str, Any]:
        """The record's "metrics", "clients" and "model" (a digest of the parameters).

        Asked after the replies of a round and before its commit: private parts are those that
        the commit will make count.
        """
        plan = self._plan
        if not plan.evaluate.due(round, plan.rounds):
            return {}
        x = state.algorithm.shared.x
        digest = hashlib.sha256(np.ascontiguousarray(x).data)
        if state.frozen is not None:
            digest.update(np.ascontiguousarray(state.frozen).data)
        found: dict[str, Any] = {"model": digest.hexdigest()}
        chosen = self._chosen(round)
        memories = self._memories.held(chosen) or {}
        if self._rows is not None and x.size:
            w, buffers = self._whole(state)
            found["metrics"] = means(plan.task.evaluate(w, buffers, *self._rows))
        elif self._rows is not None and memories:
            found["metrics"] = self._alone(state, list(memories.values()))
        if chosen:
            asked = [(client, memories.get(client)) for client in chosen]
            each = dict(self._measures.measure(state.sent(), asked, round))
            if each:
                found["clients"] = spread(list(each.values()))
                found["clients"]["each"] = [[c, means(s)] for c, s in each.items()]
        return found

    def _alone(self, state: RunState, memories: list[Memory]) -> dict[str, float]:
        assert self._rows is not None
        evaluate, whole, sent = self._plan.task.evaluate, self._plan.whole, state.sent()
        found = [means(evaluate(*whole(sent, m), *self._rows)) for m in memories]
        return {name: float(np.mean([one[name] for one in found])) for name in found[0]}

    def _chosen(self, round: int) -> Sequence[ClientId]:
        most = self._plan.evaluate.clients
        clients = () if most == 0 else self._clients()
        if most is None or most >= len(clients):
            return clients
        draw = keys.key(self._plan.seed).at("evaluate", round).generator()
        places = sorted(draw.choice(len(clients), most, replace=False).tolist())
        return [clients[place] for place in places]

    def _whole(self, state: RunState) -> tuple[Any, Any]:
        """Full vectors, private parts at their initial values (as for a client never seen)."""
        if self._start is None and self._plan.sharing.private:
            start = self._plan.task.init(keys.key(self._plan.seed).at("init"))
            self._start = self._plan.fresh_memory(*start)
        return self._plan.whole(state.sent(), self._start)


def check_rows(plan: Plan, rows: Any, what: str = "evaluate_on") -> Pair:
    """Central test rows as arrays; `DataError` for what is no pair `(x, y)` of this plan."""
    pair = as_pair(what, rows)
    try:
        plan.task.check(*pair)
    except DataError as error:
        raise DataError(f"{what}: {error}") from None
    return pair


def means(sums: dict[str, float]) -> dict[str, float]:
    """Metric means from sums over rows.

    >>> means({"rows": 4, "accuracy": 3})
    {'accuracy': 0.75}
    """
    return {name: float(v) / sums["rows"] for name, v in sums.items() if name != "rows"}


def spread(each: list[dict[str, float]]) -> dict[str, Any]:
    """How a metric varies over clients: mean, row-weighted mean, percentiles, the worst client.

    >>> spread([{"rows": 1, "loss": 2.0}, {"rows": 3, "loss": 0.0}])["loss"]["weighted"]
    0.5
    """
    rows = np.array([sums["rows"] for sums in each], float)
    result: dict[str, Any] = {"count": len(each)}
    for name in each[0]:
        if name == "rows" or any(name not in sums for sums in each):
            continue
        values = np.array([sums[name] for sums in each], float) / rows
        with np.errstate(invalid="ignore"):  # percentiles of infinities are not a number
            low, middle, high = (float(p) for p in np.percentile(values, (10, 50, 90)))
        result[name] = {
            "mean": float(values.mean()),
            "weighted": float((values * rows).sum() / rows.sum()),
            "p10": low,
            "p50": middle,
            "p90": high,
            "worst": float(values.max() if falls(name) else values.min()),
        }
    return result
