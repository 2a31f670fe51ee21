# SPDX-License-Identifier: Apache-2.0
"""A run's privacy statement, from what it recorded; the plan itself is not needed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from muster.privacy import (
    AuditFinding,
    Budget,
    PrivacyLedger,
    Release,
    Selection,
    Statement,
    StatementInputs,
    statement,
)
from muster.privacy.ledger import usual_delta
from muster.privacy.rows import row_statement
from muster.privacy.statement import UNCOVERED
from muster.runs.privacy.masked import honest_shares, mask_of
from muster.runs.privacy.rows import facts_from
from muster.runs.privacy.unprotected import unprotected
from muster.runs.rollback import FACT, charged_as, lost_rounds
from muster.runs.run import Run

__all__ = ["facts_of", "ledger_of", "stated", "statements"]


def stated(run: Run, audits: tuple[AuditFinding, ...] = ()) -> Statement:
    """Return the statement of what may be claimed of a run, or why nothing is."""
    if not run.facts.get("privacy"):
        return unprotected(run, audits)
    return statement(facts_of(run, audits))


def statements(run: Run) -> tuple[Statement, ...]:
    """Return all that may be said of a run: of its clients, of their single rows, or of both."""
    rows = run.facts.get("examples")
    clients = () if rows and not run.facts.get("privacy") else (stated(run),)
    if not rows:
        return clients
    return (*clients, row_statement(replace(facts_from(rows), mask=mask_of(run))))


def ledger_of(run: Run) -> PrivacyLedger | None:
    """Return the ledger that the run was charged in, as it was then, with its rounds' replies.

    None for a run without noise, or before its first round.
    """
    text, kept = run.facts.get("ledger"), run.facts.get("privacy") or {}
    if text is None:
        return None
    back = run.facts.get(FACT) or ()
    played = [*((None, record) for record in run.history), *run.superseded]
    counts = {
        (charged_as(kept["run"], back, r["round"], before), r["round"]): len(r["accepted"])
        for before, r in played
        if not r["abandoned"]
    }
    return PrivacyLedger.from_json(text).witnessed(counts)


def facts_of(run: Run, audits: tuple[AuditFinding, ...] = ()) -> StatementInputs:
    """Return the facts of a run with noise, for the eleven items of `muster.privacy.statement`."""
    kept: dict[str, Any] = run.facts["privacy"]
    people, mask = kept["population"], mask_of(run)
    ledger = ledger_of(run) or PrivacyLedger(usual_delta(people))
    budget = kept["budget"] and Budget(**kept["budget"])
    return StatementInputs(
        tuple(Release(**release) for release in kept["releases"]),
        Selection(**kept["selection"]),
        people,
        ledger,
        kept["randomness"],
        kept["denominator"],
        kept["weighting"],
        budget=budget,
        enforced=kept["enforced"],
        erased=run.facts.get("sealed") is not None,
        lost=len(lost_rounds(kept["run"], run.facts.get(FACT) or ())),
        mask=mask,
        honest=None if mask is None else honest_shares(run, mask),
        audits=audits,
        uncovered=UNCOVERED,
    )
