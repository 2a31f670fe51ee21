# SPDX-License-Identifier: Apache-2.0
"""A site's own privacy: the secrets of its noise, and its ledger, whatever the server promises.

All that an assignment draws (batches and noise in each step, noise of stages, noise that the
policy forces, rounding) comes from one secret of its own. The secret is on the disk before
anything is drawn from it, so a site that was killed, or is asked again, sends the very same bytes
again: one release, and one charge. It is written over when the fate of the update is known, and an
assignment whose secret is gone is never trained again: that would be another release.

The ledger belongs to the study. It has an assignment by the run, the attempt, the model and the
secret, whole: where the server sees the update by itself, before its training begins; where it goes
into a secure sum, before its masked vector is said, when it is known who is there, or before it is
said that training failed. Whether the budget has room for it is asked before either begins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from muster import keys
from muster.errors import PlanError
from muster.federation.protocol.message import TrainAssignment
from muster.federation.site.note import write_note
from muster.federation.site.policy import Policy
from muster.federation.site.state import destroyed
from muster.federation.site.store import SiteStore
from muster.federation.site.study import Begun, StudyRecord
from muster.keys import RandomSource
from muster.plan import Plan
from muster.privacy import Budget, Charge, PrivacyLedger, Release, Secret, charged
from muster.privacy.book import ChargeRequest, LedgerFile, try_charge
from muster.privacy.shares import alone, epsilon_alone

__all__ = ["LEDGER", "NOTE", "SiteSecrets", "charges"]

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

    Secrets lie in the vault, charges in the folder of the study. Raises `PlanError` for a policy
    with a budget and a plan that adds no noise here.
    """

    def __init__(
        self,
        plan: Plan,
        policy: Policy,
        site_store: SiteStore,
        study: StudyRecord,
        rows: int,
        entropy: Callable[[int], bytes] | None,
    ) -> None:
        self._plan, self._vault, self._entropy = plan, site_store, entropy
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
        self._budget = Budget(policy.budget_epsilon, policy.budget_delta)
        self._book = LedgerFile(study.folder / LEDGER)
        _noted(study.folder, self._budget, own_share_only=self._alone)

    def lost(self, task: TrainAssignment, begun: Begun) -> bool:
        """Return whether an assignment that was begun cannot be trained again with its bits."""
        if not self._secret:
            return False
        held = self._vault.blobs.size(_name(task)) is not None
        return not held or self.seal(task) != begun.secret

    def seal(self, task: TrainAssignment) -> str:
        """Return the SHA-256 of a task's secret, which is on the disk; "" for none."""
        return sha256(self._seed(task)).hexdigest() if self._secret else ""

    def charge(
        self, task: TrainAssignment, sealed: str | None = None, *, keep: bool = True
    ) -> str | None:
        """Why the budget lets this task not be trained; None once it is in the ledger.

        `sealed` is what `seal` gave when the task was begun, None before that. Without `keep` the
        budget is only asked, and the ledger stays as it is.
        """
        if self._book is None or self._budget is None:
            return None
        secret = self.seal(task) if sealed is None else sealed
        place = "/".join(filter(None, (task.run, str(task.attempt), task.model, secret)))
        wish = ChargeRequest(task.round, _placed(self._charges, place), self._budget)
        if self._alone and (why := self._beyond(wish)):
            return why
        if keep:
            why = self._book.grant(wish, PrivacyLedger(self._budget.delta))[1]
        else:
            why = try_charge(self._book.read(self._budget.delta), wish)[1]
        return why and f"the site's policy has a budget of privacy: {why}"

    def _beyond(self, wish: ChargeRequest) -> str | None:
        """Why own shares alone are past the budget, those of before counted so as well, or None."""
        assert self._book is not None and self._budget is not None
        ledger = self._book.read(self._budget.delta)
        if all(ledger.holds(charge.run, wish.round) for charge in wish.charges):
            return None
        after = epsilon_alone((*ledger.charges, *wish.charges), ledger.delta)
        if after <= self._budget.epsilon:
            return None
        return (
            f"the site's policy has a budget of privacy, counted by its own share of the noise "
            f"alone (own_share_only): the next release would bring epsilon to {after:.4g} at delta "
            f"{ledger.delta:g}, past the budget of {self._budget.epsilon:g}; stop here, plan with "
            f"more noise, or allow more"
        )

    def source(self, task: TrainAssignment) -> RandomSource | None:
        """Return the source of this task's draws; None where the plan needs no secret."""
        if not self._veiled:
            return None
        if self._entropy is None:
            return keys.key(self._plan.seed)
        return Secret(self._seed(task)).at(task.run, task.model)

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


def _noted(folder: Path, budget: Budget, *, own_share_only: bool) -> None:
    """Tell whoever looks into the study later (`muster privacy --site`)."""
    write_note(folder / NOTE, asdict(budget) | {"own_share_only": own_share_only})


def _placed(found: tuple[Charge, ...], place: str) -> tuple[Charge, ...]:
    named: Any = (place if not i else f"{place}#{i + 1}" for i in range(len(found)))
    return tuple(
        Charge(charge.release, charge.selection, charge.rounds, run)
        for charge, run in zip(found, named, strict=True)
    )
