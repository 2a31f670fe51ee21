# SPDX-License-Identifier: Apache-2.0
"""Privacy of single rows over a run's rounds, charged to the clients that a round invites.

Turns are counted by the committed rounds and the one that is about to be played, so a round that is
resumed is charged once, and the ledger of a run is as long as its history.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np

from muster.errors import PlanError, RunError
from muster.plan import Plan
from muster.privacy import Budget, PerExample, Spent, check_delta, spent
from muster.privacy.ledger import usual_delta
from muster.privacy.rows import Charged, Held, RowFacts, Worst, affords, worst
from muster.runs.rollback import FACT, lost_rounds
from muster.store.facts import FactStore
from muster.types import ClientId, Roster

__all__ = ["RowAccountant", "afforded_rows", "facts_from", "refuse_blind_budget"]


class RowAccountant:
    """Answers for single rows, where the plan keeps them private; the fact "examples" is its word.

    `away`: clients train on machines of their own, so what they draw is known to them alone. A
    budget is about rows where no stage adds noise, and else about clients.
    """

    def __init__(self, plan: Plan, store: FactStore, *, away: bool) -> None:
        self._plan, self._store, self.away = plan, store, away
        self._budget = None if plan.stages.releases() else plan.budget
        self._turns: Counter[ClientId] = Counter()
        self._counted = 0
        self._charged: Charged | None = None
        # Nobody knows who was invited to a round of which no record is left: everybody is charged.
        self._lost = len(lost_rounds("", store.meta(FACT) or ()))
        for _, record in store.superseded():  # what was revealed stays so
            self._turns.update(dict.fromkeys(record["invited"], 1))
        for record in store.history():
            self.count(record)
        if away:
            refuse_blind_budget(plan)

    def count(self, record: dict[str, Any]) -> None:
        """Count a committed round: the invited count as charged, also where no reply did."""
        if record["round"] > self._counted:
            self._counted = record["round"]
            self._turns.update(dict.fromkeys(record["invited"], 1))

    def charge_round(
        self, round: int, roster: Roster | None, cohort: Iterable[ClientId]
    ) -> str | None:
        """Say why this round may not be played, or None: then the charge is on the disk.

        Raises `PlanError` for a δ that would let a row be published whole.
        """
        if roster is None:
            self._note(self._facts(0, None))
            return None
        sizes = np.asarray(roster.rows()).tolist()
        people, total = dict(zip(roster.clients, sizes, strict=True)), sum(sizes)
        delta = self._budget.delta if self._budget else usual_delta(total)
        check_delta(delta, total, "row")
        before = self._turns + Counter(dict.fromkeys(people, self._lost))
        turns = before + Counter(dict.fromkeys(cohort, 1))
        found, why = worst(self._plan.local, self._held(people, turns), delta), None
        if found and self._budget and found.spent.epsilon > self._budget.epsilon:
            last = worst(self._plan.local, self._held(people, before), delta)
            why, found, round = _refusal(self._budget, last, found), last, round - 1
        self._charged = found and _charged(found, round, delta)
        self._note(self._facts(len(people), total, delta))
        return why

    def _held(self, rows: dict[ClientId, int], turns: Counter[ClientId]) -> list[Held]:
        gone = next((client for client in turns if client not in rows), None)
        if gone is not None:
            raise RunError(
                f"client {gone!r} was charged in an earlier round and is not enrolled any more, so "
                f"what its rows cost is not known; enrol it again to go on"
            )
        return [Held(client, rows[client], count) for client, count in turns.items()]

    def _facts(self, clients: int, rows: int | None, delta: float = 0.0) -> RowFacts:
        plan, rule = self._plan, self._plan.local.examples
        assert rule is not None
        hidden = plan.secure is not None and plan.secure.metrics == "hidden"
        counts = (
            "once"
            if plan.weighting == "equal"
            else (f"by its rows, at most {plan.cap}" if plan.cap else "by its rows")
        )
        return RowFacts(
            rule,
            "hidden" if hidden else rule.metrics,
            plan.local.batch,
            counts,
            delta,
            self.away,
            clients,
            rows,
            self._charged,
            self._budget,
        )

    def _note(self, facts: RowFacts) -> None:
        self._store.note(examples=asdict(facts))

    def record(self) -> dict[str, Any]:
        """Return the line's part: ε of the worst client's rows so far at δ, and whose."""
        if self._charged is None:
            return {}
        after, rule = self._charged.all, self._plan.local.examples
        assert rule is not None
        return {
            "epsilon": after.epsilon,
            "rdp": after.rdp,
            "delta": after.delta,
            "multiplier": rule.multiplier,
            "unit": "example",
            "client": self._charged.worst.client,
        }


def _refusal(budget: Budget, before: Worst | None, after: Worst) -> str:
    so_far = before.spent.epsilon if before else 0.0
    return (
        f"the next round would bring epsilon for a row of client {after.held.client!r} to "
        f"{after.spent.epsilon:.4g} at delta {budget.delta:g}, past the budget of "
        f"{budget.epsilon:g} (so far, the worst client: {so_far:.4g}); stop here, plan with "
        f"more noise, or allow more"
    )


def _charged(found: Worst, rounds: int, delta: float) -> Charged:
    once = found.once
    return Charged(
        found.held,
        rounds,
        spent([once], delta),
        found.spent,
        once.selection.amplification,
        once.rounds,
    )


def facts_from(kept: dict[str, Any]) -> RowFacts:
    """Return the facts as a run's store keeps them."""
    found = dict(kept)
    if found["charged"] is not None:
        charged = dict(found["charged"])
        charged |= {"worst": Held(*charged["worst"])}
        charged |= {name: Spent(**charged[name]) for name in ("one", "all")}
        found["charged"] = Charged(**charged)
    found["budget"] = found["budget"] and Budget(**found["budget"])
    return RowFacts(**found | {"rule": PerExample(**found["rule"])})


def afforded_rows(plan: Plan, roster: Roster) -> int | None:
    """Count the rounds that the budget affords any one client, where the budget is about rows."""
    budget, rule = plan.budget, plan.local.examples
    if budget is None or rule is None or plan.stages.releases():
        return None
    sizes = np.asarray(roster.rows()).tolist()
    return affords(plan.local, sizes, budget.epsilon, budget.delta)


def refuse_blind_budget(plan: Plan) -> None:
    """Raise `PlanError` for a budget over rows that a server could not keep: it sees no noise."""
    if plan.budget is None or plan.local.examples is None or plan.stages.releases():
        return
    raise PlanError(
        f"Plan(budget={plan.budget}) is about the rows of sites, which add the noise themselves "
        f"where the server cannot see it; leave the budget out (--set budget=None), and let each "
        f"site set budget_epsilon and budget_delta in its own site.toml"
    )
