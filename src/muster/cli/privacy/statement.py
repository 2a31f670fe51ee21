# SPDX-License-Identifier: Apache-2.0
"""`muster privacy`: what may be claimed of a run, written from its plan and its ledger."""

from __future__ import annotations

from muster.cli import screen, where
from muster.extras import require
from muster.runs import Run
from muster.runs.privacy.facts import stated

__all__ = ["command"]

Text = require("rich.text", extra="service").Text


def command(run: where.RunName = where.LATEST, as_json: screen.Json = False) -> None:
    """State what a run's noise hides, from whom, and what it does not cover.

    The statement is made of what the run recorded and charged, never written by hand.
    """
    found = Run(where.find(run))
    made = stated(found)
    if as_json:
        screen.emit(
            {"id": found.id, "path": str(found.path), "private": made.private, "claim": made.claim,
             "reasons": made.reasons, "items": dict(made.items)}
        )  # fmt: skip
        return
    screen.say(Text(made.claim, "bold" if made.private else "bold yellow"))
    for reason in made.reasons:
        screen.say(Text(f"  - {reason}", "yellow"))
    screen.say()
    rows = ((str(i), name, text) for i, (name, text) in enumerate(made.items.items(), 1))
    screen.say(screen.table(("", "", ""), rows, left=3))
