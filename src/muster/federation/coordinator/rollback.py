# SPDX-License-Identifier: Apache-2.0
"""A run that was put back to an older copy says so: its attempt is raised.

A site trains an assignment once, for ever. Rounds that are played again, because the server has
lost them, are other assignments: under a higher attempt, which every site counts against its
plan's rounds, its limits and its budget. Without it no site trains them again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from muster.federation.coordinator.facts import RAISED
from muster.store.ledger import FederationStore

__all__ = ["raise_attempt", "raised"]


def raised(ledger: FederationStore) -> tuple[int, ...]:
    """The rounds behind which the attempt of a run was raised, in order; none at first."""
    return tuple(ledger.meta(RAISED) or ())


def raise_attempt(ledger: FederationStore, note: Callable[..., Any]) -> int:
    """Raise the attempt of a run behind its last committed round; the new one, durable.

    No server may serve the run meanwhile. `note(actor, action, **details)` writes the server's
    audit log, and has written when it returns: the log knows of it before the run does.
    """
    before, last = raised(ledger), ledger.latest_round()
    attempt = len(before) + 2
    note("operator", "attempt raised", attempt=attempt, committed=last)
    ledger.note(**{RAISED: [*before, last]})
    return attempt
