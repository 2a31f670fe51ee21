# SPDX-License-Identifier: Apache-2.0
"""The guard before each round: its charge in the ledger, the budget, and its secret.

The order is that of the disk: the round's secret, then the ledger, then the round. So a round
that was released is in the ledger, and one that is resumed releases the very same noise. A round
counts once it was begun, also if it is abandoned: whether it is tells something. After the last
round goes what would take noise off again; a death in between leaves that to the next start.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from muster import keys
from muster.errors import PlanError, RunError
from muster.keys import RandomSource
from muster.plan import Plan
from muster.plan.private import charges, selection
from muster.privacy import Budget, PrivacyLedger, Secret, check_delta
from muster.privacy.book import ChargeRequest, LedgerFile, try_charge, united
from muster.privacy.ledger import usual_delta
from muster.rounds import RunState, drawn
from muster.runs.privacy.rows import RowAccountant, afforded_rows
from muster.runs.rollback import FACT, charged_as, lost_rounds
from muster.store.facts import FactStore
from muster.types import Roster, Tree
from muster.vectors import leaves

__all__ = ["RunAccountant", "afforded"]


class RunAccountant:
    """Answers for what the rounds of a run release; for a plan without noise it does nothing.

    Of clients here, where stages add noise; of their single rows in `RowAccountant`.

    `known()` is who is enrolled; `file` the ledger of runs over the same people, else that of the
    run alone; `entropy(n)` draws n secret bytes, None takes the plan's seed (a simulation); `held`
    is who holds how many rows, where that is known beside `known()`. Facts that it keeps:
    "privacy" (what was promised), "ledger", and "secret" while a round is open.
    """

    def __init__(
        self,
        plan: Plan,
        known: Callable[[], Roster],
        store: FactStore,
        *,
        file: Path | None = None,
        entropy: Callable[[int], bytes] | None = None,
        held: Roster | None = None,
    ) -> None:
        self._plan, self._known, self._store = plan, known, store
        self._entropy, self._held = entropy, held
        self._active = bool(plan.stages.releases())
        self._secret: Secret | None = None
        self._rows: RowAccountant | None = None
        if plan.local.examples is not None:
            # Sites of one machine draw from the plan's seed; only masks hide their row counts.
            here = entropy is None and (plan.secure is None or held is not None)
            self._rows = RowAccountant(
                plan, store, away=bool(store.meta("federation")) and not here
            )
        if not self._active:
            self._refuse_file(file)
            return
        facts = store.meta("privacy") or {}
        self._run: str = facts.get("run") or f"{store.path.resolve().name}-{os.urandom(16).hex()}"
        self._book = self._opened(facts.get("file"), file)
        text = store.meta("ledger")
        self._ledger = None if text is None else PrivacyLedger.from_json(text)
        self._back = store.meta(FACT) or []
        self._counts = dict(map(self._counted, store.history()))
        self._counts |= (self._counted(record, n) for n, record in store.superseded())

    def _refuse_file(self, file: Path | None) -> None:
        if self._rows is not None and file is not None:
            raise RunError(
                f"--ledger {file} adds up what runs release of the same clients, and this plan "
                f"adds noise for single rows, which are charged in the run alone; leave it out"
            )

    def _counted(
        self, record: dict[str, Any], before: int | None = None
    ) -> tuple[tuple[str, int], int | None]:
        accepted = None if record["abandoned"] else len(record["accepted"])
        return (self._named(record["round"], before), record["round"]), accepted

    def _named(self, round: int, before: int | None = None) -> str:
        """Return the name that a round is charged under: one played again is another release."""
        return charged_as(self._run, self._back, round, before)

    def _opened(self, before: str | None, file: Path | None) -> LedgerFile | None:
        if before is not None and file is not None and Path(before) != file.resolve():
            raise RunError(
                f"the run in {self._store.path} is charged in the ledger {before}, not in {file}; "
                f"leave --ledger out to go on with it"
            )
        path = Path(before) if before is not None else file
        return None if path is None else LedgerFile(path.resolve())

    def charge_round(self, round: int, sampler: Tree = None) -> str | None:
        """Say why this round may not be played, or None: then it is in the ledger.

        `sampler` is the state that its cohort is drawn from. Raises `PlanError` for a δ that would
        let a client be published whole, `RunError` when the ledger cannot be written, or the round
        was released before and its secret is gone.
        """
        why = self._admit(round) if self._active else None
        if why is not None or self._rows is None:
            return why
        if self._rows.away:
            return self._rows.charge_round(round, None, ())
        roster, source = self._known(), self.source() or keys.key(self._plan.seed)
        cohort, _ = drawn(self._plan, roster, sampler, round, source)
        return self._rows.charge_round(round, self._held or roster, cohort.clients)

    def _admit(self, round: int) -> str | None:
        plan, roster = self._plan, self._known()
        ledger = self._so_far(roster)
        before = ledger if self._book is None else united(self._book.read(ledger.delta), ledger)
        self._check(before, roster)
        wish = ChargeRequest(round, charges(plan, roster, self._named(round)), plan.budget)
        after, why = try_charge(before, wish)
        if why is None:
            self._refuse_sealed()
            self._keep_secret(round, before)
            if self._book is not None:
                if self._store.meta("privacy") is None:  # by this name, also after a death
                    self._store.note(privacy=self._facts(roster))
                after, why = self._book.grant(wish, ledger)
        if why is not None:
            lost = {"ledger": ledger.to_json()} if lost_rounds(self._run, self._back) else {}
            self._store.note(privacy=self._facts(roster), **lost)
            return why
        self._store.note(ledger=after.to_json(), privacy=self._facts(roster))
        self._ledger = after
        return None

    def _check(self, ledger: PrivacyLedger, roster: Roster) -> None:
        budget = self._plan.budget
        if budget is not None and budget.delta != ledger.delta:
            raise PlanError(
                f"the ledger counts at delta {ledger.delta!r} and Plan(budget={budget}) at "
                f"another; give the budget that delta, or begin another ledger"
            )
        check_delta(ledger.delta, len(roster.clients))

    def _so_far(self, roster: Roster) -> PrivacyLedger:
        """Return the ledger, with the replies of this run's rounds that are committed."""
        if self._ledger is None:
            budget, clients = self._plan.budget, len(roster.clients)
            delta = budget.delta if budget else usual_delta(clients)
            if self._book is not None and budget is None:
                delta = self._book.read(delta).delta
            self._ledger = PrivacyLedger(delta)
        ledger = self._ledger
        for name, round in lost_rounds(self._run, self._back):
            if not ledger.holds(name, round):
                for charge in charges(self._plan, roster, name):
                    ledger = ledger.enter(round, charge)
        return ledger.witnessed(self._counts)

    def _keep_secret(self, round: int, known: PrivacyLedger) -> None:
        """Draw the secret of the round, durable before anything comes of it."""
        if self._entropy is None:
            return
        kept, name = self._store.meta("secret"), self._named(round)
        open = kept is not None and kept["round"] == round
        if known.released(name, round) or (not open and known.holds(name, round)):
            raise RunError(
                f"round {round} of the run in {self._store.path} was released before, and this "
                f"folder does not know it: it was put back to an older copy; say so with muster "
                f"rollback RUN {round - 1} --lost LAST, so that what was released stays charged, "
                f"or start a new run"
            )
        if not open:
            kept = {"round": round, "seed": self._entropy(32).hex()}
            self._store.note(secret=kept)
        self._secret = Secret(bytes.fromhex(kept["seed"]))

    def _refuse_sealed(self) -> None:
        if self._store.meta("sealed") is not None:
            raise RunError(
                f"the run in {self._store.path} ended after round "
                f"{self._store.last_record()['round']}, "
                f"and the rows of noise that further rounds would take back were erased with its "
                f"end; start a new run"
            )

    def end(self, state: RunState) -> None:
        """End the run for ever: what would undo its noise is erased from its state.

        In a simulation all noise is a function of the plan's seed: nothing is gained by erasing
        some of it, and the run can be extended, and played again.
        """
        if self._entropy is None or self._store.meta("sealed") is not None:
            return
        stages = self._plan.stages.ended(state.stages)
        if stages is not state.stages:
            self._store.amend(dict(leaves(state._replace(stages=stages))), sealed=True)

    def source(self) -> RandomSource | None:
        """Return the source of the admitted round's draws: its secret; None for the plan's seed."""
        return self._secret

    def record(self) -> dict[str, Any]:
        """Return the line's part about privacy: ε so far at δ, of clients if noise is theirs."""
        rows = self._rows.record() if self._rows else {}
        if not self._active or self._ledger is None:
            return {"privacy": rows} if rows else {}
        releases, ledger = self._plan.stages.releases(), self._ledger
        found = {"epsilon": ledger.epsilon, "rdp": ledger.rdp, "delta": ledger.delta}
        found |= {"multiplier": releases[0].multiplier}
        return {"privacy": found | ({"examples": rows} if rows else {})}

    def close(self, done: int) -> None:
        """Close round `done`, which is committed: erase its secret, and count its replies."""
        if self._rows is not None and done:
            self._rows.count(self._store.last_record())
        if not self._active or not done:
            return
        place, count = self._counted(self._store.last_record())
        self._counts[place] = count
        if self._book is not None and self._ledger is not None:
            self._book.witness(self._ledger.witnessed(self._counts))
        kept = self._store.meta("secret") if self._entropy is not None else None
        if kept is not None and kept["round"] <= done:
            self._store.note(secret=None)
        self._secret = None

    def _facts(self, roster: Roster) -> dict[str, Any]:
        """Return the facts that a statement needs beside the ledger (see `runs.privacy.facts`)."""
        plan, how = self._plan, selection(self._plan, roster)
        return {
            "run": self._run,
            "file": None if self._book is None else str(self._book.path),
            "releases": [asdict(release) for release in plan.stages.releases()],
            "selection": asdict(how),
            "population": len(roster.clients),
            "randomness": "seed" if self._entropy is None else "secret",
            "denominator": plan.aggregation.denominator,
            "weighting": _weighting(plan),
            "budget": plan.budget and asdict(plan.budget),
            "enforced": _enforced(how.kind, secret=self._entropy is not None),
        }


def afforded(plan: Plan, roster: Roster) -> int | None:
    """Count the rounds that the plan's budget affords people who were in no run before."""
    budget: Budget | None = plan.budget
    if budget is None or not plan.stages.releases():
        return afforded_rows(plan, roster)
    how = selection(plan, roster)
    return min(budget.rounds(release, how) for release in plan.stages.releases())


def _weighting(plan: Plan) -> str:
    if plan.weighting == "equal":
        return "each client counts once"
    return f"a client counts by its rows, at most {plan.cap}" if plan.cap else "by rows, no cap"


def _enforced(kind: str, *, secret: bool) -> str:
    if kind == "all":
        return "everybody enrolled was invited"
    if kind == "deterministic":
        return "the sampler drew the cohorts by a rule of its own: no amplification is counted on"
    if kind == "rotation":
        return "the server invites a client in its slot, a hash of its id under the plan's seed"
    who = "the server, from a secret of each round" if secret else "the plan's seed"
    return f"{who}, drew the cohorts"
