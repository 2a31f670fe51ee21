# SPDX-License-Identifier: Apache-2.0
"""A site's own privacy: the secrets of its noise, and its ledger, whatever the server promises.

All that an assignment draws (batches and noise in each step, noise of stages, noise that the
policy forces, rounding) comes from one secret of its own. The secret is on the disk before
anything is drawn from it, so a site that was killed, or is asked again, sends the very same bytes
again: one release, and one charge. It is written over when the fate of the update is known, and an
assignment whose secret is gone is never trained again: that would be another release.

Nor is one whose rows, plan or policy are others by then: the same noise on two updates would show
their difference. So the seal of an assignment is of its secret and of all that makes the update,
and the noise is drawn from both, too: from other rows comes other noise.

The ledger belongs to the study. It has an assignment by the run, the attempt, the model and the
seal, whole: where the server sees the update by itself, before its training begins; where it goes
into a secure sum, before its masked vector is said, when it is known who is there, or before it is
said that training failed. Whether the budget has room for it is asked before either begins. The
study's record knows how many entries the ledger has, and what was trained without a budget.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from muster import keys
from muster.errors import PlanError, RunError
from muster.federation.protocol.message import TrainAssignment
from muster.federation.site.note import write_note
from muster.federation.site.policy import Policy
from muster.federation.site.state import destroyed
from muster.federation.site.store import SiteStore
from muster.federation.site.study import Begun, StudyRecord
from muster.keys import RandomSource
from muster.plan import Plan
from muster.plan.registry import fingerprint
from muster.privacy import Budget, Charge, PrivacyLedger, Release, Secret, charged
from muster.privacy.book import ChargeRequest, LedgerFile, try_charge
from muster.privacy.shares import alone, epsilon_as, for_rows

__all__ = ["LEDGER", "NOTE", "SiteSecrets", "charges", "check_entries"]

LEDGER = "privacy.json"  # in the study's folder
NOTE = "budget.json"  # beside it: the budget that was last in force


def charges(plan: Plan, policy: Policy, rows: int) -> tuple[Charge, ...]:
    """Return the charges of one round: what its own noise alone leaves the update's readers.

    About single rows where the plan keeps those private, else about all rows together. Noise of
    the server's counts for nothing here, and shares of others' noise only where the replies are
    masked, and unless the policy counts the site's own share alone.
    """
    examples, contract = plan.local.examples, plan.stages.contracts[0]
    if examples is not None:
        return (charged(plan.local, rows),)
    shares = plan.secure is not None or policy.own_share_only
    trusted = ("local", "distributed") if shares else ("local",)
    found = [release for release in plan.stages.releases() if release.trust in trusted]
    if policy.noise is not None and policy.clip is not None:
        reach = 2 * policy.clip  # any two updates that the policy lets out
        forced = Release("local gaussian", policy.noise / 2, reach, contract.dimension)
        found.append(forced)
    made = tuple(map(Charge, found))
    return tuple(map(alone, made)) if policy.own_share_only else made


class SiteSecrets:
    """The secrets and charges that a client keeps; `entropy` None takes the plan's seed.

    Secrets lie in the vault, charges in the folder of the study. `digest` gives that of the rows,
    as they are when it is asked for. Raises `PlanError` for a policy with a budget and a plan that
    adds no noise here, and for a δ with which to publish one of the rows would pass.
    """

    def __init__(
        self,
        plan: Plan,
        policy: Policy,
        site_store: SiteStore,
        study: StudyRecord,
        rows: int,
        entropy: Callable[[int], bytes] | None,
        *,
        digest: Callable[[], bytes] = bytes,
    ) -> None:
        self._plan, self._vault, self._entropy = plan, site_store, entropy
        self._study, self._rows = study, digest
        self._made = repr((fingerprint(plan), policy.clip, policy.noise)).encode()
        self._veiled, self._book = plan.veiled or policy.noise is not None, None
        self._budget: Budget | None = None
        self._alone = policy.own_share_only
        if policy.budget_epsilon is None or policy.budget_delta is None:
            return
        self._charges = charges(plan, policy, rows)
        if not self._charges:
            raise PlanError(
                f"the site's policy has budget_epsilon = {policy.budget_epsilon}, and neither this "
                f"plan nor the policy adds noise at the site; give noise in the policy, or a plan "
                f"with LocalNoise or PerExample"
            )
        if policy.budget_delta * rows >= 1:
            raise PlanError(
                f"the site's policy has budget_delta = {policy.budget_delta} and there are {rows} "
                f"rows: to publish one of them at random would pass; give a number below one over "
                f"the rows"
            )
        self._budget = Budget(policy.budget_epsilon, policy.budget_delta)
        self._book = LedgerFile(study.folder / LEDGER)

    def joined(self) -> None:
        """Note the budget that is in force from now on, for whoever looks into the study later."""
        if self._budget is not None:
            note = asdict(self._budget) | {"own_share_only": self._alone}
            write_note(self._study.folder / NOTE, note)

    def lost(self, task: TrainAssignment, begun: Begun) -> bool:
        """Return whether an assignment that was begun cannot be trained again with its bits.

        Its secret is gone, or its rows, the plan or what the policy adds are others than they were.
        """
        return not self._sealed(task, begun.secret)

    def _sealed(self, task: TrainAssignment, sealed: str) -> bool:
        """Return whether this is the seal of a task as it would be trained now."""
        if not self._secret:
            return True
        held = self._vault.blobs.size(_name(task)) is not None
        return held and self.seal(task) == sealed

    def seal(self, task: TrainAssignment) -> str:
        """Return the seal of a task, 64 digits; "" where it draws from no secret.

        The SHA-256 of its secret, which is on the disk when this returns, and of what it hides.
        """
        return sha256(self._seed(task) + self._bound).hexdigest() if self._secret else ""

    @property
    def _bound(self) -> bytes:
        """The SHA-256 of all that makes an update, but the model: rows, plan, forced stages."""
        return sha256(sha256(self._made).digest() + self._rows()).digest()

    def charge(
        self, task: TrainAssignment, sealed: str | None = None, *, keep: bool = True
    ) -> str | None:
        """Why the budget lets this task not be trained; None once it is in the ledger.

        `sealed` is what `seal` gave when the task was begun, None before that. Without `keep` the
        budget is only asked, and the ledger stays as it is. Without a budget the study's record has
        it as a training that no ledger counts. Raises `RunError` for a ledger that was put back.
        """
        secret = self.seal(task) if sealed is None else sealed
        if self._book is None or self._budget is None:
            if keep:
                self._study.uncounted(task)
            return None
        ledger = self._ledger(self._book, self._budget)
        part = f"{task.attempt}.{self._settings}"
        place = "/".join(filter(None, (task.run, part, task.model, secret)))
        wish = ChargeRequest(task.round, _placed(self._charges, place), self._budget)
        if not all(ledger.holds(charge.run, wish.round) for charge in wish.charges):
            if sealed is not None and not self._sealed(task, sealed):
                return (
                    f"round {task.round} (attempt {task.attempt}) was begun with other rows, "
                    f"another plan or other noise than this site has now, and never charged; it is "
                    f"not charged for what it is not"
                )
            if why := self._beyond(ledger, wish):
                return why
        if keep:
            ledger, why = self._book.grant(wish, PrivacyLedger(self._budget.delta))
            self._study.entered(len(ledger.entries))
        else:
            why = try_charge(ledger, wish)[1]
        return why and f"the site's policy has a budget of privacy: {why}"

    def _ledger(self, book: LedgerFile, budget: Budget) -> PrivacyLedger:
        """Return the ledger. Raises `RunError` where it has lost entries."""
        ledger = book.read(budget.delta)
        check_entries(book.path, len(ledger.entries), self._study.entries)
        return ledger

    @property
    def _settings(self) -> str:
        """Name the settings of a training: rounds of a run that differ in it are two parts of it.

        Rows that change within a run change how private a draw of them makes a step, and that is
        then a choice which nobody fixed before the first round.
        """
        made = map(alone, self._charges)  # how a policy counts shares changes none of them
        told = repr([(charge.release, charge.selection, charge.rounds) for charge in made])
        return sha256(told.encode()).hexdigest()[:16]

    def _beyond(self, ledger: PrivacyLedger, wish: ChargeRequest) -> str | None:
        """Why all charges, those of before as well, are past the budget as they count now, or None.

        Own shares alone, where the policy counts those; for single rows, where any charge is about
        rows (see `privacy.shares`).
        """
        assert self._budget is not None
        together = (*ledger.charges, *wish.charges)
        if not self._alone and for_rows(together) == together:
            return None  # what the ledger itself counts
        after = epsilon_as(together, ledger.delta, own=self._alone)
        if after <= self._budget.epsilon:
            return None
        how = (
            "by its own share of the noise alone (own_share_only)"
            if self._alone
            else "for single rows, of whom each update under noise in shares tells twice"
        )
        return (
            f"the site's policy has a budget of privacy, counted {how}: the next release would "
            f"bring epsilon to {after:.4g} at delta {ledger.delta:g}, past the budget of "
            f"{self._budget.epsilon:g}; stop here, plan with more noise, or allow more"
        )

    def source(self, task: TrainAssignment) -> RandomSource | None:
        """Return the source of this task's draws; None where the plan needs no secret."""
        if not self._veiled:
            return None
        if self._entropy is None:
            return keys.key(self._plan.seed)
        bound = np.frombuffer(self._bound, "<u8") >> np.uint64(1)
        return Secret(self._seed(task)).at(task.run, task.model, *map(int, bound))

    @property
    def _secret(self) -> bool:
        return self._veiled and self._entropy is not None

    def _seed(self, task: TrainAssignment) -> bytes:
        """Return the secret of an assignment, on the disk when this returns."""
        files, name = self._vault.blobs, _name(task)
        if files.size(name) is None:
            assert self._entropy is not None
            files.drop(name)
            files.append(name, 0, self._entropy(32))
            files.finish(name)
        return bytes(files.whole(name))

    def settle(self, round: int, attempt: int) -> None:
        """Settle this assignment, whose fate is known: its secret, and older ones, are erased."""
        files, last = self._vault.blobs, _name((round, attempt))
        destroyed(files, self._vault.folder, [n for n in files.names("noise-") if n <= last])


def _name(place: TrainAssignment | tuple[int, int]) -> str:
    """Return the file of an assignment's secret; later ones have names that sort behind it."""
    round, attempt = (place.round, place.attempt) if isinstance(place, TrainAssignment) else place
    return f"noise-{attempt:010d}-{round:010d}-key"


def check_entries(path: Path, found: int, known: int) -> None:
    """Raise `RunError` for a ledger that has fewer entries than the study's record knows of."""
    if found < known:
        raise RunError(
            f"the ledger {path} is gone or was put back: it has {found} entries, and the study's "
            f"record beside it knows of {known}; restore the newest copy of it, as what was spent "
            f"is not forgotten, or begin another study"
        )


def _placed(found: tuple[Charge, ...], place: str) -> tuple[Charge, ...]:
    named: Any = (place if not i else f"{place}#{i + 1}" for i in range(len(found)))
    return tuple(
        Charge(charge.release, charge.selection, charge.rounds, run)
        for charge, run in zip(found, named, strict=True)
    )
