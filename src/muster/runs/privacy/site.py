# SPDX-License-Identifier: Apache-2.0
"""A site's own privacy, read back: its ledger, and who learns what of it.

There is one ledger for each of its studies, beside the study's record: what was charged by whom,
what is spent, and what is left. The table is made of the plan and policy that the site joined with,
of the sums that its transcripts show, and of the ledger; nothing in it is a server's word.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from muster.errors import PlanError, RunError
from muster.federation.site import joined
from muster.federation.site.joined import Joined
from muster.federation.site.peers import PeerRules
from muster.federation.site.secrets import LEDGER, NOTE, check_entries
from muster.federation.site.study import STUDIES, spending
from muster.plan.told import told_of_value
from muster.privacy import Budget, Charge, PrivacyLedger, Release, Statement
from muster.privacy.accounting import most_rounds
from muster.privacy.book import LedgerFile
from muster.privacy.mask import Sums
from muster.privacy.shares import Assumed, alone, assumed, epsilon_as
from muster.privacy.statement import rounded_up
from muster.privacy.threats import Peers, Setting, Threat, threats
from muster.runs.privacy.masked import own_needed, settings_of
from muster.secagg.graph import Odds, graph_of
from muster.security.transcript import Transcript, examine
from muster.security.transcript.examine import SECURE

__all__ = ["Account", "Part", "SiteStudy", "accounts", "peers_of", "studies"]

ROW = "one row of this site: it adds to the gradients, or adds nothing (zero-out)"
SITE = "all rows of this site together: its update is this one, or any other"
SHARE = "all rows of this site together: its update in a masked sum is this one, or zero (zero-out)"


class Part(NamedTuple):
    """The trainings of one run, its first and last round, ε of this run by itself.

    Infinite where some of them are in no ledger.
    """

    run: str
    trainings: int
    first: int
    last: int
    epsilon: float


@dataclass(frozen=True)
class Account:
    """One ledger of a site, and the budget that rules it, None where nothing says which.

    `own`: of noise in shares the site's own alone counts (`own_share_only`), also where the ledger
    was charged otherwise before. `uncounted`: the run, round and attempt of each training that is
    in no ledger, as no budget stood. `planned`: the noise of the plan that goes on, where what is
    said is to hold of its trainings, too, also before the first.
    """

    path: Path
    ledger: PrivacyLedger
    budget: Budget | None
    own: bool = False
    uncounted: tuple[tuple[str, int, int], ...] = ()
    planned: tuple[Release, ...] = ()

    @property
    def charges(self) -> tuple[Charge, ...]:
        """All that was charged, as the policy counts it."""
        return tuple(map(self._counted, self.ledger.charges))

    def _counted(self, charge: Charge) -> Charge:
        return alone(charge) if self.own else charge

    @property
    def epsilon(self) -> float:
        """Return what was charged, as the policy counts it; infinite where that is no noise.

        In the `unit` that it is about: for one row, where any charge is about rows.
        """
        if self.own:
            return self.alone
        return (
            max(self.ledger.epsilon, self._spent(self.charges))
            if self._rows
            else (self.ledger.epsilon)
        )

    @property
    def spent(self) -> float:
        """Return what is spent: what was charged, and infinite where a training is uncounted."""
        return math.inf if self.uncounted else self.epsilon

    @property
    def _rows(self) -> bool:
        """Return whether it is about single rows."""
        return any(charge.release.trust == "central" for charge in self._all)

    @property
    def _all(self) -> tuple[Charge, ...]:
        """All charges, and those that are planned."""
        return (*self.ledger.charges, *map(Charge, self.planned))

    @property
    def unit(self) -> str:
        """The unit that ε is about: noise in each local step hides rows, on an update all."""
        if self._rows:
            return ROW
        zero = any(charge.relation == "zero-out" for charge in self._all)
        return SHARE if zero else SITE

    @property
    def parts(self) -> list[Part]:
        """The trainings by run: in the order of its first charge, then those without one."""
        found: dict[str, list[Any]] = {}
        for entry in self.ledger.entries:
            found.setdefault(entry.charge.origin, []).append(entry)
        more: dict[str, list[int]] = {}
        for run, round, _ in self.uncounted:
            more.setdefault(run, []).append(round)
        return [self._part(run, found.get(run, []), more.get(run, [])) for run in found | more]

    def _part(self, run: str, entries: list[Any], uncounted: list[int]) -> Part:
        """Return the part of a run: its entries, and the rounds that are in no ledger."""
        rounds = [*(e.round for e in entries), *uncounted]
        trainings = sum("#" not in e.charge.run for e in entries) + len(uncounted)
        epsilon = math.inf if uncounted else self._spent(e.charge for e in entries)
        return Part(run, trainings, min(rounds), max(rounds), epsilon)

    @property
    def assumed(self) -> Assumed | None:
        """Return what ε takes for granted of others; None where it counts own noise alone."""
        return assumed(self.charges)

    def _spent(self, charges: Iterable[Charge]) -> float:
        """ε of these, as the policy counts it, in this ledger's unit."""
        return epsilon_as(charges, self.ledger.delta, own=self.own, rows=self._rows)

    @property
    def alone(self) -> float:
        """ε by this site's own noise alone; infinite where that is no noise at all."""
        charges, delta = self.ledger.charges, self.ledger.delta
        return max(self.ledger.epsilon, epsilon_as(charges, delta, own=True, rows=self._rows))

    @property
    def left(self) -> float | None:
        """The ε that the budget has left; ε of rounds does not simply add up to it."""
        if self.budget is None:
            return None
        return max(0.0, self.budget.epsilon - self.epsilon)

    @property
    def more(self) -> int | None:
        """The number of further trainings like the last in the budget; None before the first."""
        if self.budget is None or not self.ledger.entries:
            return None
        budget, before = self.budget, self.charges
        last = self.ledger.entries[-1]
        place = last.charge.run.partition("#")[0]
        same = [
            self._counted(e.charge)
            for e in self.ledger.entries
            if e.round == last.round and e.charge.run.partition("#")[0] == place
        ]

        def fits(count: int) -> bool:
            again: list[Charge] = [replace(c, rounds=c.rounds * count) for c in same]
            return self._spent((*before, *again)) <= budget.epsilon

        return most_rounds(fits)


@dataclass(frozen=True)
class SiteStudy:
    """A study of a site: its ledger, None where it keeps none, and who learns what of it.

    `threats` is empty before the first sum of a plan that masks its sums, and None where nothing is
    known of the plan; `faults` are those of the transcripts, which then say too little.
    """

    path: Path
    account: Account | None
    threats: tuple[Threat, ...] | None
    faults: tuple[str, ...] = ()


def studies(folder: str | Path, policy: Any = None) -> list[SiteStudy]:
    """Return each study of a site, by the folder of its identity, or of its studies, or one.

    `policy`, a `Policy`, says which budget and which rules count and which study is meant, instead
    of what the site itself noted when it last joined. Raises `RunError` where there is none.
    """
    return [_study(one, policy) for one in _found(folder, policy, (NOTE, LEDGER, joined.JOINED))]


def accounts(folder: str | Path, policy: Any = None) -> list[Account]:
    """Return the ledger of each study of a site, as `studies` finds them.

    Raises `RunError` for none.
    """
    found = _found(folder, policy, (NOTE, LEDGER))
    return [_account(one / LEDGER, _rule(policy) or _noted(one)) for one in found]


def peers_of(rules: PeerRules) -> Peers:
    """Return a site's rules about those it sums with, as a table needs them."""
    peers = rules.peers or ()
    names = {peer.partition("=")[0] for peer in peers}
    named = not any("*" in name for name in names)
    keyed = named and bool(peers) and all("=" in peer for peer in peers)
    count = len(names) if named else 0
    return Peers(rules.least_peers or 0, count, len(rules.organisations or ()), keyed)


def _study(path: Path, policy: Any) -> SiteStudy:
    account = None
    if (path / NOTE).exists() or (path / LEDGER).exists() or spending(path).entries:
        account = _account(path / LEDGER, _rule(policy) or _noted(path))
    came = joined.read(path)
    if came is None:
        return SiteStudy(path, account, None)
    if policy is not None:
        told = told_of_value(came.plan, policy.keeps)
        came = replace(came, rules=policy.room, told=told)
    place = path / SECURE
    seen = examine(place) if place.is_dir() else None
    shown = () if seen is None else tuple(one.transcript for one in seen.whole)
    setting = _setting(came, account, _worst(shown))
    faults = () if seen is None else seen.faults
    return SiteStudy(path, account, () if setting is None else threats(setting), faults)


def _setting(came: Joined, account: Account | None, worst: Sums | None) -> Setting | None:
    """Return the setting of a site's table; None where masked sums were planned and none made.

    Sums of an earlier run under masks say nothing of a plan that has none.
    """
    if settings_of(came.plan) is None:
        worst = None
    elif worst is None:
        return None
    peers = peers_of(came.rules)
    return Setting(
        came.carrier,
        worst,
        (_stated(came, account),),
        frozenset() if came.rows else frozenset(release.trust for release in came.own),
        rows=came.rows,
        told=came.told,
        peers=peers,
        own=own_needed(came.plan, came.releases, peers),
    )


def _stated(came: Joined, account: Account | None) -> Statement:
    """State what this site's own noise hides, by its own ledger; else why nothing can be said."""
    counted = account is not None and account.ledger.entries and not account.uncounted
    if account is not None and counted and came.own:
        account = replace(account, planned=came.own)
        ledger = account.ledger
        claim = (
            f"With epsilon {rounded_up(account.epsilon)} at delta {ledger.delta:g}, by its own "
            f"ledger, this site's noise hides {account.unit}."
        )
        if account.assumed is not None:
            claim += (
                f" There {account.assumed.text}; by this site's own share alone epsilon is "
                f"{rounded_up(account.alone)}."
            )
        return Statement(True, claim, (), {})
    reason = "neither plan nor policy has this site add any"
    if account is not None and account.uncounted:
        count = len(account.uncounted)
        were = "training of this study was" if count == 1 else "trainings of this study were"
        reason = f"{count} {were} without a budget, and no ledger counts what was shown"
    elif came.own:
        reason = "this site adds noise and its ledger holds none; give budget_epsilon in site.toml"
    elif any(release.trust == "central" for release in came.releases):
        reason = "what the server adds is its word: ask for muster privacy of the run there"
    return Statement(False, "", (reason,), {})


def _worst(shown: tuple[Transcript, ...]) -> Sums | None:
    """Return the worst sum that the site's masked vector may be in, by its transcripts; or None."""
    sums = [made for one in shown if (made := _sums(one)) is not None]
    return min(sums, key=lambda made: (made.honest, made.threshold), default=None)


def _sums(shown: Transcript) -> Sums | None:
    """Return what one session was safe from; None where nothing was masked in it.

    Its graph is that of the roster which the server showed, as the session's own is: how many it
    told of before, when it asked for the update, is the cohort, which no client need ever see.
    """
    counts = dict(shown.counts)
    if not counts.keys() >= {"share", "mask"}:
        return None
    cohort, colluders, losses = (
        int(shown.terms[name]) for name in ("cohort", "colluders", "losses")
    )
    count = counts["share"]
    try:
        graph = graph_of(count, Odds(colluders, losses), bytes(32), cohort)
    except PlanError:
        return None  # this site took no part in such a one
    ring = bool(graph.order)
    borne = losses if ring else count - graph.threshold
    verified = len(shown.roster)
    return Sums(count, graph.threshold, graph.honest, colluders, borne, ring, verified)


def _found(folder: str | Path, policy: Any, kept: tuple[str, ...]) -> list[Path]:
    """Return the studies at a place that hold one of these files. Raises `RunError` for none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise RunError(f"{folder} is no folder; give a site's identity, or the folder of a study")
    found = [one for one in _studies(folder, kept) if policy is None or one.name == policy.study]
    if not found:
        named = "" if policy is None else f" the study {policy.study!r} in"
        raise RunError(
            f"no ledger of privacy is in{named} {folder} or its studies; a site keeps one when its "
            f"policy has budget_epsilon and budget_delta: muster join ... --policy site.toml"
        )
    return found


def _studies(folder: Path, kept: tuple[str, ...]) -> Iterator[Path]:
    inside = (path for place in (folder / STUDIES, folder) if place.is_dir() for path in _in(place))
    for one in (folder, *inside):
        if any((one / name).exists() for name in kept):
            yield one.resolve()


def _in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


class Rule(NamedTuple):
    """A budget, and whether it counts the site's own share of noise alone."""

    budget: Budget
    own: bool


def _noted(study: Path) -> Rule | None:
    """Return the budget that was in force when the site last joined."""
    note = study / NOTE
    if not note.exists():
        return None
    try:
        kept = json.loads(note.read_text("utf-8"))
        return Rule(Budget(kept["epsilon"], kept["delta"]), kept.get("own_share_only") is True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{note} cannot be read ({error}); the next muster join writes it anew, or name the "
            f"budget with --policy site.toml"
        ) from error


def _rule(policy: Any) -> Rule | None:
    if policy is None or policy.budget_epsilon is None:
        return None
    return Rule(Budget(policy.budget_epsilon, policy.budget_delta), policy.own_share_only)


def _account(path: Path, rule: Rule | None) -> Account:
    budget, own = rule or (None, False)
    ledger, known = LedgerFile(path).read(budget.delta if budget else 1e-5), spending(path.parent)
    check_entries(path, len(ledger.entries), known.entries)
    if budget is not None and ledger.delta != budget.delta:
        raise RunError(
            f"the ledger {path} counts at delta {ledger.delta!r} and the budget at "
            f"{budget.delta!r}; give budget_delta = {ledger.delta!r} in the policy"
        )
    held = {(e.charge.origin, e.round, _attempt(e.charge)) for e in ledger.entries}
    uncounted = tuple(place for place in known.uncounted if place not in held)
    return Account(path, ledger, budget, own, uncounted)


def _attempt(charge: Charge) -> int | None:
    """Return the attempt that a charge of a site is of; None for what no site has written."""
    attempt = charge.part.partition(".")[0]
    return int(attempt) if attempt.isdecimal() else None
