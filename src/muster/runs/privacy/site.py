# SPDX-License-Identifier: Apache-2.0
"""A site's own ledger, read back: what was charged by whom, what is spent, and what is left.

There is one for each of its studies, beside the study's record.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from muster.errors import RunError
from muster.federation.site.secrets import LEDGER, NOTE
from muster.federation.site.study import STUDIES
from muster.privacy import Budget, Charge, PrivacyLedger, spent
from muster.privacy.accounting import most_rounds
from muster.privacy.book import LedgerFile

__all__ = ["Account", "Part", "accounts"]

ROW = "one row of this site: it adds to the gradients, or adds nothing (zero-out)"
SITE = "all rows of this site together: its update is this one, or any other"
SHARE = "all rows of this site together: its update in a masked sum is this one, or zero (zero-out)"


class Part(NamedTuple):
    """What one run was charged: trainings, its first and last round, ε of this run by itself."""

    run: str
    trainings: int
    first: int
    last: int
    epsilon: float


@dataclass(frozen=True)
class Account:
    """One ledger of a site, and the budget that rules it, None where nothing says which."""

    path: Path
    ledger: PrivacyLedger
    budget: Budget | None

    @property
    def unit(self) -> str:
        """Whom ε is about: noise in each local step hides rows, noise on an update all of them."""
        kinds = {charge.release.mechanism for charge in self.ledger.charges}
        if "gaussian" in kinds:
            return ROW
        zero = any(charge.relation == "zero-out" for charge in self.ledger.charges)
        return SHARE if zero else SITE

    @property
    def parts(self) -> list[Part]:
        """The charges by run, in the order of their first."""
        found: dict[str, list[Any]] = {}
        for entry in self.ledger.entries:
            found.setdefault(entry.charge.origin, []).append(entry)
        return [
            Part(
                run,
                sum("#" not in e.charge.run for e in entries),
                min(e.round for e in entries),
                max(e.round for e in entries),
                spent((e.charge for e in entries), self.ledger.delta).epsilon,
            )
            for run, entries in found.items()
        ]

    @property
    def left(self) -> float | None:
        """The ε that the budget has left; ε of rounds does not simply add up to it."""
        if self.budget is None:
            return None
        return max(0.0, self.budget.epsilon - self.ledger.epsilon)

    @property
    def more(self) -> int | None:
        """How many more trainings like the last the budget affords; None before the first."""
        if self.budget is None or not self.ledger.entries:
            return None
        budget, before = self.budget, self.ledger.charges
        last = self.ledger.entries[-1]
        place = last.charge.run.partition("#")[0]
        same = [
            e.charge
            for e in self.ledger.entries
            if e.round == last.round and e.charge.run.partition("#")[0] == place
        ]

        def fits(count: int) -> bool:
            again: list[Charge] = [replace(c, rounds=c.rounds * count) for c in same]
            return spent((*before, *again), budget.delta).epsilon <= budget.epsilon

        return most_rounds(fits)


def accounts(folder: str | Path, policy: Any = None) -> list[Account]:
    """The ledger of each study of a site, by the folder of its identity, or of its studies, or one.

    `policy`, a `Policy`, says which budget rules and which study is meant, instead of what the
    site itself noted when it last joined. Raises `RunError` where there is none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RunError(f"{folder} is no folder; give a site's identity, or the folder of a study")
    found = [one for one in _studies(folder) if policy is None or one.name == policy.study]
    if not found:
        named = "" if policy is None else f" the study {policy.study!r} in"
        raise RunError(
            f"no ledger of privacy is in{named} {folder} or its studies; a site keeps one when its "
            f"policy has budget_epsilon and budget_delta: muster join ... --policy site.toml"
        )
    return [_account(one / LEDGER, _budget(policy) or _noted(one)) for one in found]


def _studies(folder: Path) -> Iterator[Path]:
    inside = (path for place in (folder / STUDIES, folder) if place.is_dir() for path in _in(place))
    for one in (folder, *inside):
        if (one / NOTE).exists() or (one / LEDGER).exists():
            yield one.resolve()


def _in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _noted(study: Path) -> Budget | None:
    """The budget that was in force when the site last joined."""
    note = study / NOTE
    if not note.exists():
        return None
    try:
        kept = json.loads(note.read_text("utf-8"))
        return Budget(kept["epsilon"], kept["delta"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{note} cannot be read ({error}); the next muster join writes it anew, or name the "
            f"budget with --policy site.toml"
        ) from error


def _budget(policy: Any) -> Budget | None:
    if policy is None or policy.budget_epsilon is None:
        return None
    return Budget(policy.budget_epsilon, policy.budget_delta)


def _account(path: Path, budget: Budget | None) -> Account:
    ledger = LedgerFile(path).read(budget.delta if budget else 1e-5)
    if budget is not None and ledger.delta != budget.delta:
        raise RunError(
            f"the ledger {path} counts at delta {ledger.delta!r} and the budget at "
            f"{budget.delta!r}; give budget_delta = {ledger.delta!r} in the policy"
        )
    return Account(path, ledger, budget)
