# SPDX-License-Identifier: Apache-2.0
"""The claims about the privacy of single rows in a run, item by item."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from muster.privacy.accounting import Spent
from muster.privacy.ledger import Budget
from muster.privacy.mask import Mask, described
from muster.privacy.per_example import PerExample
from muster.privacy.rows.parallel import Held
from muster.privacy.statement import Statement, rounded_up

__all__ = ["Charged", "RowFacts", "row_statement"]

NEIGHBOURS = (
    "one example, which is a row of one client; two data sets are neighbours where one row adds "
    "nothing to any gradient in one of them (zero-out), so every client's number of rows is the "
    "same in both and counts as public"
)
UNCOVERED = (
    "how many rows each client has, which sets its rate, its steps and its weight",
    "whether and when a client answers or fails",
    "who is enrolled and who was invited",
    "other runs over the same rows, and the choice of settings by them",
    "what the model was trained on before",
)
METRICS = {
    "hidden": "training loss, drift and metrics of evaluation stay with the clients",
    "public": "the training loss, drift and metrics of evaluation of each client, which are sent "
    "as they are: PerExample(metrics='public')",
}


@dataclass(frozen=True)
class Charged:
    """The client that is revealed most: its rounds of all, one of them alone, and all together."""

    worst: Held
    rounds: int
    one: Spent
    all: Spent
    rate: float
    steps: int


@dataclass(frozen=True)
class RowFacts:
    """The facts that a statement about single rows is made of.

    `charged` is None before the first round, and where clients train `away`, on machines of
    their own: what they draw, how often and whether is then known to them alone. `rows` are those
    of all `clients` together, None where they are not known.
    """

    rule: PerExample
    metrics: Literal["hidden", "public"]
    batch: int | None
    weighting: str
    delta: float
    away: bool = False
    clients: int = 0
    rows: int | None = None
    charged: Charged | None = None
    budget: Budget | None = None
    mask: Mask | None = None


def row_statement(facts: RowFacts) -> Statement:
    """Return the claims about single rows; no claim where one of its grounds is missing.

    The items are those of `muster.privacy.statement`, which speaks of clients.

    >>> row_statement(RowFacts(PerExample(1.0, 1.1), "hidden", 16, "once", 1e-5, away=True)).private
    False
    """
    reasons = tuple(_reasons(facts))
    return Statement(
        False,
        "No privacy of single rows is claimed for this run:",
        reasons,
        _items(facts),
        "example",
    )


def _reasons(facts: RowFacts) -> Iterator[str]:
    """Yield each ground that is missing; from where this is written, one always is."""
    if facts.away:
        yield (
            "the plan promises that each site clips its rows' gradients and adds noise, and the "
            "server cannot see whether a site does; a site with a budget in its policy charges a "
            "ledger of its own: ask it for muster privacy --site FOLDER"
        )
    else:
        yield (
            "this is a simulation: its noise is a function of the plan's seed, and whoever holds "
            "the plan can take it off again; run it under serve, where sites draw secrets"
        )
        if facts.charged is None:
            yield "no client was invited yet, so nothing has been accounted"
    if facts.rows is not None and facts.delta * facts.rows >= 1:
        yield (
            f"delta {facts.delta:g} is not below one over the {facts.rows} rows, so publishing "
            f"one of them whole would pass; use {facts.rows**-1.1:.2g}"
        )


def _items(facts: RowFacts) -> dict[str, str]:
    rule = facts.rule
    uncovered = (METRICS["public"], *UNCOVERED) if facts.metrics == "public" else UNCOVERED
    kept = f"; {METRICS['hidden']}" if facts.metrics == "hidden" else ""
    source = (
        "each site, from a secret of its own, as far as it keeps to the plan"
        if facts.away
        else "Philox of the plan's seed, which is no secret"
    )
    return {
        "privacy": _privacy(facts),
        "unit": NEIGHBOURS,
        "trust": "the client that holds the row, which adds the noise before anything leaves it",
        "mechanism": f"DP-SGD in each client: in each local step gaussian noise of "
        f"{rule.multiplier:g} times the L2 norm {rule.clip:g} of a row's gradient; a client "
        f"counts {facts.weighting}{kept}",
        "sampling": _sampling(facts),
        "accountant": _accountant(facts),
        "dropouts": "a site with a budget charges each training before it begins"
        if facts.away
        else "an invited client is charged, whether or not its update counts",
        "not covered": "; ".join(uncovered),
        "noise": f"floating point, whose sums round; from {source}",
        "audits": "none is kept with the run; muster audit privacy makes them",
        "secure sum": described(facts.mask),
    }


def _privacy(facts: RowFacts) -> str:
    if facts.away:
        return "known to each site alone, from its row count and the rounds that it trained in"
    budget = (
        "no budget was set"
        if facts.budget is None
        else (f"the budget is {facts.budget.epsilon:g} at delta {facts.budget.delta:g}")
    )
    if facts.charged is None:
        return f"epsilon 0 at delta {facts.delta:g}; {budget}"
    found = facts.charged
    return (
        f"epsilon {rounded_up(found.all.epsilon)} at delta {facts.delta:g}, for the rows of "
        f"{found.worst.client!r}, the worst of {facts.clients} clients; one of its rounds alone: "
        f"epsilon {rounded_up(found.one.epsilon)}; {budget}"
    )


def _sampling(facts: RowFacts) -> str:
    batches = facts.rule.batches if facts.batch is not None else "full"
    within = f"within a client: {batches} batches"
    if facts.batch is not None:
        within += f" of {facts.batch} rows, or all where there are fewer"
    if facts.charged is None:
        return within
    found, (client, rows, turns) = facts.charged, facts.charged.worst
    return (
        f"{within}; {client!r} has {rows} rows, accounted with rate {found.rate:.4g} in "
        f"{found.steps} charges a round, and was invited to {turns} of {found.rounds} rounds; no "
        f"invitation reads any row"
    )


def _accountant(facts: RowFacts) -> str:
    if facts.away:
        return "that of each site"
    if facts.charged is None:
        return "nothing to account"
    found = facts.charged
    return (
        f"{found.all.accountant} {rounded_up(found.all.epsilon)}, RDP {rounded_up(found.all.rdp)}, "
        f"dp-accounting {found.all.version}, composed over {found.steps * found.worst.turns} "
        f"charges of this run; clients hold disjoint rows, so the worst of them counts"
    )
