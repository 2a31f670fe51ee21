# SPDX-License-Identifier: Apache-2.0
"""The ε of noise in shares: what it takes for granted of others, and what it is without them.

A client's own share of the noise is the one that it knows to be there. The shares of others count
as far as the plan takes them not to work with the server (`SecureSum(corrupt=...)`), and nothing
shows a site that they do not. Its own share alone hides its update as well, if less: it is integer
noise that it adds before it sends, so ε by it alone holds whoever else is in the sum, and whether
or not the mask holds. Neighbours are those of zero-out in both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from muster.errors import PlanError
from muster.privacy.accounting import spent
from muster.privacy.release import Charge

__all__ = ["Assumed", "alone", "assumed", "epsilon_alone", "epsilon_as", "for_rows"]


@dataclass(frozen=True)
class Assumed:
    """That the noise of `others` besides a client's own is in each sum, of `shares` in all.

    The most of what any charge takes for granted.
    """

    others: int
    shares: int

    @property
    def text(self) -> str:
        """The same in a sentence."""
        return (
            f"it is assumed that of the {self.shares} shares of noise in each sum {self.others} "
            f"besides a client's own are of clients who do not work with the server "
            f"(SecureSum(corrupt=...)): nothing shows it"
        )


def assumed(charges: Iterable[Charge]) -> Assumed | None:
    """Return what these charges take for granted of others; None where they count own noise alone.

    >>> from muster.privacy.release import Release
    >>> charge = Charge(Release("skellam", 2.0, 100.0, 10, 36, known=12))
    >>> assumed([charge]), assumed([alone(charge)])
    (Assumed(others=23, shares=36), None)
    """
    found = {charge.release for charge in charges if charge.release.discrete}
    counted = [(one.survivors - one.known - 1, one.survivors) for one in found]
    others, shares = max(counted, default=(0, 0))
    return Assumed(others, shares) if others else None


def alone(charge: Charge) -> Charge:
    """Return the same charge by a client's own share of the noise: all others are known.

    >>> from muster.privacy.release import Release
    >>> alone(Charge(Release("skellam", 2.0, 100.0, 10, 36, known=12))).release.known
    35
    """
    release = charge.release
    if not release.discrete:
        return charge
    return replace(charge, release=replace(release, known=release.survivors - 1))


def epsilon_alone(charges: Iterable[Charge], delta: float) -> float:
    """ε at δ of all charges where only own shares count; infinite where that is no noise at all.

    >>> from muster.privacy.release import Release
    >>> charge = Charge(Release("discrete gaussian", 4.0, 100.0, 10, 4, known=1))
    >>> round(epsilon_alone([charge], 1e-5), 2), round(spent([charge], 1e-5).epsilon, 2)
    (2.17, 1.18)
    """
    return epsilon_as(charges, delta, own=True)


def for_rows(charges: Iterable[Charge], *, always: bool = False) -> tuple[Charge, ...]:
    """Return charges as they count for one row, where any of them is about rows, or `always`.

    Noise in shares is charged for an update that is this one or zero. A row that goes makes another
    update of it, which is as far from the first as twice its bound: half of the noise. Charges of
    which none is about rows are about updates, and stay what they are.

    >>> from muster.privacy.release import Release
    >>> rows = Charge(Release("gaussian", 2.0, 1.0))
    >>> shares = Charge(Release("skellam", 2.0, 100.0, 10, 36, known=12))
    >>> [charge.release.multiplier for charge in for_rows([rows, shares])]
    [2.0, 1.0]
    >>> for_rows([shares]) == (shares,)
    True
    """
    given = tuple(charges)
    if not (always or any(charge.release.trust == "central" for charge in given)):
        return given
    return tuple(charge.doubled() if charge.release.discrete else charge for charge in given)


def epsilon_as(charges: Iterable[Charge], delta: float, *, own: bool, rows: bool = False) -> float:
    """ε at δ of all charges of a client, as they count for one row where some are about `rows`.

    `own` shares alone count if so. Infinite where that is less noise than any accountant has a
    number for.

    >>> from muster.privacy.release import Release
    >>> rows = Charge(Release("gaussian", 2.0, 1.0))
    >>> shares = Charge(Release("skellam", 2.0, 100.0, 10, 36, known=12))
    >>> epsilon_as([rows, shares], 1e-5, own=False) > spent([rows, shares], 1e-5).epsilon
    True
    """
    try:
        counted = map(alone, charges) if own else charges
        return spent(for_rows(counted, always=rows), delta).epsilon
    except PlanError:
        return math.inf
