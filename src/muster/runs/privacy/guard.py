# SPDX-License-Identifier: Apache-2.0
"""The guard before each round: its charge in the ledger, the budget, and its secret.

The order is that of the disk: the round's secret, then the ledger, then the round. So a round
that was released is in the ledger, and one that is resumed releases the very same noise. A round
counts once it was begun, also if it is abandoned: whether it is tells something. After the last
round goes what would take noise off again; a death in between leaves that to the next start.

A ledger beside the run knows more than the folder may, which somebody copies or puts back: it has
the secret that a round was begun with, and, before the commit gives it out, the model that came of
it. So no second server, and no second life of a folder, releases a round anew without a charge.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from muster import keys
from muster.errors import PlanError, RunError
from muster.keys import RandomSource
from muster.plan import Plan
from muster.plan.private import charges, selection
from muster.privacy import Budget, Charge, PrivacyLedger, Secret, check_delta
from muster.privacy.book import ChargeRequest, LedgerFile, try_charge
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
        self._again: frozenset[tuple[str, int]] = frozenset()  # charged beside the open round
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
        # What stood in the file when this run was charged there last: it holds that, or is gone.
        self._stood = self._ledger if facts.get("entered") else None
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
        roster = self._known()
        before = ledger = self._so_far(roster)
        if self._book is not None:
            before = self._book.read(ledger.delta, self._stood).joined(ledger)
        self._check(before, roster)
        wish = self._wish(round, roster)
        after, why = try_charge(before, wish)
        if why is None:
            self._refuse_sealed()
            self._keep_secret(round, before)
            if self._book is not None:
                self._note_file(roster)
                wish = self._wish(round, roster)
                after, why = self._book.grant(wish, ledger, self._stood)
        if why is not None:
            self._keep_lost(ledger, roster)
            return why
        self._entered(after, roster)
        return None

    def _wish(self, round: int, roster: Roster) -> ChargeRequest:
        plan = self._plan
        secret = "" if self._secret is None else sha256(self._secret.seed).hexdigest()
        charges = self._charges(roster, self._named(round))
        return ChargeRequest(round, charges, plan.budget, secret, plan.rounds)

    def _charges(self, roster: Roster, name: str) -> tuple[Charge, ...]:
        """Return the charges of a round under this name: of a return, those of a continuation."""
        found = charges(self._plan, roster, name)
        return tuple(c.continued() for c in found) if found[0].part else found

    def _note_file(self, roster: Roster) -> None:
        """Note the run's name and its file before the first charge in it, for a death behind it."""
        assert self._book is not None
        if (self._store.meta("privacy") or {}).get("file") != str(self._book.path):
            self._store.note(privacy=self._facts(roster))

    def _entered(self, ledger: PrivacyLedger, roster: Roster) -> None:
        """Keep the ledger as it stands now, in the file if there is one."""
        self._ledger = ledger
        self._stood = None if self._book is None else ledger
        self._store.note(ledger=ledger.to_json(), privacy=self._facts(roster))

    def _keep_lost(self, ledger: PrivacyLedger, roster: Roster) -> None:
        """Keep what an operator has said was lost also where no further round is played."""
        if not lost_rounds(self._run, self._back):
            self._store.note(privacy=self._facts(roster))
            return
        if self._book is not None:
            self._note_file(roster)
            ledger = self._book.witness(ledger, self._stood)
        self._entered(ledger, roster)

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
                terms = self._wish(round, roster).terms
                for charge in self._charges(roster, name):
                    ledger = ledger.enter(round, charge, terms=terms)
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

    def give_out(self, round: int, state: RunState) -> str | None:
        """Say before the commit, which gives it out, what model came of the admitted round.

        It is written into the ledger beside the run, if there is one. Returns a sentence for the
        operator where another model came of the round before, and both are charged. Raises
        `RunError` where this one must not be given out.
        """
        if not self._active or self._book is None or self._secret is None:
            return None
        assert self._ledger is not None and self._stood is not None
        roster = self._known()
        wish = self._wish(round, roster)
        model = _digest(state)
        after, other = self._book.give_out(wish, model, self._ledger, self._stood)
        self._again = wish.again(model).places if other else frozenset()
        self._entered(after, roster)
        if not other:
            return None
        return (
            f"another model came of round {round} before, which a server with a copy of this "
            f"folder may have given out, or this one before it was put back: both are charged"
        )

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
        self._counts |= {place: count} | dict.fromkeys(self._again, count)
        self._again = frozenset()
        if self._book is not None and self._ledger is not None:
            self._book.witness(self._ledger.witnessed(self._counts), self._stood)
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
            "entered": self._stood is not None,
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


def _digest(state: RunState) -> str:
    """Return the SHA-256 of all that a commit of this state gives out or keeps."""
    found = sha256()
    for name, array in leaves(state._replace(frozen=None)):
        held = np.ascontiguousarray(array)
        head = repr((name, held.dtype.str, held.shape)).encode()
        found.update(len(head).to_bytes(8, "little") + head)
        found.update(held.reshape(-1).view(np.uint8).data if held.size else b"")
    return found.hexdigest()


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
