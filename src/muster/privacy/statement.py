# SPDX-License-Identifier: Apache-2.0
"""The privacy statement of a run, written from its facts and its ledger and never by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from muster.privacy.accounting import spent
from muster.privacy.ledger import Budget, Ledger
from muster.privacy.release import Charge, Release, Selection

__all__ = ["Audit", "Facts", "Statement", "UNCOVERED", "rounded_up", "statement"]

UNCOVERED = (
    "the metrics, losses and row counts that clients report",
    "when and whether a client answers",
    "who is enrolled and who was invited",
    "the choice of settings by earlier runs, unless they are in the ledger",
    "what the model was trained on before",
)
TRUST = {
    "central": "the server, which sees what clients send and adds the noise",
    "distributed": "the sum: clients add the noise, and the server sees no reply by itself",
    "local": "nobody: each client adds its noise before it sends",
}


@dataclass(frozen=True)
class Audit:
    """What an attack found: a lower bound on ε at a confidence."""

    name: str
    epsilon: float
    confidence: float = 0.95


@dataclass(frozen=True)
class Facts:
    """What a statement is made of; a plan, its ledger and the runtime know all of it.

    `enforced` says how the sampling rate was made true, `separation` the rounds that the runtime
    keeps between two turns of a client, `randomness` whether the noise came from a secret of the
    operating system or from the plan's seed, `mask` the settings of the secure sum, None without.
    """

    releases: tuple[Release, ...]
    selection: Selection
    population: int
    ledger: Ledger
    randomness: Literal["secret", "seed"]
    denominator: Literal["expected", "replies"] = "expected"
    weighting: str = "each client counts once"
    unit: Literal["client", "example"] = "client"
    budget: Budget | None = None
    enforced: str = ""
    separation: int = 1
    mask: Mapping[str, str | int | float] | None = None
    audits: tuple[Audit, ...] = ()
    uncovered: tuple[str, ...] = UNCOVERED


@dataclass(frozen=True)
class Statement:
    """`claim` in a sentence, why nothing is claimed (`reasons`), and the eleven items.

    `unit` is whom it is about: a whole client, or an example, which is one row of one client.
    """

    private: bool
    claim: str
    reasons: tuple[str, ...]
    items: Mapping[str, str] = field(hash=False)
    unit: Literal["client", "example"] = "client"

    def text(self) -> str:
        """Lines to read."""
        lines = [self.claim, *(f"- {reason}" for reason in self.reasons)]
        numbered = enumerate(self.items.items(), 1)
        return "\n".join(lines + [f"{i}. {name}: {value}" for i, (name, value) in numbered])

    def to_json(self) -> str:
        """The same for a program."""
        value = {"private": self.private, "claim": self.claim, "unit": self.unit}
        return json.dumps(value | {"reasons": self.reasons, "items": dict(self.items)}, indent=1)


def statement(facts: Facts) -> Statement:
    """What may be claimed, item by item; no claim where one of its grounds is missing.

    The items follow NIST SP 800-226 (2025), guidelines for evaluating differential privacy.

    >>> release = Release("gaussian", 4.0, 1.0)
    >>> facts = Facts((release,), Selection(), 1000, Ledger(1e-6), "seed")
    >>> statement(facts).claim
    'No privacy is claimed for this run:'
    """
    reasons = tuple(_reasons(facts))
    if reasons:
        claim = "No privacy is claimed for this run:"
    else:
        claim = (
            f"With epsilon {rounded_up(facts.ledger.epsilon)} at delta {facts.ledger.delta:g}, "
            f"what was released hides the part of any one {facts.unit}."
        )
    return Statement(not reasons, claim, reasons, _items(facts), facts.unit)


def _reasons(facts: Facts) -> Iterator[str]:
    """Each ground that is missing, in a sentence with its remedy."""
    if not facts.releases:
        yield "no stage adds noise; put Clip(bound) and Noise(multiplier) into the pipeline"
    if facts.randomness == "seed":
        yield (
            "this is a simulation: its noise is a function of the plan's seed, and whoever holds "
            "the plan can take it off again; run it under serve, which draws secrets"
        )
    if facts.releases and not facts.ledger.entries:
        yield "the ledger holds no release, so nothing has been accounted"
    if facts.ledger.delta * facts.population >= 1:
        yield (
            f"delta {facts.ledger.delta:g} is not below one over the {facts.population} clients, "
            f"so publishing one of them whole would pass; use {facts.population**-1.1:.2g}"
        )
    if facts.denominator == "replies" and any(r.trust != "local" for r in facts.releases):
        yield (
            "the sum is divided by the number of replies, which tells who took part; use "
            "Mean(denominator='expected')"
        )
    if facts.selection.kind == "poisson" and not facts.enforced:
        yield (
            "sampling by independent coins is claimed, and nothing says who tossed them in secret; "
            "state it, or account the cohort as fixed"
        )
    for release in facts.releases:
        yield from _missing(facts, release)
    for audit in facts.audits:
        if audit.epsilon > facts.ledger.epsilon:
            yield (
                f"the audit {audit.name!r} found epsilon of at least {audit.epsilon:.4g} at "
                f"confidence {audit.confidence:g}, above the ledger's; this is a fault to report"
            )


def _missing(facts: Facts, release: Release) -> Iterator[str]:
    least = _least(facts)
    if release.discrete and facts.mask is None:
        yield (
            f"without a secure sum the server sees each reply under one {release.survivors}th of "
            f"the noise; put SecureSum() last, or use LocalNoise"
        )
    if release.discrete and least is not None and least < release.survivors:
        yield (
            f"a round was released with {least} replies, and the noise needs {release.survivors}; "
            f"set Plan(minimum={release.survivors})"
        )
    if release.mechanism == "matrix" and facts.separation < release.separation:
        yield (
            f"the noise counts on {release.separation} rounds between two turns of a client, and "
            f"{facts.separation} are enforced; invite less often, or lower BandedNoise(separation)"
        )


def _least(facts: Facts) -> int | None:
    counts = [e.accepted for e in facts.ledger.entries if e.accepted is not None]
    return min(counts, default=None)


def _items(facts: Facts) -> dict[str, str]:
    ledger, releases = facts.ledger, facts.releases
    central = "one of the two holds a client more" if not any(
        r.discrete or r.trust == "local" for r in releases
    ) else "a client's update is another one, or zero"  # fmt: skip
    covered = "; ".join(facts.uncovered) or "nothing is known to be left out"
    audits = "; ".join(
        f"{a.name}: epsilon is at least {a.epsilon:.4g} at confidence {a.confidence:g}"
        for a in facts.audits
    )
    return {
        "privacy": f"epsilon {rounded_up(ledger.epsilon)} at delta {ledger.delta:g} over "
        f"{len(ledger.entries)} releases; one round alone: {_one_round(facts)}; {_budget(facts)}",
        "unit": f"one {facts.unit}; two data sets are neighbours where {central}",
        "trust": "; ".join(sorted({TRUST[r.trust] for r in releases})) or "everybody",
        "mechanism": "; ".join(map(_mechanism, releases)) + f"; weights: {facts.weighting}; "
        f"divided by what is {facts.denominator}",
        "sampling": f"{facts.selection.kind}, rate {facts.selection.rate:g} of "
        f"{facts.population} clients, accounted with rate {facts.selection.amplification:g}; "
        f"enforced: {facts.enforced or 'not stated'}",
        "accountant": _accountant(facts),
        "dropouts": _dropouts(facts),
        "not covered": covered,
        "noise": _noise(facts),
        "audits": audits or "none was made",
        "secure sum": ", ".join(f"{k} {v}" for k, v in (facts.mask or {}).items()) or "none",
    }


def _one_round(facts: Facts) -> str:
    if not facts.releases:
        return "no noise"
    charges = [Charge(release, facts.selection) for release in facts.releases]
    return f"epsilon {rounded_up(spent(charges, facts.ledger.delta).epsilon)}"


def _budget(facts: Facts) -> str:
    if facts.budget is None:
        return "no budget was set"
    return f"the budget is {facts.budget.epsilon:g} at delta {facts.budget.delta:g}"


def _mechanism(release: Release) -> str:
    reach = "a bound that moves" if release.sensitivity is None else f"{release.sensitivity:.6g}"
    unit = " levels" if release.discrete else ""
    text = f"{release.mechanism} noise of {release.multiplier:g} times the L2 norm {reach}{unit}"
    if release.mechanism == "matrix":
        turns = f"a client takes part once in {release.separation} rounds"
        text += f", {len(release.coefficients)} bands, {turns}"
    return text


def _accountant(facts: Facts) -> str:
    after = spent(facts.ledger.charges, facts.ledger.delta)
    runs = {charge.run for charge in facts.ledger.charges}
    count = len(facts.ledger.entries)
    return (
        f"{after.accountant} {rounded_up(after.epsilon)}, RDP {rounded_up(after.rdp)}, "
        f"dp-accounting {after.version}, composed over {count} releases of {len(runs)} runs"
    )


def _dropouts(facts: Facts) -> str:
    needed = max((r.survivors for r in facts.releases if r.discrete), default=None)
    least = _least(facts)
    came = "not recorded" if least is None else str(least)
    if needed is None:
        return f"they do not change the noise; fewest replies: {came}"
    return f"the noise was made for {needed} survivors; fewest replies: {came}"


def _noise(facts: Facts) -> str:
    kinds = {"integers, by inversion in 128-bit fixed point" if r.discrete else
             "floating point, whose sums round" for r in facts.releases}  # fmt: skip
    source = {
        "secret": "AES-CTR of 32 bytes of the operating system",
        "seed": "Philox of the plan's seed, which is no secret",
    }[facts.randomness]
    return f"{'; '.join(sorted(kinds)) or 'none'}; from {source}"


def rounded_up(epsilon: float) -> str:
    """Four digits, never rounded down.

    >>> rounded_up(1.23401)
    '1.235'
    """
    if not 0 < epsilon < math.inf:
        return f"{epsilon:g}"
    scale = 10.0 ** (3 - math.floor(math.log10(epsilon)))
    return f"{math.ceil(epsilon * scale) / scale:.6g}"
