# SPDX-License-Identifier: Apache-2.0
"""Accounting for private releases together: ε at δ, and the noise or the rounds for a wanted ε.

The tight value is a privacy loss distribution (PLD) for sub-sampled Gaussians, a closed form
where no sampling helps, and Rényi divergence (RDP) where integers are released; RDP stands
beside each. All are upper bounds (Google's dp-accounting), under the neighbours that each charge
names: one bound is how far one client moves a sum, whatever the sampling is.

Which theorem a total rests on depends on what was settled before the first round. Losses of
sub-sampled rounds compose by a PLD where the settings of all rounds were fixed then; where earlier
outputs chose later settings that can be too low (`tests/privacy/test_adaptive.py` has a case by
nearly a half of δ). Gaussians alone are a Gaussian filter: a total Σ z⁻² that was bounded
beforehand is one Gaussian, whoever chose the parts (Smith and Thakurta 2022; Koskela et al. 2023).
A run that went back (`runs.rollback`, or a site's under a raised attempt), or was given another
number of rounds or another budget (`PrivacyLedger.theorem`), chose after a look how many rounds
there are. Where each round has one setting all along, nothing else was chosen: a round
that may or may not be is dominated by the round, and dominating pairs compose whatever was seen
(Zhu, Dong and Wang 2022, arXiv 2106.08567), so losses compose as before up to the most rounds that
a budget fixed beforehand affords; with other settings behind the return it is counted like another
run.
Several runs in one ledger are taken to depend on each other, so other releases of theirs are
counted by a Rényi filter (Feldman and Zrnic 2021; Lécuyer 2021): for one order fixed beforehand, a
sum of divergences that stays within what ε and δ allow is (ε, δ). The best order is known
afterwards only, so each of the nine in `FILTER` is given a ninth of δ: outcomes fall apart by the
order that is best at the end, and on each part the run is one that its order's filter let pass.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from typing import Any, Literal

import numpy as np

from muster.errors import PlanError
from muster.extras import require
from muster.privacy.distributed import bounds
from muster.privacy.gaussian import THINNEST, check_target, gaussian_epsilon
from muster.privacy.matrix import sensitivity
from muster.privacy.release import Charge, Release, Selection

__all__ = [
    "EVERYBODY",
    "Spent",
    "Theorem",
    "bound",
    "check_delta",
    "most_rounds",
    "noise_multiplier",
    "replacement",
    "rounds_for",
    "spent",
    "tree_epsilon",
    "zcdp_epsilon",
]

ORDERS = (*range(2, 65), 80, 96, 128, 192, 256, 512, 1024)  # integers, as Skellam's bound asks
EVERYBODY, GAUSSIAN = Selection(), Release("gaussian", 1.0, 1.0)
FILTER = (2, 3, 4, 6, 10, 16, 32, 64, 256)  # more would share δ among more
LOOSE = 100.0  # an epsilon above it promises nothing, and its PLD would be very large
STEPS = (3e-3, 1e-3, 3e-4, 1e-4)  # of a PLD's grid; every one of them gives an upper bound


Theorem = Literal["fixed settings", "one setting", "Gaussian filter", "Rényi filter"]
Ran = Literal["straight", "back", "several"]  # one run, one that went back, or as good as several


@dataclass(frozen=True)
class Spent:
    """ε at δ: the least proven one, the RDP value beside it, who computed it, and by what theorem.

    >>> spent([Charge(Release("gaussian", 7.0, 1.0), rounds=100)], 1e-6).accountant
    'exact'
    """

    epsilon: float
    rdp: float
    delta: float
    accountant: Literal["PLD", "RDP", "exact"]
    version: str
    theorem: Theorem = "fixed settings"


def spent(charges: Iterable[Charge], delta: float) -> Spent:
    """Return the privacy spent by all charges together on one client, by the theorem that holds.

    Rounds of one mechanism and selection compose; Poisson sampling amplifies a central
    Gaussian and nothing else. Rounds of one run under the matrix mechanism are one Gaussian.

    >>> poisson = Selection("poisson", 1e-3)
    >>> round(spent([Charge(Release("gaussian", 1.0, 1.0), poisson, 2000)], 1e-8).epsilon, 4)
    0.3628
    """
    check_target(1.0, delta)
    merged, ran = _merged(charges)
    return _spent(merged, ran, delta)


def replacement(charges: Iterable[Charge], delta: float) -> float:
    """Return ε where another client's update stood in its place: a move of twice the length.

    By a PLD under that relation for one run of sub-sampled Gaussians; else no sampling is counted
    on, which is never lower (joint convexity: given its coins, each round is one Gaussian).
    Infinite where half of the noise is none that floats can hold.

    >>> round(replacement([Charge(Release("gaussian", 1.0, 1.0))], 1e-5), 3)
    9.997
    >>> poisson = Charge(Release("gaussian", 1.0, 1.0), Selection("poisson", 0.3))
    >>> round(replacement([poisson], 1e-3), 2)
    2.02
    """
    merged, ran = _merged(charges)
    try:
        wide = (charge.doubled() for charge in merged)
        drawn = (replace(c, selection=replace(c.selection, seen=True)) for c in wide)
        plain = _spent(tuple(drawn), ran, delta)
    except PlanError:
        return math.inf
    drawing = any(charge.amplification < 1 for charge in merged)
    integers = any(charge.release.discrete for charge in merged)
    rdp = _rdp(merged, delta)
    if not drawing or integers or ran == "several" or 2 * rdp > LOOSE:
        return plain.epsilon
    losses = _pld(merged, _step(merged, rdp, delta), "REPLACE_ONE")
    return min(float(losses.get_epsilon_for_delta(delta)), plain.epsilon)


def bound(charges: Iterable[Charge], delta: float) -> float:
    """Return the RDP value alone, which costs little: never below the ε of `spent`.

    >>> round(bound([Charge(Release("gaussian", 7.0, 1.0), rounds=100)], 1e-6), 4)
    7.8581
    """
    merged, ran = _merged(charges)
    return _rdp(merged, delta, several=ran == "several")


def _merged(charges: Iterable[Charge]) -> tuple[tuple[Charge, ...], Ran]:
    """Equal charges as one with all their rounds, and how the runs went that they are of.

    Where a sampling keeps turns apart, rounds are those of one client: of all rounds of its run,
    whatever they were charged, so that changing the charge in between gains nothing.
    """
    counts: dict[Charge, int] = {}
    settings: dict[str, dict[str, set[tuple[Release, float, int]]]] = {}
    for _, same in groupby(charges, id):  # a ledger holds one object for equal charges
        charge, *more = same
        settled = (charge.release, charge.amplification, charge.selection.separation)
        settings.setdefault(charge.origin, {}).setdefault(charge.part, set()).add(settled)
        kept = charge.release.mechanism == "matrix" or charge.selection.separation > 1
        kind = replace(charge, rounds=1, run=charge.run if kept else "")
        counts[kind] = counts.get(kind, 0) + charge.rounds * (1 + len(more))
    whole: dict[str, int] = {}
    for kind, count in counts.items():
        whole[kind.run] = whole.get(kind.run, 0) + count
    return tuple(
        replace(kind, rounds=_turns(kind, count, whole[kind.run])) for kind, count in counts.items()
    ), _ran(settings)


def _ran(settings: Mapping[str, Mapping[str, set[tuple[Release, float, int]]]]) -> Ran:
    """How the runs of a ledger went, by the settings of each run's parts between its returns."""
    parts = [list(run.values()) for run in settings.values()]
    if len(parts) > 1 or any(part != run[0] for run in parts for part in run):
        return "several"
    return "back" if any(len(run) > 1 for run in parts) else "straight"


def _turns(charge: Charge, rounds: int, whole: int) -> int:
    """Return the rounds of a kind that one client takes part in, of so many of its run.

    The matrix mechanism counts turns itself: its rounds are not independent.
    """
    if charge.release.mechanism == "matrix":
        return rounds
    return min(rounds, charge.selection.turns(whole))


@lru_cache(maxsize=4096)
def _spent(charges: tuple[Charge, ...], ran: Ran, delta: float) -> Spent:
    _refuse_thin(charges)
    # Asked for here, as loading it costs more than the rest of this room together.
    version = str(require("importlib.metadata", extra="privacy").version("dp-accounting"))
    if not charges:
        return Spent(0.0, 0.0, delta, "exact", version)
    gaussians = not any(charge.release.discrete for charge in charges)
    if gaussians and all(charge.amplification == 1 for charge in charges):
        rdp, multiplier = _rdp(charges, delta), _together(charges)
        found = gaussian_epsilon(delta, multiplier)
        return Spent(found, rdp, delta, "exact", version, "Gaussian filter")
    several = ran == "several"
    rdp = _rdp(charges, delta, several=several)
    if several:
        return Spent(rdp, rdp, delta, "RDP", version, "Rényi filter")
    theorem: Theorem = "fixed settings" if ran == "straight" else "one setting"
    if not gaussians or rdp > LOOSE:
        return Spent(rdp, rdp, delta, "RDP", version, theorem)
    tight = float(_pld(charges, _step(charges, rdp, delta)).get_epsilon_for_delta(delta))
    return Spent(min(tight, rdp), rdp, delta, "PLD" if tight <= rdp else "RDP", version, theorem)


def _refuse_thin(charges: tuple[Charge, ...]) -> None:
    """Raise `PlanError` for noise whose ε would be a number of twenty digits, or overflow."""
    if charges and _together(charges) < THINNEST:
        worst = min(charges, key=_multiplier)
        raise PlanError(
            f"noise of multiplier {worst.release.multiplier:g} over {worst.rounds} rounds hides "
            f"nothing that an epsilon could say; give more noise, or none and no budget"
        )


def _together(charges: tuple[Charge, ...]) -> float:
    """Return the multiplier of the one Gaussian that all are, where no draw is counted on."""
    return float(sum(_multiplier(charge) ** -2 for charge in charges) ** -0.5)


def _library() -> Any:
    return require("dp_accounting", extra="privacy")


def _multiplier(charge: Charge) -> float:
    """Return the noise multiplier of all rounds of a charge taken as one Gaussian."""
    release = charge.release
    if release.mechanism == "matrix":
        reach = sensitivity(release.coefficients, charge.rounds, release.separation)
        return release.multiplier / reach
    return release.multiplier / math.sqrt(charge.rounds)


def _rdp(charges: tuple[Charge, ...], delta: float, *, several: bool = False) -> float:
    """Return the least ε over the lines of each integer mechanism; of several runs, by a filter.

    Gaussians alone need no more than the one order that is best for their total.
    """
    discrete = any(charge.release.discrete for charge in charges)
    several = several and (discrete or any(charge.amplification < 1 for charge in charges))
    lines = (0, -1) if discrete else (0,)
    room, found = require("dp_accounting.rdp", extra="privacy"), []
    orders: Any = FILTER if several else ORDERS if discrete else None
    if several:  # outcomes fall apart by the line, too
        delta /= len(FILTER) * len(lines)
    for line in lines:
        accountant = room.RdpAccountant(orders)
        curve: Any = np.zeros(len(accountant._orders))
        for charge in charges:
            event, rounds = _event(charge, line)
            curve = curve + rounds * _curve(event, orders)
        found.append(float(room.compute_epsilon(accountant._orders, curve, delta)[0]))
    return min(found)


def _event(charge: Charge, line: int) -> tuple[Any, int]:
    library, rate = _library(), charge.amplification
    if charge.release.discrete:
        return library.ZCDpEvent(*bounds(charge.release)[line]), charge.rounds
    if rate == 1:
        return library.GaussianDpEvent(_multiplier(charge)), 1
    gaussian = library.GaussianDpEvent(charge.release.multiplier)
    return library.PoissonSampledDpEvent(rate, gaussian), charge.rounds


@lru_cache(maxsize=4096)
def _curve(event: Any, orders: Any) -> Any:
    """Return the RDP of one event at every order, which costs much more than adding it up."""
    room = require("dp_accounting.rdp", extra="privacy")
    accountant, log = room.RdpAccountant(orders), logging.getLogger("absl")
    log.disabled, before = True, log.disabled  # it names orders that it rightly leaves out
    try:
        return accountant.compose(event)._rdp
    finally:
        log.disabled = before


def _step(charges: tuple[Charge, ...], rdp: float, delta: float) -> float:
    """Return the coarsest grid whose rounding adds no more than about 3·10⁻⁵ of ε.

    The dots of a grid add up to step²/4 of variance a round, against ε²/(2 ln 1/δ) in all.
    """
    rounds = sum(charge.rounds for charge in charges)
    finest = math.sqrt(3e-4 * rdp**2 / (2 * math.log(1 / delta)) / rounds)
    return next((step for step in STEPS if step <= finest), STEPS[-1])


def _pld(charges: tuple[Charge, ...], step: float, relation: str = "ADD_OR_REMOVE_ONE") -> Any:
    """Return the distribution of all losses together.

    Under "REPLACE_ONE" the library doubles how far a client moves.
    """
    total: Any = None
    for charge in charges:
        rate = charge.amplification
        if rate == 1:
            part = _one_pld(_multiplier(charge), 1.0, step, relation)
        else:
            one = _one_pld(charge.release.multiplier, rate, step, relation)
            part = one.self_compose(charge.rounds)
        total = part if total is None else total.compose(part)
    return total


@lru_cache(maxsize=16)
def _one_pld(multiplier: float, rate: float, step: float, relation: str) -> Any:
    room = require("dp_accounting.pld.privacy_loss_distribution", extra="privacy")
    return room.from_gaussian_mechanism(
        multiplier,
        sampling_prob=rate,
        value_discretization_interval=step,
        neighboring_relation=_library().NeighboringRelation[relation],
    )


@lru_cache(maxsize=256)
def noise_multiplier(
    epsilon: float,
    delta: float,
    rounds: int,
    selection: Selection = EVERYBODY,
    release: Release = GAUSSIAN,
) -> float:
    """Return the least multiplier, to one part in 10⁴, for so many rounds to spend ε at δ at most.

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
    """Narrow by regula falsi in logarithms, where ε is nearly a power of the multiplier."""
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
    """Return the most rounds of a release that spend at most ε at δ; 0 where one already passes it.

    >>> rounds_for(2.0, 1e-6, Release("gaussian", 20.0, 1.0))
    80
    """
    check_target(epsilon, delta)
    return most_rounds(
        lambda rounds: spent([Charge(release, selection, rounds)], delta).epsilon <= epsilon
    )


def most_rounds(fits: Callable[[int], bool]) -> int:
    """Return the largest number that fits, where no number above one that does not fit does.

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
    """Return ε at δ of a ρ-zCDP release, by RDP.

    >>> round(zcdp_epsilon(0.81, 1e-10), 4)
    8.9223
    """
    accountant = require("dp_accounting.rdp", extra="privacy").RdpAccountant()
    return float(accountant.compose(_library().ZCDpEvent(rho)).get_epsilon(delta))


def tree_epsilon(multiplier: float, rounds: int, delta: float) -> float:
    """Return ε at δ of tree aggregation in an epoch (Kairouz et al. 2021, 2103.00039), by RDP.

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
