# SPDX-License-Identifier: Apache-2.0
"""The site's policy, from `site.toml`: what this site takes part in, whatever the server asks.

    fingerprints = ["3fa9…"]     only these plans, by the first 12 digits or more
    least_rows = 50              no training on fewer rows
    rounds_per_day = 20          no more new rounds on one day (local time)
    hours = [22, 6]              new rounds from this hour until that one only (local time)
    clip = 1.0                   the L2 bound of an update, before the plan's own pipeline
    noise = 0.8                  Gaussian noise of standard deviation noise · clip, likewise
    budget_epsilon = 8.0         no new round beyond this ε, by the noise that is added at the site
    budget_delta = 1e-6          its δ
    ledger = "privacy.json"      the file of the site's own ledger, for all runs on these rows

A forced clip and noise come first and on the unweighted payload, so that all that the plan does
afterwards works on what the policy lets out. The noise is drawn from the operating system.
"""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from muster.errors import DataError, PlanError
from muster.extras import require
from muster.pipeline.clip import clipped
from muster.plan import Plan

if TYPE_CHECKING:
    from cryptography.hazmat.primitives import ciphers
    from cryptography.hazmat.primitives.ciphers import algorithms, modes
else:
    ciphers = require("cryptography.hazmat.primitives.ciphers", extra="service")
    algorithms = require("cryptography.hazmat.primitives.ciphers.algorithms", extra="service")
    modes = require("cryptography.hazmat.primitives.ciphers.modes", extra="service")

__all__ = ["Guarded", "Policy", "gaussian", "read"]

PREFIX = r"[0-9a-f]{12,64}"


@dataclass(frozen=True)
class Policy:
    """What a site takes part in; a field that is None rules nothing.

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
    ledger: str | None = None

    def __post_init__(self) -> None:
        for name in ("fingerprints", "hours"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        rules = (
            ("fingerprints", _prints, "a list of fingerprints, each of 12 to 64 digits 0-9 a-f"),
            ("least_rows", _count, "a whole number above 0"),
            ("rounds_per_day", _count, "a whole number above 0"),
            ("hours", _hours, "two different hours from 0 to 23, such as [22, 6]"),
            ("clip", _positive, "a number above 0"),
            ("noise", _positive, "a number above 0"),
            ("budget_epsilon", _positive, "a number above 0"),
            ("budget_delta", _small, "a number in (0, 1), below one over the rows or clients"),
            ("ledger", _name, "the name of a file"),
        )
        for name, fits, wanted in rules:
            value = getattr(self, name)
            if value is not None and not fits(value):
                raise PlanError(f"the site's policy has {name} = {value!r}; give {wanted}")
        if self.noise is not None and self.clip is None:
            raise PlanError(
                f"the site's policy has noise = {self.noise} without a bound; give clip as well"
            )

        if (self.budget_epsilon is None) != (self.budget_delta is None):
            raise PlanError(
                f"the site's policy has budget_epsilon = {self.budget_epsilon} and budget_delta = "
                f"{self.budget_delta}; give both, or none"
            )

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
        if self.clip is not None:
            self._check_payload(plan)

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

    def declines(self, now: float, taken: int) -> str | None:
        """Why no new round is taken on now (seconds of the wall clock), or None.

        `taken` are the rounds of today, without one that is only resumed.
        """
        if self.rounds_per_day is not None and taken >= self.rounds_per_day:
            return f"the site's policy allows {self.rounds_per_day} rounds a day"
        if self.hours is not None:
            begin, end = self.hours
            hour = datetime.fromtimestamp(now).hour
            within = begin <= hour < end if begin < end else hour >= begin or hour < end
            if not within:
                return f"the site's policy allows rounds from {begin}:00 to {end}:00"
        return None

    def guard(self, plan: Plan, entropy: Callable[[int], bytes] = os.urandom) -> Any:
        """The plan to train by: the given one, or one whose updates are clipped and noised."""
        return plan if self.clip is None else Guarded(plan, self, entropy)


@dataclass(frozen=True)
class Guarded:
    """A plan under a policy: what `local.train` reads of a plan, with the forced stages first."""

    plan: Plan
    policy: Policy
    entropy: Callable[[int], bytes] = os.urandom

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plan, name)

    def encode(
        self, payload: Any, sent: tuple[Any, ...], memory: Any, key: Any, weights: Any
    ) -> tuple[dict[str, Any], tuple[Any, ...]]:
        """Clip, add noise, then the plan's own encoding."""
        contract, clip, noise = self.plan.stages.contracts[0], self.policy.clip, self.policy.noise
        assert clip is not None, "a policy without a bound guards nothing"
        forced = contract.vectors(clipped(payload._asdict(), contract, clip)[0])
        if noise is not None:
            for name, v in forced.items():
                drawn = gaussian(v.size, self.entropy).reshape(v.shape)
                forced[name] = (v + noise * clip * drawn).astype(v.dtype)
        return self.plan.encode(payload._replace(**forced), sent, memory, key, weights)


def read(path: str | Path) -> Policy:
    """The policy in a file. Raises `PlanError` for one that is missing, no TOML, or unknown."""
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


def gaussian(size: int, entropy: Callable[[int], bytes] = os.urandom) -> Any:
    """`(size,)` standard normal numbers from 32 bytes of the system, by AES-CTR and Box-Muller."""
    half = (size + 1) // 2
    cipher = ciphers.Cipher(algorithms.AES256(entropy(32)), modes.CTR(bytes(16))).encryptor()
    words = np.frombuffer(cipher.update(bytes(16 * half)), np.uint64) >> np.uint64(11)
    first, second = ((words + 0.5) * 2.0**-53).reshape(2, half)  # in (0, 1)
    radius, angle = np.sqrt(-2 * np.log(first)), 2 * np.pi * second
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:size]


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _positive(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 < value < math.inf


def _small(value: Any) -> bool:
    return _positive(value) and value < 1


def _name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


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
