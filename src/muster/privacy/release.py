# SPDX-License-Identifier: Apache-2.0
"""What one round releases, and to whom it can have listened: the facts an accountant needs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from muster.errors import PlanError

__all__ = ["Charge", "Release", "Selection"]

MECHANISMS = ("gaussian", "discrete gaussian", "skellam", "matrix", "local gaussian")
KINDS = ("all", "uniform", "poisson")


@dataclass(frozen=True)
class Release:
    """One round's noise, as the stage that adds it declares it.

    `multiplier` is the standard deviation of the noise over the L2 sensitivity, all fields of a
    payload together; `sensitivity` the L2 norm of what one client adds to the sum (in levels
    where `discrete`; None where the bound moves); `dimension` the coordinates `d`; `survivors`
    the replies whose noise must suffice; `coefficients` and `separation` those of the matrix
    mechanism.

    >>> Release("gaussian", 1.0, 0.5).multiplier
    1.0
    """

    mechanism: Literal["gaussian", "discrete gaussian", "skellam", "matrix", "local gaussian"]
    multiplier: float
    sensitivity: float | None
    dimension: int = 1
    survivors: int = 1
    coefficients: tuple[float, ...] = ()
    separation: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "coefficients", tuple(self.coefficients))
        if self.mechanism not in MECHANISMS:
            raise PlanError(
                f"Release({self.mechanism!r}): no accountant knows this mechanism; "
                f"use one of {', '.join(MECHANISMS)}"
            )
        if not 0 < self.multiplier < math.inf:
            raise PlanError(
                f"noise multiplier {self.multiplier!r}: a finite number above 0 is needed; "
                f"without noise nothing is private"
            )
        if self.discrete and not self.sensitivity:
            raise PlanError(f"{self.mechanism} noise needs an L2 sensitivity in levels; give it")
        if self.mechanism == "matrix" and not self.coefficients:
            raise PlanError("matrix noise needs its coefficients; give those of the stage")

    @property
    def discrete(self) -> bool:
        """Whether the noise is drawn as integers."""
        return self.mechanism in ("discrete gaussian", "skellam")

    @property
    def trust(self) -> str:
        """Who must be trusted: "central" (the server), "distributed" (its sum) or "local"."""
        if self.mechanism == "local gaussian":
            return "local"
        return "distributed" if self.discrete else "central"


@dataclass(frozen=True)
class Selection:
    """How a round's clients were drawn: "all", "uniform" or "poisson", and with what rate.

    Only independent coins that nobody sees ("poisson") make a release more private than the
    one mechanism it is. A cohort of fixed size has no such proof under add-or-remove neighbours
    and is accounted as if each client took part in each round.

    >>> Selection("uniform", 0.1).amplification, Selection("poisson", 0.1).amplification
    (1.0, 0.1)
    """

    kind: Literal["all", "uniform", "poisson"] = "all"
    rate: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise PlanError(
                f"sampling {self.kind!r} has no privacy accounting: a client may count more than "
                f"once or by its data; use Poisson(rate), Uniform(count) or All()"
            )
        if not 0 < self.rate <= 1:
            raise PlanError(f"sampling rate {self.rate!r}: a number in (0, 1] is needed")

    @property
    def amplification(self) -> float:
        """The rate an accountant may use: below one for Poisson sampling only."""
        return self.rate if self.kind == "poisson" else 1.0


@dataclass(frozen=True)
class Charge:
    """So many rounds of one release under one selection.

    `run` keeps the noise of one run apart from another's where rounds are correlated.
    """

    release: Release
    selection: Selection = Selection()
    rounds: int = 1
    run: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.rounds, int) or self.rounds < 1:
            raise PlanError(f"Charge(rounds={self.rounds!r}): a whole number above 0 is needed")
