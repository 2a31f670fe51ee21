# SPDX-License-Identifier: Apache-2.0
"""How private releases are together: ε at δ, and the noise or the rounds for a wanted ε.

The tight value is a privacy loss distribution (PLD) for sub-sampled Gaussians, a closed form
where no sampling helps, and Rényi divergence (RDP) where integers are released; RDP stands
beside each. All are upper bounds, under add-or-remove neighbours (Google's dp-accounting).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from typing import Any, Literal

import numpy as np

from muster.errors import PlanError
from muster.extras import require
from muster.privacy.distributed import bounds
from muster.privacy.gaussian import check_target, gaussian_epsilon
from muster.privacy.matrix import sensitivity
from muster.privacy.release import Charge, Release, Selection

__all__ = [
    "EVERYBODY",
    "Spent",
    "bound",
    "check_delta",
    "most_rounds",
    "noise_multiplier",
    "rounds_for",
    "spent",
    "tree_epsilon",
    "zcdp_epsilon",
]

ORDERS = (*range(2, 65), 80, 96, 128, 192, 256, 512, 1024)  # integers, as Skellam's bound asks
EVERYBODY, GAUSSIAN = Selection(), Release("gaussian", 1.0, 1.0)
LOOSE = 100.0  # an epsilon above it promises nothing, and its PLD would be very large
STEPS = (3e-3, 1e-3, 3e-4, 1e-4)  # of a PLD's grid; every one of them gives an upper bound


@dataclass(frozen=True)
class Spent:
    """ε at δ: the least proven one, the RDP value beside it, and who computed it.

    >>> spent([Charge(Release("gaussian", 7.0, 1.0), rounds=100)], 1e-6).accountant
    'exact'
    """

    epsilon: float
    rdp: float
    delta: float
    accountant: Literal["PLD", "RDP", "exact"]
    version: str


def spent(charges: Iterable[Charge], delta: float) -> Spent:
    """What all charges reveal together about one client.

    Rounds of one mechanism and selection compose; Poisson sampling amplifies a central
    Gaussian and nothing else. Rounds of one run under the matrix mechanism are one Gaussian.

    >>> poisson = Selection("poisson", 1e-3)
    >>> round(spent([Charge(Release("gaussian", 1.0, 1.0), poisson, 2000)], 1e-8).epsilon, 4)
    0.3628
    """
    check_target(1.0, delta)
    merged: dict[Charge, int] = {}
    for _, same in groupby(charges, id):  # a ledger holds one object for equal charges
        charge, *more = same
        run = charge.run if charge.release.mechanism == "matrix" else ""
        kind = replace(charge, rounds=1, run=run)
        merged[kind] = merged.get(kind, 0) + charge.rounds * (1 + len(more))
    return _spent(tuple(replace(kind, rounds=count) for kind, count in merged.items()), delta)


def bound(charges: Iterable[Charge], delta: float) -> float:
    """The RDP value alone, which costs little: never below the ε of `spent`.

    >>> round(bound([Charge(Release("gaussian", 7.0, 1.0), rounds=100)], 1e-6), 4)
    7.8581
    """
    return _rdp(tuple(charges), delta)


@lru_cache(maxsize=4096)
def _spent(charges: tuple[Charge, ...], delta: float) -> Spent:
    rdp = _rdp(charges, delta)
    # Asked for here, as loading it costs more than the rest of this room together.
    version = str(require("importlib.metadata", extra="privacy").version("dp-accounting"))
    if not charges:
        return Spent(0.0, 0.0, delta, "exact", version)
    if any(charge.release.discrete for charge in charges):
        return Spent(rdp, rdp, delta, "RDP", version)
    if all(_amplification(charge) == 1 for charge in charges):
        multiplier = sum(_multiplier(charge) ** -2 for charge in charges) ** -0.5
        return Spent(gaussian_epsilon(delta, multiplier), rdp, delta, "exact", version)
    if rdp > LOOSE:
        return Spent(rdp, rdp, delta, "RDP", version)
    tight = float(_pld(charges, _step(charges, rdp, delta)).get_epsilon_for_delta(delta))
    return Spent(min(tight, rdp), rdp, delta, "PLD" if tight <= rdp else "RDP", version)


def _library() -> Any:
    return require("dp_accounting", extra="privacy")


def _amplification(charge: Charge) -> float:
    """The rate that helps: the server sees who sent a local or a masked reply."""
    central = charge.release.mechanism == "gaussian"
    return charge.selection.amplification if central else 1.0


def _multiplier(charge: Charge) -> float:
    """The noise multiplier of all rounds of a charge taken as one Gaussian."""
    release = charge.release
    if release.mechanism == "matrix":
        reach = sensitivity(release.coefficients, charge.rounds, release.separation)
        return release.multiplier / reach
    return release.multiplier / math.sqrt(charge.rounds)


def _rdp(charges: tuple[Charge, ...], delta: float) -> float:
    """The least ε over the lines that bound each integer mechanism."""
    discrete = any(charge.release.discrete for charge in charges)
    room, found = require("dp_accounting.rdp", extra="privacy"), []
    for line in (0, -1) if discrete else (0,):
        accountant = room.RdpAccountant(ORDERS if discrete else None)
        curve: Any = np.zeros(len(accountant._orders))
        for charge in charges:
            event, rounds = _event(charge, line)
            curve = curve + rounds * _curve(event, discrete)
        found.append(float(room.compute_epsilon(accountant._orders, curve, delta)[0]))
    return min(found)


def _event(charge: Charge, line: int) -> tuple[Any, int]:
    library, rate = _library(), _amplification(charge)
    if charge.release.discrete:
        return library.ZCDpEvent(*bounds(charge.release)[line]), charge.rounds
    if rate == 1:
        return library.GaussianDpEvent(_multiplier(charge)), 1
    gaussian = library.GaussianDpEvent(charge.release.multiplier)
    return library.PoissonSampledDpEvent(rate, gaussian), charge.rounds


@lru_cache(maxsize=4096)
def _curve(event: Any, discrete: bool) -> Any:
    """The RDP of one event at every order, which costs much more than adding it up."""
    room = require("dp_accounting.rdp", extra="privacy")
    accountant, log = room.RdpAccountant(ORDERS if discrete else None), logging.getLogger("absl")
    log.disabled, before = True, log.disabled  # it names orders that it rightly leaves out
    try:
        return accountant.compose(event)._rdp
    finally:
        log.disabled = before


def _step(charges: tuple[Charge, ...], rdp: float, delta: float) -> float:
    """The coarsest grid whose rounding adds no more than about 3·10⁻⁵ of ε.

    The dots of a grid add up to step²/4 of variance a round, against ε²/(2 ln 1/δ) in all.
    """
    rounds = sum(charge.rounds for charge in charges)
    finest = math.sqrt(3e-4 * rdp**2 / (2 * math.log(1 / delta)) / rounds)
    return next((step for step in STEPS if step <= finest), STEPS[-1])


def _pld(charges: tuple[Charge, ...], step: float) -> Any:
    total: Any = None
    for charge in charges:
        rate = _amplification(charge)
        if rate == 1:
            part = _one_pld(_multiplier(charge), 1.0, step)
        else:
            part = _one_pld(charge.release.multiplier, rate, step).self_compose(charge.rounds)
        total = part if total is None else total.compose(part)
    return total


@lru_cache(maxsize=16)
def _one_pld(multiplier: float, rate: float, step: float) -> Any:
    room = require("dp_accounting.pld.privacy_loss_distribution", extra="privacy")
    return room.from_gaussian_mechanism(
        multiplier, sampling_prob=rate, value_discretization_interval=step
    )


@lru_cache(maxsize=256)
def noise_multiplier(
    epsilon: float,
    delta: float,
    rounds: int,
    selection: Selection = EVERYBODY,
    release: Release = GAUSSIAN,
) -> float:
    """The least multiplier, to one part in 10⁴, with which so many rounds spend at most ε at δ.

    >>> round(noise_multiplier(2.0, 1e-6, 1000, Selection("poisson", 0.01)), 3)
    1.029
    """
    check_target(epsilon, delta)

    def cost(multiplier: float) -> float:
        charge = Charge(replace(release, multiplier=multiplier), selection, rounds)
        return spent([charge], delta).epsilon

    low, high = 1.0, 1.0
    while cost(high) > epsilon:
        low, high = high, high * 2
    while low == high or cost(low) <= epsilon:
        low, high = low / 2, low
    return _narrowed(cost, epsilon, low, high)


def _narrowed(cost: Callable[[float], float], epsilon: float, low: float, high: float) -> float:
    """Regula falsi in logarithms, where ε is nearly a power of the multiplier."""
    while high > low * (1 + 1e-4):
        above, below = math.log(cost(low) / epsilon), math.log(cost(high) / epsilon)
        guess = low * (high / low) ** (above / (above - below))
        # A guess at an end is pushed past the root, so that both ends close in.
        guess = min(max(guess, low * (1 + 5e-5)), high / (1 + 5e-5))
        low, high = (low, guess) if cost(guess) <= epsilon else (guess, high)
    return high


def rounds_for(
    epsilon: float, delta: float, release: Release, selection: Selection = EVERYBODY
) -> int:
    """The most rounds of a release that spend at most ε at δ; 0 where one already passes it.

    >>> rounds_for(2.0, 1e-6, Release("gaussian", 20.0, 1.0))
    80
    """
    check_target(epsilon, delta)
    return most_rounds(
        lambda rounds: spent([Charge(release, selection, rounds)], delta).epsilon <= epsilon
    )


def most_rounds(fits: Callable[[int], bool]) -> int:
    """The largest number that fits, where no number above one that does not fit does.

    >>> most_rounds(lambda rounds: rounds <= 80)
    80
    """
    low, high = 0, 1
    while fits(high):
        low, high = high, high * 2
        if high > 1 << 24:
            return low  # for all that a federation will ever run, the budget is never spent
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def check_delta(delta: float, count: int, unit: str = "client") -> None:
    """Raise `PlanError` for a δ with which publishing one of so many units would be allowed.

    >>> check_delta(1e-6, 1000)
    """
    check_target(1.0, delta)
    if delta * count >= 1:
        raise PlanError(
            f"delta={delta!r} with {count} {unit}s: it must lie below 1/{count}, or a method "
            f"that publishes one {unit} whole would pass; use {count**-1.1:.2g}"
        )


def zcdp_epsilon(rho: float, delta: float) -> float:
    """ε at δ of a ρ-zCDP release, by RDP.

    >>> round(zcdp_epsilon(0.81, 1e-10), 4)
    8.9223
    """
    accountant = require("dp_accounting.rdp", extra="privacy").RdpAccountant()
    return float(accountant.compose(_library().ZCDpEvent(rho)).get_epsilon(delta))


def tree_epsilon(multiplier: float, rounds: int, delta: float) -> float:
    """ε at δ of tree aggregation in one epoch (Kairouz et al. 2021, arXiv 2103.00039), by RDP.

    Neighbours: one client's update replaced by zero.

    >>> round(tree_epsilon(5.0, 1024, 1e-6), 4)
    3.3003
    """
    library = _library()
    accountant = require("dp_accounting.rdp", extra="privacy").RdpAccountant(
        neighboring_relation=library.NeighboringRelation.REPLACE_SPECIAL
    )
    event = library.SingleEpochTreeAggregationDpEvent(multiplier, rounds)
    return float(accountant.compose(event).get_epsilon(delta))
