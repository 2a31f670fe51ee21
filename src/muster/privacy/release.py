# SPDX-License-Identifier: Apache-2.0
"""The release of one round, and to whom it can have listened: the facts an accountant needs."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Literal

from muster.errors import PlanError
from muster.privacy.gaussian import check_multiplier, is_number

__all__ = ["Charge", "Relation", "Release", "Selection"]

MECHANISMS = ("gaussian", "discrete gaussian", "skellam", "matrix", "local gaussian")
KINDS = ("all", "uniform", "poisson", "rotation", "deterministic")
WIDEST, LONGEST = 1e30, 10**15  # a norm, or a coefficient; rounds
PLACE = re.compile(r"#[0-9]+$")  # of a second stage with noise, behind the name of its run

Relation = Literal["zero-out", "add-or-remove", "another update"]


def _check_whole(name: str, value: int, said: str = "") -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LONGEST:
        raise PlanError(
            f"{said or f'{name} {value!r:.40}'}: a whole number above 0 is needed, at most "
            f"{LONGEST:,}"
        )


@dataclass(frozen=True)
class Release:
    """One round's noise, as the stage that adds it declares it.

    `multiplier` is the standard deviation of the noise over the L2 sensitivity, all fields of a
    payload together; `sensitivity` the L2 norm of what one client adds to the sum (in levels
    where `discrete`; None where the bound moves); `dimension` the coordinates `d`; `survivors`
    the replies whose noise must suffice, and `known` how many of their shares others know, who
    can take those off: they hide nothing; `coefficients` and `separation` those of the matrix
    mechanism. Raises `PlanError` for what no noise of floats can be.

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
    known: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "coefficients", tuple(self.coefficients))
        if self.mechanism not in MECHANISMS:
            raise PlanError(
                f"Release({self.mechanism!r}): no accountant knows this mechanism; "
                f"use one of {', '.join(MECHANISMS)}"
            )
        check_multiplier(self.multiplier)
        self._check_numbers()
        if self.discrete and not self.sensitivity:
            raise PlanError(f"{self.mechanism} noise needs an L2 sensitivity in levels; give it")
        if self.mechanism == "matrix" and not self.coefficients:
            raise PlanError("matrix noise needs its coefficients; give those of the stage")

    def _check_numbers(self) -> None:
        reach = self.sensitivity
        if reach is not None and not (is_number(reach) and 0 <= reach <= WIDEST):
            raise PlanError(
                f"L2 sensitivity {reach!r}: a number from 0 to {WIDEST:g} is needed, or None where "
                f"the bound moves; change the bound of Clip, or Plan(cap=...)"
            )
        for name in ("dimension", "survivors", "separation"):
            _check_whole(name, getattr(self, name))
        if self.known and not (isinstance(self.known, int) and 0 < self.known < self.survivors):
            raise PlanError(
                f"noise in shares of {self.survivors}, of which others know {self.known!r}: no "
                f"share that they do not know would be left; let more clients survive, or assume "
                f"that fewer work together"
            )
        if not all(is_number(c) and abs(c) <= WIDEST for c in self.coefficients):
            raise PlanError(
                f"matrix noise with coefficients {self.coefficients!r:.80}: finite numbers are "
                f"needed; give those of the stage"
            )

    @property
    def discrete(self) -> bool:
        """Return whether the noise is drawn as integers."""
        return self.mechanism in ("discrete gaussian", "skellam")

    @property
    def trust(self) -> str:
        """The party to be trusted: "central" (the server), "distributed" (its sum) or "local"."""
        if self.mechanism == "local gaussian":
            return "local"
        return "distributed" if self.discrete else "central"


@dataclass(frozen=True)
class Selection:
    """The selection of a round's clients: how, at what rate, proven under which neighbours.

    "zero-out": in one of two neighbours a client's update is zero, and nothing else differs: who
    is enrolled, who is drawn, what the sum is divided by. It moves a sum by one bound, whoever is
    drawn, and no draw makes it more private: whoever sees the cohort sees the client in it. A
    cohort of fixed size has no other proof with one bound, as a client that is added displaces
    another ("uniform"); a "rotation" would need a slot that is left vacant. A "deterministic" draw
    may be known to anybody, and no draw is counted on.
    "add-or-remove": a client has a coin and an update in one neighbour and not in the other, and
    the number that the sum is divided by is the same: for independent coins ("poisson") that
    nobody sees who is to be kept from knowing, and there alone a draw makes a release more private
    (Zhu and Wang 2019; Mironov et al. 2019). Where coins are `seen`, as masks need, it is zero-out.

    `separation`: a client takes part at most once in so many rounds.

    >>> Selection("uniform", 0.1).relation, Selection("poisson", 0.1).relation
    ('zero-out', 'add-or-remove')
    >>> Selection("poisson", 0.1, seen=True).amplification
    1.0
    """

    kind: Literal["all", "uniform", "poisson", "rotation", "deterministic"] = "all"
    rate: float = 1.0
    seen: bool = False
    separation: int = 1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise PlanError(
                f"sampling {self.kind!r} has no privacy accounting: a client may count more than "
                f"once or by its data; use Poisson(rate), Uniform(count), Rotation(slots) or All()"
            )
        if not (is_number(self.rate) and 0 < self.rate <= 1):
            raise PlanError(f"sampling rate {self.rate!r}: a number in (0, 1] is needed")
        _check_whole("separation", self.separation)

    @property
    def amplification(self) -> float:
        """The rate an accountant may use: below one for coins that nobody sees only."""
        return self.rate if self.kind == "poisson" and not self.seen else 1.0

    @property
    def relation(self) -> Relation:
        """The relation of two neighbouring data sets."""
        return "add-or-remove" if self.amplification < 1 else "zero-out"

    def turns(self, rounds: int) -> int:
        """Count how often a client takes part in so many rounds in a row, at most.

        >>> Selection("rotation", 0.25, separation=4).turns(9)
        3
        """
        return -(-rounds // self.separation)


@dataclass(frozen=True)
class Charge:
    """A charge: so many rounds of one release under one selection.

    `run` is the name of the run, which tells its noise, and its settings, from another's. Behind a
    "/" stands what else tells entries of one run apart, behind a "#" the number of a stage.
    """

    release: Release
    selection: Selection = Selection()
    rounds: int = 1
    run: str = ""

    def __post_init__(self) -> None:
        _check_whole("rounds", self.rounds, f"Charge(rounds={self.rounds!r:.40})")

    @property
    def amplification(self) -> float:
        """The rate that helps: none for noise in replies, whose senders the server sees."""
        central = self.release.mechanism == "gaussian"
        return self.selection.amplification if central else 1.0

    @property
    def relation(self) -> Relation:
        """The relation of two neighbouring data sets: the selection's, or any two updates."""
        if self.release.trust == "local":
            return "another update"
        return "add-or-remove" if self.amplification < 1 else "zero-out"

    @property
    def origin(self) -> str:
        """The run alone.

        >>> Charge(Release("gaussian", 1.0, 1.0), run="heart-1f/3#2").origin
        'heart-1f'
        """
        return PLACE.sub("", self.run.partition("/")[0])

    @property
    def part(self) -> str:
        """Which part of its run: it went back between two of them (a server's, or its attempt).

        >>> [Charge(Release("gaussian", 1.0, 1.0), run=name).part for name in ("a", "a/2", "a/1/m")]
        ['', '2', '1']
        """
        return PLACE.sub("", self.run.partition("/")[2].partition("/")[0])

    def continued(self) -> Charge:
        """Return the charge of a round that follows rounds which another one has followed, too.

        Correlated noise takes rows of the rounds before back, so a second release of a round holds
        what its client added to those, too: the sum of all coefficients at most, in each round.
        Rows of its own are independent of the first release's, so their squares add up.

        >>> noise = Release("matrix", 8.0, 1.0, coefficients=(1.0, 0.5))
        >>> Charge(noise).continued().release.coefficients
        (1.5,)
        """
        release = self.release
        if release.mechanism != "matrix":
            return self
        reach = float(sum(map(abs, release.coefficients)))
        return replace(self, release=replace(release, coefficients=(reach,), separation=1))

    def again(self, place: str) -> Charge:
        """Return the charge of another release of the same round, in a part of its run of its own.

        >>> Charge(Release("gaussian", 1.0, 1.0), run="a/2#2").again("b").run
        'a/2~b#2'
        """
        stage = PLACE.search(self.run)
        run = f"{self.origin}/{self.part}~{place}{stage.group() if stage else ''}"
        return replace(self.continued(), run=run)

    def doubled(self) -> Charge:
        """Return the same noise against a move of twice the length: another update in its place.

        Raises `PlanError` where half of the multiplier is too little for floats.
        """
        if self.relation == "another update":
            return self
        release, reach = self.release, self.release.sensitivity
        wider: Any = {"multiplier": release.multiplier / 2}
        if reach is not None:
            wider["sensitivity"] = 2 * reach
        return replace(self, release=replace(release, **wider))
