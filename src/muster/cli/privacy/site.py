# SPDX-License-Identifier: Apache-2.0
"""`muster privacy --site`: what a site knows of its own privacy, as its operator reads it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from muster.cli import screen
from muster.cli.privacy.threats import tell
from muster.extras import require
from muster.privacy.statement import THEOREMS, rounded_up
from muster.privacy.threats import Peers
from muster.privacy.told import Keeps

__all__ = ["rules", "show"]

Text = require("rich.text", extra="site").Text


def rules(policy: Path) -> tuple[Peers, Keeps]:
    """Return a site's rules about those it sums with, and what its policy has it keep."""
    read = require("muster.federation.site.policy", extra="service").read(policy)
    found: Peers = require("muster.runs.privacy.site", extra="service").peers_of(read.room)
    return found, read.keeps


def show(folder: Path, policy: Path | None, *, as_json: bool) -> None:
    """Print what a site knows of each study: its ledger, and who learns what of it."""
    reading = require("muster.runs.privacy.site", extra="site")
    policies = require("muster.federation.site.policy", extra="site")
    for study in reading.studies(folder, policies.read(policy) if policy else None):
        if as_json:
            screen.emit(_all(study))
            continue
        _ledger(study)
        for fault in study.faults:
            screen.say(Text(f"transcripts: {fault}; look with muster audit secure", "yellow"))
        if study.threats is None:
            screen.say("Who learns what of it is known once it has joined a run.")
        else:
            tell(study.threats)


def _ledger(study: Any) -> None:
    account = study.account
    if account is None:
        screen.say(Text(screen.path(study.path), "bold"))
        screen.say("No ledger is kept: the policy has no budget_epsilon.")
        return
    screen.say(Text(screen.path(account.path), "bold"))
    screen.say(screen.table(("", ""), _lines(account), left=2))
    if account.parts:
        screen.say()
        screen.say(screen.table(("run", "trainings", "rounds", "epsilon alone"), _runs(account)))


def _all(study: Any) -> dict[str, Any]:
    known = study.threats
    return {
        **({"ledger": None} if study.account is None else _facts(study.account)),
        "study": str(study.path),
        "threats": None if known is None else [asdict(line) for line in known],
        "faults": list(study.faults),
    }


def _facts(account: Any) -> dict[str, Any]:
    ledger, budget = account.ledger, account.budget
    return {
        "ledger": str(account.path),
        "unit": account.unit,
        "delta": ledger.delta,
        "budget": budget and budget.epsilon,
        "spent": _finite(account.spent),
        "charged": _finite(account.epsilon),
        "uncounted": len(account.uncounted),
        "own_share_only": account.own,
        "rdp": ledger.rdp,
        "assumes": _assumes(account),
        "theorem": ledger.theorem,
        "left": account.left,
        "more": account.more,
        "runs": [p._asdict() | {"epsilon": _finite(p.epsilon)} for p in account.parts],
    }


def _assumes(account: Any) -> dict[str, Any] | None:
    """Return what the numbers take for granted of others' noise, and what is spent without it."""
    if account.assumed is None:
        return None
    alone = _finite(account.alone)
    return asdict(account.assumed) | {"text": account.assumed.text, "spent_alone": alone}


def _finite(epsilon: float) -> float | None:
    """Return it as JSON can say it: null where nothing bounds it."""
    return epsilon if math.isfinite(epsilon) else None


def _lines(account: Any) -> Iterator[tuple[str, str]]:
    ledger, budget, parts = account.ledger, account.budget, account.parts
    if not parts:
        yield "spent", f"nothing yet, at delta {ledger.delta:g}"
    else:
        yield "unit", account.unit
        uncounted = len(account.uncounted)
        count = sum(part.trainings for part in parts)
        said = f"epsilon {rounded_up(account.epsilon)} at delta {ledger.delta:g}"
        many = (
            f"{n} {word}{'' if n == 1 else 's'}"
            for n, word in ((count, "training"), (len(parts), "run"))
        )
        counted = f"{said}, by RDP {rounded_up(ledger.rdp)}"
        if uncounted:
            word = f"training{'' if uncounted == 1 else 's'}"
            yield (
                "not counted",
                f"{uncounted} {word} without a budget: nothing bounds what is spent",
            )
            counted += ", without those"
        yield "spent", f"{counted}, in {' of '.join(many)}"
        yield "counted", THEOREMS[ledger.theorem]
        if account.own:
            yield "counted of", "noise in shares: this site's own share alone (own_share_only)"
        if account.assumed is not None:
            alone = rounded_up(account.alone)
            yield "assumed", f"{account.assumed.text}; by its own share alone: epsilon {alone}"
    if budget is None:
        yield "budget", "not known; name it with --policy site.toml"
        return
    yield "budget", f"epsilon {budget.epsilon:g} at delta {budget.delta:g}"
    more = "" if account.more is None else f", enough for {account.more} more like the last"
    left = math.floor((account.left or 0.0) * 1e4) / 1e4  # never more than is left
    yield "left", f"epsilon {left:g}{more}"


def _runs(account: Any) -> Iterator[tuple[str, ...]]:
    for run, trainings, first, last, epsilon in account.parts:
        rounds = str(first) if first == last else f"{first}-{last}"
        yield run, str(trainings), rounds, rounded_up(epsilon)
