# SPDX-License-Identifier: Apache-2.0
"""The site's policy, from `site.toml`: what this site takes part in, whatever the server asks.

    study = "hearts"             the study: the runs over these people, which share what is spent
    new_runs = 1                 so many further runs of the study without --new-run (none)
    extra_rounds = 10            so many rounds beyond those of the plan, in each run (none)
    repeated_rounds = 3          so many rounds again of a server that went back, in each run (none)
    fingerprints = ["3fa9…"]     only these plans, by the first 12 digits or more
    least_rows = 50              no training on fewer rows
    rounds_per_day = 20          no more new rounds on one day (local time), in all runs together
    evaluations_per_day = 5      the same for measuring a model on this site's rows
    hours = [22, 6]              new rounds from this hour until that one only (local time)
    clip = 1.0                   the L2 bound of an update, before the plan's own pipeline
    noise = 0.8                  Gaussian noise of standard deviation noise · clip, likewise
    budget_epsilon = 8.0         no new round beyond this ε, by the noise that is added at the site
    budget_delta = 1e-6          its δ
    own_share_only = true        of noise in shares count this site's own share alone
    metrics = "hidden"           tell no losses and metrics, which no noise covers ("public": tell)
    rows = "hidden"              nor how many rows there are
    least_peers = 4              in a secure sum with at least so many others
    peers = ["lyon=3f…", "p-*"]  and with these alone: a name with its key, names by a pattern
    organisations = ["Inserm"]   and somebody who speaks for each of these among them

A forced clip and noise come first and on the unweighted payload, so that all that the plan does
afterwards works on what the policy lets out. The noise is drawn from the secret of the assignment,
so that the same assignment has the same answer, however often it is asked for.

Noise in shares is counted with the shares of others, as far as the plan takes them not to work with
the server, which nothing shows; with own_share_only = true this site's own share alone counts, also
for what its ledger holds of before (`privacy.shares`).

A site with a budget keeps its metrics unless it says metrics = "public": they are exact functions
of its rows, which no ε counts.
"""

from __future__ import annotations

import math
import re
import tomllib
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from muster.errors import DataError, PlanError
from muster.federation.protocol.codec_json import STUDY_NAME
from muster.federation.protocol.message import STUDY
from muster.federation.site.peers import PeerRules
from muster.pipeline.stage import is_length
from muster.plan import Plan
from muster.plan.secure import sum_sizes
from muster.privacy.clipping import clipped
from muster.privacy.gaussian import LEAST, MOST
from muster.privacy.randomness import clients_of, normal
from muster.privacy.told import Keeps

__all__ = ["Guarded", "Policy", "read"]

PREFIX = r"[0-9a-f]{12,64}"
KEPT = ("hidden", "public")


@dataclass(frozen=True)
class Policy:
    """The policy of what a site takes part in; a field that is None rules nothing.

    >>> Policy(least_rows=50).least_rows
    50
    """

    fingerprints: tuple[str, ...] | None = None
    least_rows: int | None = None
    rounds_per_day: int | None = None
    hours: tuple[int, int] | None = None
    clip: float | None = None
    noise: float | None = None
    budget_epsilon: float | None = None
    budget_delta: float | None = None
    study: str = STUDY
    new_runs: int = 0
    extra_rounds: int = 0
    evaluations_per_day: int | None = None
    metrics: str | None = None
    rows: str | None = None
    least_peers: int | None = None
    peers: tuple[str, ...] | None = None
    organisations: tuple[str, ...] | None = None
    own_share_only: bool = False
    repeated_rounds: int = 0

    def __post_init__(self) -> None:
        for name in ("fingerprints", "hours", "peers", "organisations"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        rules = (
            ("fingerprints", _prints, "a list of fingerprints, each of 12 to 64 digits 0-9 a-f"),
            ("least_rows", _count, "a whole number above 0"),
            ("rounds_per_day", _count, "a whole number above 0"),
            ("hours", _hours, "two different hours from 0 to 23, such as [22, 6]"),
            ("clip", is_length, "a number above 0, from 1e-30 to 1e30"),
            ("noise", _multiplier, f"a number above 0, from {LEAST:g} to {MOST:g}"),
            ("budget_epsilon", _positive, "a number above 0"),
            ("budget_delta", _small, "a number in (0, 1), below one over the rows or clients"),
            ("study", _study, STUDY_NAME[1]),
            ("new_runs", _some, "a whole number from 0 up"),
            ("extra_rounds", _some, "a whole number from 0 up"),
            ("repeated_rounds", _some, "a whole number from 0 up"),
            ("evaluations_per_day", _count, "a whole number above 0"),
            ("metrics", KEPT.__contains__, "'hidden' or 'public'"),
            ("rows", KEPT.__contains__, "'hidden' or 'public'"),
            ("own_share_only", _truth, "true or false"),
        )
        for name, fits, wanted in rules:
            value = getattr(self, name)
            if value is not None and not fits(value):
                raise PlanError(f"the site's policy has {name} = {value!r}; give {wanted}")
        if self.noise is not None and self.clip is None:
            raise PlanError(
                f"the site's policy has noise = {self.noise} without a bound; give clip as well"
            )
        PeerRules(self.least_peers, self.peers, self.organisations)  # refuses what no sum can meet
        if (self.budget_epsilon is None) != (self.budget_delta is None):
            raise PlanError(
                f"the site's policy has budget_epsilon = {self.budget_epsilon} and budget_delta = "
                f"{self.budget_delta}; give both, or none"
            )
        if self.own_share_only and self.budget_epsilon is None:
            raise PlanError(
                "the site's policy has own_share_only = true, which says how a budget is counted, "
                "and no budget; give budget_epsilon and budget_delta as well"
            )
        if self.rows == "hidden" and self.metrics == "public":
            raise PlanError(
                "the site's policy has rows = 'hidden' and metrics = 'public', which tell of the "
                "rows; give metrics = 'hidden' as well"
            )

    @property
    def room(self) -> PeerRules:
        """With whom this site lets its updates be summed."""
        return PeerRules(self.least_peers, self.peers, self.organisations)

    @property
    def reports(self) -> bool:
        """Return whether metrics of this site's rows may be told, if the plan shows them."""
        if self.metrics is not None:
            return self.metrics == "public"
        return self.budget_epsilon is None and self.rows != "hidden"

    @property
    def keeps(self) -> Keeps:
        """Everything that this site keeps of all that a client may be asked to tell."""
        return Keeps(not self.reports, self.rows == "hidden", self.noise is not None)

    def check(self, plan: Plan, fingerprint: str, rows: int) -> None:
        """Raise `PlanError` or `DataError` where this site takes no part at all."""
        known = self.fingerprints
        if known is not None and not any(fingerprint.startswith(part) for part in known):
            raise PlanError(
                f"the plan's fingerprint {fingerprint} is not among the fingerprints of the "
                f"site's policy; add it there once the plan has been reviewed"
            )
        if self.least_rows is not None and rows < self.least_rows:
            raise DataError(
                f"there are {rows} rows, but the site's policy asks for least_rows = "
                f"{self.least_rows}; give more rows, or change the policy"
            )
        if self.rows == "hidden" and plan.secure is None:
            self._check_rows(plan)
        if self.clip is not None:
            self._check_payload(plan)
        if self.room != PeerRules() and plan.secure is None:
            raise PlanError(
                "the site's policy says with whom its updates are summed (least_peers, peers, "
                "organisations), and this plan shows the server each update by itself; use a plan "
                "with SecureSum, or take those rules out"
            )
        if plan.secure is not None and (why := self.room.impossible(*sum_sizes(plan))):
            raise PlanError(f"no sum of this plan meets the site's policy: {why}")

    def _check_rows(self, plan: Plan) -> None:
        if plan.weighting != "equal":
            raise PlanError(
                f"the site's policy has rows = 'hidden', and a plan with weighting = "
                f"{plan.weighting!r} counts a client by its rows; use a plan with "
                f"weighting='equal', or SecureSum"
            )
        if plan.sampling.traits.replacement:
            raise PlanError(
                f"the site's policy has rows = 'hidden', and {plan.sampling} draws clients by "
                f"their rows; use a plan with another sampling"
            )

    def _check_payload(self, plan: Plan) -> None:
        contract = plan.stages.contracts[0]
        if contract.integer:
            raise PlanError(
                f"{plan.algorithm} sends integers, which the site's clip = {self.clip} cannot "
                f"bound; use an algorithm that sends real vectors"
            )
        scalars = [field.name for field in contract.fields if field.scalar]
        if self.noise is not None and scalars:
            raise PlanError(
                f"{plan.algorithm} sends {', '.join(scalars)} beside its vectors, which the "
                f"site's noise = {self.noise} does not cover; use an algorithm without"
            )
        if self.noise is not None and any(shared for *_, shared in plan.sharing.buffers):
            raise PlanError(
                f"the plan shares the model's buffers, which the site's noise = {self.noise} does "
                f"not cover; use GroupNorm, or keep them private with share='!*.bn.*'"
            )

    def closed(self, now: float) -> str | None:
        """Say why nothing new is begun at this time (seconds of the wall clock), or None."""
        if self.hours is None:
            return None
        begin, end = self.hours
        hour = datetime.fromtimestamp(now).hour
        within = begin <= hour < end if begin < end else hour >= begin or hour < end
        return None if within else f"the site's policy allows rounds from {begin}:00 to {end}:00"

    def guard(self, plan: Plan) -> Any:
        """Return the plan to train by: the given one, or one with clipped and noised updates."""
        return plan if self.clip is None else Guarded(plan, self)


@dataclass(frozen=True)
class Guarded:
    """A plan under a policy: what `local.train` reads of a plan, with the forced stages first."""

    plan: Plan
    policy: Policy

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plan, name)

    @property
    def veiled(self) -> bool:
        """Return whether what is sent hides something of this site: see `Plan.veiled`."""
        return self.policy.noise is not None or self.plan.veiled

    def encode(
        self,
        payload: Any,
        sent: tuple[Any, ...],
        memory: Any,
        key: Any,
        weights: Any,
        *,
        own: bool = False,
    ) -> tuple[dict[str, Any], tuple[Any, ...]]:
        """Clip, add noise, then the plan's own encoding.

        The noise comes from where all draws of the assignment come from (`site.secrets`).
        """
        contract, clip, noise = self.plan.stages.contracts[0], self.policy.clip, self.policy.noise
        assert clip is not None, "a policy without a bound guards nothing"
        forced, _ = clipped(contract.vectors(payload._asdict()), clip)
        if noise is not None:
            for name, v in forced.items():
                sources = clients_of(key, "forced", name)
                drawn = np.stack([normal(source, v.shape[-1]) for source in sources])
                forced[name] = (v + noise * clip * drawn).astype(v.dtype)
        return self.plan.encode(payload._replace(**forced), sent, memory, key, weights, own=own)


def read(path: str | Path) -> Policy:
    """Return the policy in a file.

    Raises `PlanError` for one that is missing, no TOML, or unknown.
    """
    path = Path(path)
    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise PlanError(f"the site's policy {path} cannot be read ({error}); repair it") from None
    known = [field.name for field in fields(Policy)]
    odd = [name for name in found if name not in known]
    if odd:
        raise PlanError(f"{path} has {odd[0]!r}, which is no rule; known are {', '.join(known)}")
    return Policy(**found)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _multiplier(value: Any) -> bool:
    return _positive(value) and LEAST <= value <= MOST


def _positive(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 < value < math.inf


def _small(value: Any) -> bool:
    return _positive(value) and value < 1


def _truth(value: Any) -> bool:
    return isinstance(value, bool)


def _some(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _study(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(STUDY_NAME[0], value) is not None


def _prints(value: Any) -> bool:
    return isinstance(value, tuple) and all(
        isinstance(part, str) and re.fullmatch(PREFIX, part) for part in value
    )


def _hours(value: Any) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) == 2
        and all(isinstance(h, int) and 0 <= h < 24 for h in value)
        and value[0] != value[1]
    )
