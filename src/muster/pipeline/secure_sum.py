# SPDX-License-Identifier: Apache-2.0
"""SecureSum: nobody but a client sees its update; the server learns the sum of the survivors'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np

from muster.errors import PlanError
from muster.extras import require
from muster.keys import RandomSource
from muster.pipeline.stage import Contract, Stage
from muster.privacy.distributed import known_shares
from muster.types import ClientId

if TYPE_CHECKING:
    from muster.secagg import Frame, SessionTerms

__all__ = ["Bears", "SecureSum"]

SLACK = 1e-9  # a third of three is one, whatever floats say


class Bears(NamedTuple):
    """The numbers a session of `size` clients bears: colluders, losses, the least whose sum opens.

    >>> Bears(colluders=1, losses=1, minimum=3, size=4).least
    3
    """

    colluders: int
    losses: int
    minimum: int
    size: int

    @property
    def threshold(self) -> int:
        """The shares that open a secret where everybody shares with everybody."""
        return (self.size + self.colluders) // 2 + 1

    @property
    def least(self) -> int:
        """The fewest clients whose sum may be opened."""
        return max(self.minimum, self.threshold)

    @property
    def hides(self) -> bool:
        """Return whether a sum is left after the losses, of two honest clients at least."""
        return self.size - self.losses >= self.least and self.threshold - self.colluders >= 2


@dataclass(frozen=True)
class SecureSum(Stage):
    """Masks that cancel in the sum (Bonawitz et al. 2017, Bell et al. 2020); stands last.

    At least `minimum` clients' sum is opened, or none; the fraction `corrupt` of a cohort, one
    client at least, may lie or work for the server, which may itself deviate from the protocol in
    any way; the fraction `dropout` may fall silent. With `groups`, each round's cohort is divided
    at random, and the server learns the sum of each group: so a rule such as `TrimmedMean` can bear
    liars, and large cohorts cost less. A client whose group holds too many colluders is exposed;
    that a given one ever is, over all rounds of the plan, has at most the chance `exposure`, or the
    plan is refused. Training loss, steps and rows stay with the clients unless `metrics` is
    "public". Clients encode as before it and the server decodes the exact sum: the runtime runs the
    session (`muster.secagg`, extra `service`), so the model has the bits it would have without it.

    >>> SecureSum().minimum
    3
    """

    minimum: int = 3
    corrupt: float = 1 / 3
    dropout: float = 0.1
    metrics: Literal["hidden", "public"] = "hidden"
    groups: int = 1
    exposure: float = 1e-3
    needs_sum: ClassVar[bool] = True
    keeps_sum: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.minimum, int) or self.minimum < 3:
            raise PlanError(
                f"SecureSum(minimum={self.minimum!r}): a whole number of at least 3 clients is "
                f"needed; of two, each would know the other's update from the sum"
            )
        if not (0 <= self.corrupt < 1 and 0 <= self.dropout < 1):
            raise PlanError(
                f"SecureSum(corrupt={self.corrupt!r}, dropout={self.dropout!r}): two fractions of "
                f"a cohort are needed, such as 1/3 and 0.1"
            )
        if self.corrupt + 2 * self.dropout >= 1:
            raise PlanError(
                f"SecureSum(corrupt={self.corrupt!r}, dropout={self.dropout!r}): no threshold is "
                f"safe from so many who work with the server and bears so many losses; give "
                f"fractions with corrupt + 2·dropout < 1"
            )
        if not isinstance(self.groups, int) or self.groups < 1:
            raise PlanError(f"SecureSum(groups={self.groups!r}): a whole number above 0 is needed")
        if not 0 < self.exposure < 1:
            raise PlanError(
                f"SecureSum(exposure={self.exposure!r}): a chance such as 1e-3 is needed"
            )
        if self.metrics not in ("hidden", "public"):
            raise PlanError(f"SecureSum(metrics={self.metrics!r}): use 'hidden' or 'public'")

    def accept(self, contract: Contract) -> Contract:
        """Require bounded integers and a cap on the weight; behind it only the sum is seen."""
        loose = [field for field in contract.fields if not field.integer]
        if any(not field.scalar for field in loose):
            raise PlanError(
                f"SecureSum sums bounded integers, not {', '.join(f.name for f in loose)} as they "
                f"are; put Quantize(bits) before it"
            )
        if loose:
            raise PlanError(
                f"SecureSum cannot mask {', '.join(f.name for f in loose)}, one number a client "
                f"sends beside its vectors, which nothing bounds; use an algorithm that sends "
                f"vectors alone, such as FedAvg"
            )
        if contract.cap is None:
            raise PlanError(
                "SecureSum needs to know the largest weight; give Plan(cap=rows) with "
                "weighting='examples', or use weighting='equal'"
            )
        return replace(contract, visible=False)

    def frame(self, contract: Contract) -> Frame:
        """Return the frame in which a payload under this contract and its weight lie."""
        secagg = require("muster.secagg", extra="site")
        spans = []
        for field in contract.fields:
            most = 2 ** (field.bits - 1) - 1
            spans.append(secagg.Span(field.name, field.size, -most, most))
        frame: Frame = secagg.Frame(tuple(spans), int(contract.cap or 1))
        return frame

    def terms(
        self,
        frame: Frame,
        size: int,
        needed: int = 0,
        honest: int = 0,
        *,
        study: str,
        run: str,
        round: int,
        attempt: int = 1,
        plan: bytes,
        model: bytes,
    ) -> SessionTerms:
        """Return the terms of a session of `size` invited clients: a whole cohort, or one group.

        `needed`: the fewest replies that make the round count (`Plan.needed`), where that is more
        than the minimum and the cohort is one group: a sum that would not count is not opened.
        `honest`: the honest clients whose shares of noise are charged for (`Pipeline.
        honest_shares`): a sum is opened only where so many are surely in it, whoever survives.
        `plan` and `model` are digests of 32 bytes. Raises `PlanError` for too few clients to bear
        what the plan says, or too many for the ring.
        """
        bears = self.bears(size, needed, honest)
        if honest and size > (full := require("muster.secagg.graph", extra="site").FULL):
            raise PlanError(
                f"SecureSum: {size} clients were invited, and a sum of more than {full} may be "
                f"opened in parts, each with fewer shares of noise than are charged for: invite "
                f"at most {full} a round, or use LocalNoise"
            )
        if not bears.hides:
            whom = (
                "clients were invited"
                if self.groups == 1
                else f"clients are in one of {self.groups} groups"
            )
            enough = next(
                (n for n in range(size, 9 * size + 99) if self.bears(n, needed, honest).hides), 0
            )
            more = f"at least {enough} are required" if enough else "no number would do"
            raise PlanError(
                f"SecureSum: {size} {whom} and {more}, of whom {bears.colluders} may work with "
                f"the server and {bears.losses} be lost, since a sum of fewer than {bears.least} "
                f"is never opened: invite more, use fewer groups, or lower minimum, corrupt or "
                f"dropout{self._quieter(bears, honest)}"
            )
        secagg = require("muster.secagg", extra="site")
        terms: SessionTerms = secagg.SessionTerms(
            study,
            run,
            round,
            plan,
            model,
            frame.size,
            frame.most,
            cohort=size,
            minimum=bears.minimum,
            colluders=bears.colluders,
            losses=bears.losses,
            attempt=attempt,
        )
        return terms

    def _losses(self, size: int) -> int:
        """Count how many of a session's clients may be lost: of a small group one, not none."""
        if self.groups == 1:
            return int(self.dropout * size + SLACK)
        groups = require("muster.secagg.groups", extra="site")
        return int(groups.borne(self.dropout, size))

    def _colluders(self, count: int) -> int:
        """Count how many of so many clients may lie or work with the server: one, not none.

        Else a client that deals nonsense could not be told from those who complain about it.
        """
        return max(1, int(self.corrupt * count + SLACK))

    def bears(self, size: int, needed: int = 0, honest: int = 0) -> Bears:
        """Return the numbers that a session of so many clients bears.

        All its colluders may be among those who are left, and know their shares of the noise.
        """
        losses = self._losses(size)
        least = honest and honest + known_shares(size, self.corrupt)
        if self.groups == 1:
            return Bears(self._colluders(size), losses, max(self.minimum, needed, least), size)
        groups = require("muster.secagg.groups", extra="site")
        # As many as the draw of groups lets sit together but for a chance: see `chance`. A group
        # that is too small for one has no room for its losses then, and is refused (`hides`).
        colluders = max(1, size - groups.honest_needed(losses))
        least = honest and honest + max(colluders, known_shares(size, self.corrupt))
        return Bears(colluders, losses, max(self.minimum, least), size)

    def _quieter(self, bears: Bears, honest: int) -> str:
        """Say for how many survivors noise could be made instead; "" where it does not bind."""
        room = bears.size - bears.losses - known_shares(bears.size, self.corrupt)
        if not 1 <= room < honest:
            return ""
        fewer = next(
            n for n in range(bears.size, 0, -1) if n - known_shares(n, self.corrupt) <= room
        )
        return f", or make the noise for fewer survivors: DiscreteNoise(clients={fewer})"

    def check(
        self, frame: Frame, cohort: int, rounds: int, needed: int = 0, honest: int = 0
    ) -> None:
        """Raise `PlanError`, with the remedy, for a cohort that these settings do not hide."""
        nothing = bytes(32)
        about: Any = {"study": "", "run": "", "round": 0, "plan": nothing, "model": nothing}
        for size in (cohort // self.groups, -(-cohort // self.groups)):  # groups differ by one
            self.terms(frame, size, needed, honest, **about)
        chance = self.chance(cohort, rounds)
        if chance > self.exposure:
            groups = require("muster.secagg.groups", extra="site")
            colluders = self._colluders(cohort)
            try:
                most = groups.largest_count(cohort, colluders, self.dropout, rounds, self.exposure)
                remedy = f"use SecureSum(groups={most}), or fewer"
            except PlanError:
                remedy = "invite more clients"
            raise PlanError(
                f"SecureSum(groups={self.groups}) of {cohort} clients, {colluders} of whom may "
                f"work with the server: within {rounds} rounds a given client sits with too many "
                f"of them with a chance of {chance:.2g}, above exposure={self.exposure:g}; "
                f"{remedy}, or trust more of the clients: small groups for a rule and large "
                f"groups for secrecy exclude one another"
            )

    def chance(self, cohort: int, rounds: int) -> float:
        """Return the chance that a given client of such cohorts is ever exposed by its group."""
        if self.groups == 1:
            return 0.0
        groups = require("muster.secagg.groups", extra="site")
        honest = groups.honest_needed(self._losses(-(-cohort // self.groups)))
        once = groups.exposed(cohort, self._colluders(cohort), self.groups, honest)
        return float(groups.over(once, rounds))

    def split(
        self, cohort: Sequence[ClientId], key: RandomSource
    ) -> tuple[tuple[ClientId, ...], ...]:
        """Return the cohort in random groups of nearly one size, each in the cohort's order.

        >>> from muster.keys import key
        >>> [len(group) for group in SecureSum(groups=2).split("abcdefg", key(0))]
        [4, 3]
        """
        order = np.argsort(key.uniform(len(cohort)), kind="stable")
        parts = (np.sort(part).tolist() for part in np.array_split(order, self.groups))
        return tuple(tuple(cohort[i] for i in part) for part in parts)

    def nbytes(self, frame: Frame, cohort: int) -> int:
        """Count the bytes of one client's masked vector in a cohort of so many."""
        ring = require("muster.secagg", extra="site").IntegerRing
        size = max(1, -(-cohort // self.groups))
        return int(ring.of(size, frame.most).nbytes(frame.size))

    def facts(
        self, terms: SessionTerms, advertised: int, survivors: Sequence[ClientId]
    ) -> dict[str, Any]:
        """Return a round's notes of a sum: whose it is, and what it was safe from.

        `advertised` is the number of clients whose keys came, for whom the graph was made
        (`members`).
        `losses` are those it would have borne, `honest` the fewest honest clients in the sum (in a
        ring, in each part of it that can be told apart), `colluders` how many may be none.
        """
        graph = require("muster.secagg.answers", extra="site").graph_for(
            terms, advertised, bytes(32)
        )
        return {
            "clients": list(survivors),
            "survivors": len(survivors),
            "members": advertised,
            "threshold": graph.threshold,
            "degree": graph.degree,
            "colluders": terms.colluders,
            "losses": terms.losses if graph.order else advertised - graph.threshold,
            "honest": graph.honest,
            "bits": terms.ring.bits,
        }
