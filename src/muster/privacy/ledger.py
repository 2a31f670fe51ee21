# SPDX-License-Identifier: Apache-2.0
"""The ledger: every noisy round with what all rounds so far reveal, and a budget that says stop.

A ledger is a value that belongs to a population, not to a run: runs over the same people
compose. A round is entered before it is released, in the commit of its model; one that was
released and then given up stays in it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from muster.errors import MusterError
from muster.privacy.accounting import EVERYBODY, Theorem, rounds_for, spent
from muster.privacy.gaussian import check_target
from muster.privacy.release import Charge, Release, Selection
from muster.privacy.shares import assumed
from muster.spelling import Spelled

__all__ = ["Budget", "LedgerEntry", "PrivacyLedger", "usual_delta"]

MOST = 1e-5  # of a δ that nobody named


@dataclass(frozen=True)
class LedgerEntry:
    """One released round: what was charged, whose replies it held, and ε so far, with RDP's.

    `accepted` is the number of replies in the sum, None where it is not recorded; `secret` the
    SHA-256 of what its noise is drawn from, and `model` that of what came of it, "" where neither
    is known. `terms` are the number of rounds and the ε of the budget that its run had then.
    """

    round: int
    charge: Charge
    accepted: int | None
    epsilon: float
    rdp: float
    secret: str = ""
    model: str = ""
    terms: tuple[int | None, float | None] = (None, None)

    @property
    def place(self) -> tuple[str, int]:
        """The run, and the round of it: no two entries have the same."""
        return self.charge.run, self.round


@dataclass(frozen=True)
class PrivacyLedger:
    """The entries in the order of release, and the δ of every ε in it.

    >>> charge = Charge(Release("gaussian", 4.0, 1.0), run="a")
    >>> ledger = PrivacyLedger(1e-6).enter(1, charge, 10)
    >>> round(ledger.epsilon, 3), PrivacyLedger.from_json(ledger.to_json()) == ledger
    (1.061, True)
    """

    delta: float
    entries: tuple[LedgerEntry, ...] = ()

    def __post_init__(self) -> None:
        check_target(1.0, self.delta)
        known, last = set(), 0.0
        for entry in self.entries:
            if entry.place in known:
                raise MusterError(
                    f"round {entry.round} of run {entry.charge.run!r} is in the "
                    f"ledger already; a round is released once"
                )
            if not last <= entry.epsilon < math.inf:
                raise MusterError(
                    f"the ledger falls from epsilon {last!r} to {entry.epsilon!r} at round "
                    f"{entry.round}; privacy is never given back: restore the ledger from a copy"
                )
            known.add(entry.place)
            last = entry.epsilon

    @property
    def epsilon(self) -> float:
        """ε so far; 0 before the first release."""
        return self.entries[-1].epsilon if self.entries else 0.0

    @property
    def rdp(self) -> float:
        """The RDP value beside it."""
        return self.entries[-1].rdp if self.entries else 0.0

    @property
    def theorem(self) -> Theorem:
        """The ground of ε: settings that were fixed, or a filter (see `accounting`).

        A run whose number of rounds, or budget, became another one had not fixed it before.
        """
        found = spent(self.charges, self.delta).theorem
        settled = {(entry.charge.origin, entry.terms) for entry in self.entries}
        runs = {origin for origin, _ in settled}
        return "one setting" if found == "fixed settings" and len(settled) > len(runs) else found

    @property
    def rebudgeted(self) -> bool:
        """Return whether the budget of a run became another one after its first release."""
        found = {(entry.charge.origin, entry.terms[1]) for entry in self.entries}
        return len(found) > len({origin for origin, _ in found})

    def entry(self, run: str, round: int) -> LedgerEntry | None:
        """Return the entry of this round of a run, or None."""
        found = (e for e in reversed(self.entries) if e.round == round and e.charge.run == run)
        return next(found, None)

    def holds(self, run: str, round: int) -> bool:
        """Return whether this round of a run was entered already."""
        return self.entry(run, round) is not None

    def released(self, run: str, round: int) -> bool:
        """Return whether this round was committed with replies, and so given out."""
        found = self.entry(run, round)
        return found is not None and found.accepted is not None

    @property
    def charges(self) -> tuple[Charge, ...]:
        """The charges of every entry."""
        return tuple(entry.charge for entry in self.entries)

    def enter(
        self,
        round: int,
        charge: Charge,
        accepted: int | None = None,
        *,
        secret: str = "",
        model: str = "",
        terms: tuple[int | None, float | None] = (None, None),
    ) -> PrivacyLedger:
        """Return the ledger with one more release; never a lower ε than before."""
        after = spent((*self.charges, charge), self.delta)
        epsilon, rdp = max(self.epsilon, after.epsilon), max(self.rdp, after.rdp)
        entry = LedgerEntry(round, charge, accepted, epsilon, rdp, secret, model, terms)
        return replace(self, entries=(*self.entries, entry))

    def joined(self, other: PrivacyLedger) -> PrivacyLedger:
        """Return the ledger with what only the other one holds: nothing released is lost."""
        held, found = {entry.place for entry in self.entries}, self
        for one in other.entries:
            if one.place not in held:
                found = found.enter(
                    one.round,
                    one.charge,
                    one.accepted,
                    secret=one.secret,
                    model=one.model,
                    terms=one.terms,
                )
        return found

    def given_out(self, places: Collection[tuple[str, int]], model: str) -> PrivacyLedger:
        """Return the ledger with the model, by its SHA-256, that came of these (run, round)."""
        entries = (replace(e, model=model) if e.place in places else e for e in self.entries)
        return replace(self, entries=tuple(entries))

    def witnessed(self, counts: Mapping[tuple[str, int], int | None]) -> PrivacyLedger:
        """Return the ledger with the replies of each (run, round), where they were not recorded."""
        if all(entry.accepted is not None for entry in self.entries):
            return self
        entries = (
            replace(e, accepted=counts.get((e.charge.run, e.round))) if e.accepted is None else e
            for e in self.entries
        )
        return replace(self, entries=tuple(entries))

    def to_json(self) -> str:
        """Return the ledger as text, equal for equal ledgers; equal charges are written once.

        What every ε in it takes for granted of others' noise stands beside, in words and numbers.
        """
        places: dict[int, int] = {}  # of a charge's first object, by the object: see `spent`
        kinds: dict[Charge, int] = {}
        entries = []
        for entry in self.entries:
            if id(entry.charge) not in places:
                places[id(entry.charge)] = kinds.setdefault(entry.charge, len(kinds))
            entries.append(vars(entry) | {"charge": places[id(entry.charge)]})
        value = {"delta": self.delta, "charges": list(map(asdict, kinds)), "entries": entries}
        taken = assumed(kinds)
        if taken is not None:  # for who reads the file: no epsilon stands there without it
            value["assumes"] = asdict(taken) | {"text": taken.text}
        return json.dumps(value, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> PrivacyLedger:
        """Return the inverse of `to_json`; raises `MusterError` for what no ledger says."""
        try:
            value = json.loads(text, parse_constant=_refuse_constant)
            charges = tuple(map(_charge, value.get("charges", ())))
            entries = tuple(_entry(entry, charges) for entry in value["entries"])
            return cls(float(value["delta"]), entries)
        except (
            AttributeError,
            IndexError,
            KeyError,
            OverflowError,
            TypeError,
            ValueError,
        ) as error:
            raise MusterError(
                f"this is no privacy ledger ({error}); restore it from a copy"
            ) from error


@dataclass(frozen=True)
class Budget(Spelled):
    """The most that may ever be revealed: (ε, δ) over all runs in the ledger.

    >>> Budget(2.0, 1e-6).rounds(Release("gaussian", 20.0, 1.0))
    80
    """

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        check_target(self.epsilon, self.delta)

    def rounds(self, release: Release, selection: Selection = EVERYBODY) -> int:
        """Count the rounds that a fresh population affords."""
        return rounds_for(self.epsilon, self.delta, release, selection)

    def refusal(self, ledger: PrivacyLedger, charge: Charge) -> str | None:
        """Say why this charge may not be released, or None: asked before the release, not after."""
        if ledger.delta != self.delta:
            return (
                f"the ledger counts at delta {ledger.delta!r} and the budget at {self.delta!r}; "
                f"give both the same"
            )
        after = spent((*ledger.charges, charge), self.delta)
        if max(after.epsilon, ledger.epsilon) <= self.epsilon:
            return None
        return (
            f"the next release would bring epsilon from {ledger.epsilon:.4g} to "
            f"{after.epsilon:.4g} at delta {self.delta:g}, past the budget of {self.epsilon:g}; "
            f"stop here, plan with more noise, or allow more"
        )

    def spend(
        self, ledger: PrivacyLedger, round: int, charge: Charge, accepted: int | None = None
    ) -> PrivacyLedger:
        """Return the ledger after this release; raises `MusterError` where the budget refuses."""
        refusal = self.refusal(ledger, charge)
        if refusal:
            raise MusterError(f"round {round} is not released: {refusal}")
        return ledger.enter(round, charge, accepted)


def usual_delta(count: int) -> float:
    """Return δ where no budget names one: below one over the clients or rows, at most 10⁻⁵.

    >>> usual_delta(4)
    1e-05
    """
    return min(MOST, 1 / math.pow(count, 1.1))


def _charge(value: dict[str, Any]) -> Charge:
    release, selection = Release(**value["release"]), Selection(**value["selection"])
    return Charge(release, selection, value["rounds"], value["run"])


def _entry(value: dict[str, Any], charges: tuple[Charge, ...]) -> LedgerEntry:
    accepted = value["accepted"]
    return LedgerEntry(
        int(value["round"]),
        charges[value["charge"]],
        None if accepted is None else int(accepted),
        float(value["epsilon"]),
        float(value["rdp"]),
        str(value.get("secret", "")),
        str(value.get("model", "")),
        _terms(*value.get("terms", (None, None))),
    )


def _terms(rounds: Any, epsilon: Any) -> tuple[int | None, float | None]:
    if epsilon is not None and not math.isfinite(float(epsilon)):
        raise ValueError(f"a budget of {epsilon}")
    return None if rounds is None else int(rounds), None if epsilon is None else float(epsilon)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")
