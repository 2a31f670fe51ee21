# SPDX-License-Identifier: Apache-2.0
"""The privacy statement of a run, written from its facts and its ledger and never by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from muster.privacy.accounting import Theorem, replacement, spent
from muster.privacy.ledger import Budget, PrivacyLedger
from muster.privacy.mask import Mask, described
from muster.privacy.release import Charge, Relation, Release, Selection

__all__ = ["AuditFinding", "Statement", "StatementInputs", "UNCOVERED", "rounded_up", "statement"]

UNCOVERED = (
    "the metrics, losses, drifts and row counts that clients report",
    "when and whether a client answers",
    "who is enrolled and who was invited",
    "the choice of settings by earlier runs, unless they are in the ledger",
    "an end, or further rounds, that somebody chose after a look at what was released, where no "
    "budget was set before",
    "what the model was trained on before",
)
TRUST = {
    "central": "the server, which sees what clients send and adds the noise",
    "distributed": "the sum: clients add the noise, and the server sees no reply by itself, but "
    "who takes part and whose replies are in the sum",
    "local": "nobody: each client adds its noise before it sends",
}
MASKED = "the server, which sees the sum of what clients send and adds the noise, but no reply"
HIDDEN: dict[Relation, str] = {
    "zero-out": "what was released hides any one client's update: whether it was what it was, or "
    "zero",
    "add-or-remove": "the released models hide whether any one client took part at all",
    "another update": "what was released hides any one client's update: whether it was what it "
    "was, or any other",
}
NEIGHBOURS: dict[Relation, str] = {
    "zero-out": "a client's update is zero in one of the two, and nothing else differs (zero-out): "
    "who is enrolled, who is drawn, what the sum is divided by",
    "add-or-remove": "one of the two holds a client more, with a coin and an update of its own "
    "(add-or-remove); the sum is divided by the same number in both, so how many are enrolled "
    "counts as public",
    "another update": "a client's update is another one, whatever it is, and nothing else differs",
}
READERS = (
    "This is a claim against readers of the released models alone: the server sees who takes part, "
    "and is trusted."
)
THEOREMS: dict[Theorem, str] = {
    "fixed settings": "rounds compose as they do where the settings of all, their number among "
    "them, were fixed before the first",
    "one setting": "the run went back, or was given another number of rounds or another budget, so "
    "how many rounds there are was chosen after a look; each has the same settings, so losses "
    "compose whatever was seen (Zhu, Dong and Wang 2022) for as many as a budget that was set "
    "before the first affords: such a budget holds, and without one that choice is not covered",
    "Gaussian filter": "Gaussians alone are a Gaussian filter (Smith and Thakurta 2022; Koskela et "
    "al. 2023): it holds also where later settings depended on earlier outputs",
    "Rényi filter": "several runs are counted by a Rényi filter (Feldman and Zrnic 2021; Lécuyer "
    "2021): it holds also where later settings depended on earlier outputs",
}


@dataclass(frozen=True)
class AuditFinding:
    """An attack's finding: a lower bound on ε at a confidence."""

    name: str
    epsilon: float
    confidence: float = 0.95


@dataclass(frozen=True)
class StatementInputs:
    """The inputs of a statement; a plan, its ledger and the runtime know all of them.

    `enforced` says how the sampling rate was made true, `randomness` whether the noise came from a
    secret of the operating system or from the plan's seed, `mask` the secure sums,
    None without; `honest` the fewest honest shares of noise that an opened sum is sure to hold,
    None where that is not known; `erased` whether the rows of correlated noise are gone that no
    round took back; `lost` how many releases an operator entered of which no record is left.
    """

    releases: tuple[Release, ...]
    selection: Selection
    population: int
    ledger: PrivacyLedger
    randomness: Literal["secret", "seed"]
    denominator: Literal["expected", "replies"] = "expected"
    weighting: str = "each client counts once"
    budget: Budget | None = None
    enforced: str = ""
    erased: bool = False
    lost: int = 0
    mask: Mask | None = None
    honest: int | None = None
    audits: tuple[AuditFinding, ...] = ()
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
        """Return lines to read."""
        lines = [self.claim, *(f"- {reason}" for reason in self.reasons)]
        numbered = enumerate(self.items.items(), 1)
        return "\n".join(lines + [f"{i}. {name}: {value}" for i, (name, value) in numbered])

    def to_json(self) -> str:
        """Return the statement as JSON, for a program."""
        value = {"private": self.private, "claim": self.claim, "unit": self.unit}
        return json.dumps(value | {"reasons": self.reasons, "items": dict(self.items)}, indent=1)


def statement(facts: StatementInputs) -> Statement:
    """Return the claims, item by item; no claim where one of its grounds is missing.

    The items follow NIST SP 800-226 (2025), guidelines for evaluating differential privacy.

    >>> release = Release("gaussian", 4.0, 1.0)
    >>> facts = StatementInputs((release,), Selection(), 1000, PrivacyLedger(1e-6), "seed")
    >>> statement(facts).claim
    'No privacy is claimed for this run:'
    """
    reasons = tuple(_reasons(facts))
    claim = "No privacy is claimed for this run:" if reasons else _claim(facts)
    return Statement(not reasons, claim, reasons, _items(facts))


def _claim(facts: StatementInputs) -> str:
    charges = facts.ledger.charges
    claim = (
        f"With epsilon {rounded_up(facts.ledger.epsilon)} at delta {facts.ledger.delta:g}, "
        f"{HIDDEN[_relation(charges)]}."
    )
    return f"{claim} {READERS}" if _drawn(charges) else claim


def _charges(facts: StatementInputs) -> tuple[Charge, ...]:
    """Return the charges of the ledger; before the first, one round of what the plan releases."""
    planned = tuple(Charge(release, facts.selection) for release in facts.releases)
    return facts.ledger.charges or planned


def _relation(charges: Iterable[Charge]) -> Relation:
    """Return the neighbours for whom every charge holds: zero is a case of the two others."""
    found = {charge.relation for charge in charges}
    return found.pop() if len(found) == 1 else "zero-out"


def _drawn(charges: Iterable[Charge]) -> bool:
    """Return whether coins are counted on, which somebody tosses and sees."""
    return any(charge.amplification < 1 for charge in charges)


def _reasons(facts: StatementInputs) -> Iterator[str]:
    """Yield each ground that is missing, in a sentence with its remedy."""
    if not facts.releases:
        yield "no stage adds noise; put Clip(bound) and Noise(multiplier) into the pipeline"
    if facts.releases and facts.randomness == "seed":
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


def _missing(facts: StatementInputs, release: Release) -> Iterator[str]:
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
    charged = release.survivors - release.known
    if release.discrete and facts.honest is not None and facts.honest < charged:
        yield (
            f"a sum was opened that is sure to hold {facts.honest} honest shares of noise, as all "
            f"who may work together may be in it, and epsilon is for {charged}; such a sum is not "
            f"opened any more: begin another run"
        )
    kept = facts.selection.separation
    if release.mechanism == "matrix" and kept < release.separation:
        yield (
            f"the noise counts on {release.separation} rounds between two turns of a client, and "
            f"{kept} are enforced; use Rotation(slots={release.separation}), or lower "
            f"BandedNoise(separation)"
        )


def _least(facts: StatementInputs) -> int | None:
    counts = [e.accepted for e in facts.ledger.entries if e.accepted is not None]
    return min(counts, default=None)


def _items(facts: StatementInputs) -> dict[str, str]:
    covered = "; ".join(facts.uncovered) or "nothing is known to be left out"
    audits = "; ".join(
        f"{a.name}: epsilon is at least {a.epsilon:.4g} at confidence {a.confidence:g}"
        for a in facts.audits
    )
    return {
        "privacy": _privacy(facts),
        "unit": _unit(facts),
        "trust": _trust(facts),
        "mechanism": "; ".join(map(_mechanism, facts.releases)) + f"; weights: {facts.weighting}; "
        f"divided by what is {facts.denominator}",
        "sampling": _sampling(facts),
        "accountant": _accountant(facts),
        "dropouts": _dropouts(facts),
        "not covered": covered,
        "noise": _noise(facts),
        "audits": audits or "none was made",
        "secure sum": described(facts.mask),
    }


def _privacy(facts: StatementInputs) -> str:
    """Say ε over all and of a round; of noise in shares also what it were if others knew none."""
    ledger = facts.ledger
    told = [charge.release for charge in ledger.charges if charge.release.known]
    shares = ""
    if told:
        whole = [replace(c, release=replace(c.release, known=0)) for c in ledger.charges]
        shares = (
            f"the noise of {max(release.known for release in told)} of "
            f"{min(release.survivors for release in told)} shares is taken to be known to others; "
            f"with all shares: epsilon {rounded_up(spent(whole, ledger.delta).epsilon)}; "
        )
    return (
        f"epsilon {rounded_up(ledger.epsilon)} at delta {ledger.delta:g} over "
        f"{len(ledger.entries)} releases; {shares}one round alone: {_one_round(facts)}; "
        f"{_budget(facts)}"
    )


def _one_round(facts: StatementInputs) -> str:
    if not facts.releases:
        return "no noise"
    charges = [Charge(release, facts.selection) for release in facts.releases]
    return f"epsilon {rounded_up(spent(charges, facts.ledger.delta).epsilon)}"


def _unit(facts: StatementInputs) -> str:
    """Say who the neighbours are, how far apart, and what a move of twice that costs."""
    if not facts.releases:
        return "one client"
    charges = _charges(facts)
    relation, moves = _relation(charges), " and ".join(map(_move, facts.releases))
    elsewhere = ""
    if relation != "another update":
        epsilon = replacement(charges, facts.ledger.delta)
        elsewhere = (
            f"; if another client's update stood in its place, which is twice as far: epsilon "
            f"{rounded_up(epsilon)}"
        )
    return (
        f"one client; two data sets are neighbours where {NEIGHBOURS[relation]}; that moves a sum "
        f"by at most {moves}{elsewhere}"
    )


def _move(release: Release) -> str:
    reach = "a bound that moves" if release.sensitivity is None else f"{release.sensitivity:.6g}"
    return f"the L2 norm {reach}{' levels' if release.discrete else ''}"


def _trust(facts: StatementInputs) -> str:
    kinds = sorted({release.trust for release in facts.releases})
    masked = facts.mask is not None
    found = [MASKED if kind == "central" and masked else TRUST[kind] for kind in kinds]
    return "; ".join(found + [READERS[:-1]] * _drawn(_charges(facts))) or "everybody"


def _sampling(facts: StatementInputs) -> str:
    how = facts.selection
    each = [Charge(release, how).amplification for release in facts.releases]
    notes = ""
    if how.kind == "poisson" and max(each, default=1.0) == 1.0 > how.rate:
        notes = ", as the coins are seen"
    if how.separation > 1:
        notes = f", a client once in {how.separation} rounds"
    return (
        f"{how.kind}, rate {how.rate:g} of {facts.population} clients, accounted with rate "
        f"{max(each, default=1.0):g}{notes}; enforced: {facts.enforced or 'not stated'}"
    )


def _budget(facts: StatementInputs) -> str:
    if facts.budget is None:
        return "no budget was set"
    changed = ""
    if facts.ledger.rebudgeted:
        changed = ", which was changed after the first round: that choice is covered by no claim"
    return f"the budget is {facts.budget.epsilon:g} at delta {facts.budget.delta:g}{changed}"


def _mechanism(release: Release) -> str:
    text = f"{release.mechanism} noise of {release.multiplier:g} times {_move(release)}"
    if release.mechanism == "matrix":
        turns = f"a client takes part once in {release.separation} rounds"
        text += f", {len(release.coefficients)} bands, {turns}"
    return text


def _accountant(facts: StatementInputs) -> str:
    after = spent(facts.ledger.charges, facts.ledger.delta)
    runs = {charge.origin for charge in facts.ledger.charges}
    count = len(facts.ledger.entries)
    lost = f" ({facts.lost} by an operator's word: no record is left of them)" if facts.lost else ""
    return (
        f"{after.accountant} {rounded_up(after.epsilon)}, RDP {rounded_up(after.rdp)}, "
        f"dp-accounting {after.version}, composed over {count} releases{lost} of {len(runs)} runs; "
        f"{THEOREMS[facts.ledger.theorem]}"
    )


def _dropouts(facts: StatementInputs) -> str:
    needed = max((r.survivors for r in facts.releases if r.discrete), default=None)
    least = _least(facts)
    came = "not recorded" if least is None else str(least)
    if needed is None:
        return f"they do not change the noise; fewest replies: {came}"
    sure = "" if facts.honest is None else f"; in any sum {facts.honest} are surely honest"
    return f"the noise was made for {needed} survivors; fewest replies: {came}{sure}"


def _noise(facts: StatementInputs) -> str:
    kinds = {
        "integers, by inversion in 128-bit fixed point"
        if r.discrete
        else "floating point, whose sums round"
        for r in facts.releases
    }
    source = {
        "secret": "AES-CTR of 32 bytes of the operating system",
        "seed": "Philox of the plan's seed, which is no secret",
    }[facts.randomness]
    rows = ""
    if facts.randomness == "secret" and any(r.mechanism == "matrix" for r in facts.releases):
        rows = "; the rows that no round took back are " + (
            "erased" if facts.erased else "in the server's store until the run ends"
        )
    return f"{'; '.join(sorted(kinds)) or 'none'}; from {source}{rows}"


def rounded_up(epsilon: float) -> str:
    """Round up to four digits, never down.

    >>> rounded_up(1.23401)
    '1.235'
    """
    if not 0 < epsilon < math.inf:
        return f"{epsilon:g}"
    scale = 10.0 ** (3 - math.floor(math.log10(epsilon)))
    return f"{math.ceil(epsilon * scale) / scale:.6g}"
