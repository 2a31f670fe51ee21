# SPDX-License-Identifier: Apache-2.0
"""A run's privacy statement, from what it recorded; the plan itself is not needed."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
from muster.runs.records import RecordedRun
from muster.runs.rollback import FACT, charged_as, lost_rounds

__all__ = ["RunPrivacy", "facts_of", "ledger_of", "privacy_of", "stated", "statements"]


@dataclass(frozen=True)
class RunPrivacy:
    """All that may be said of the privacy of a run: of its clients, of their single rows, or both.

    Where nothing is claimed, the reasons stand in the place of the claim.
    """

    statements: tuple[Statement, ...]

    @property
    def private(self) -> bool:
        """True where something is claimed of anybody."""
        return any(one.private for one in self.statements)

    @property
    def text(self) -> str:
        """The statements as lines to read."""
        return "\n\n".join(one.text() for one in self.statements)

    def __str__(self) -> str:
        return self.text


def privacy_of(run: RecordedRun) -> RunPrivacy:
    """Return all that a run's records say of its privacy."""
    return RunPrivacy(statements(run))


def stated(run: RecordedRun, audits: tuple[AuditFinding, ...] = ()) -> Statement:
    """Return the statement of what may be claimed of a run, or why nothing is."""
    if not run.facts.get("privacy"):
        return unprotected(run, audits)
    return statement(facts_of(run, audits))


def statements(run: RecordedRun) -> tuple[Statement, ...]:
    """Return all that may be said of a run: of its clients, of their single rows, or of both."""
    rows = run.facts.get("examples")
    clients = () if rows and not run.facts.get("privacy") else (stated(run),)
    if not rows:
        return clients
    return (*clients, row_statement(replace(facts_from(rows), mask=mask_of(run))))


def ledger_of(run: RecordedRun) -> PrivacyLedger | None:
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


def facts_of(run: RecordedRun, audits: tuple[AuditFinding, ...] = ()) -> StatementInputs:
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
