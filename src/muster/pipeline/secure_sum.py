# SPDX-License-Identifier: Apache-2.0
"""SecureSum: nobody but a client sees its update; the server learns the sum of the survivors'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from muster.errors import PlanError
from muster.extras import require
from muster.keys import Source
from muster.pipeline.stage import Contract, Stage
from muster.types import ClientId

if TYPE_CHECKING:
    from muster.secagg import Frame, Terms

__all__ = ["SecureSum"]


@dataclass(frozen=True)
class SecureSum(Stage):
    """Masks that cancel in the sum (Bonawitz et al. 2017, Bell et al. 2020); stands last.

    At least `minimum` clients' sum is opened, or none; the fraction `corrupt` of a cohort may
    work for the server, the fraction `dropout` may fall silent; `malicious`: also against a
    server that deviates from the protocol. With `groups`, each round's cohort is divided at
    random, and the server learns the sum of each group: so a rule such as `TrimmedMean` can bear
    liars, and large cohorts cost less. Training loss, steps and rows stay with the clients unless
    `metrics` is "public". Clients encode as before it and the server decodes the exact
    sum: the runtime runs the session (`muster.secagg`, extra `service`), so the model has the
    bits it would have without it.

    >>> SecureSum().minimum
    3
    """

    minimum: int = 3
    corrupt: float = 1 / 3
    dropout: float = 0.1
    malicious: bool = False
    metrics: Literal["hidden", "public"] = "hidden"
    groups: int = 1
    needs_sum: ClassVar[bool] = True
    keeps_sum: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.minimum, int) or self.minimum < 2:
            raise PlanError(
                f"SecureSum(minimum={self.minimum!r}): a whole number of at least 2 clients is "
                f"needed, or their sum is one client's update"
            )
        reach = self.corrupt + self.dropout * (2 if self.malicious else 1)
        if not (0 <= self.corrupt < 1 and 0 <= self.dropout < 1 and reach <= 0.9):
            raise PlanError(
                f"SecureSum(corrupt={self.corrupt!r}, dropout={self.dropout!r}, "
                f"malicious={self.malicious!r}): no threshold is safe from the one and bears the "
                f"other; give fractions with corrupt + dropout ≤ 0.9 (malicious: + 2·dropout)"
            )
        if not isinstance(self.groups, int) or self.groups < 1:
            raise PlanError(f"SecureSum(groups={self.groups!r}): a whole number above 0 is needed")
        if self.metrics not in ("hidden", "public"):
            raise PlanError(f"SecureSum(metrics={self.metrics!r}): use 'hidden' or 'public'")

    def accept(self, contract: Contract) -> Contract:
        """Needs bounded integers and a cap on the weight; behind it only the sum is seen."""
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
        """How a payload under this contract and its weight lie in one vector."""
        secagg = require("muster.secagg", extra="service")
        spans = []
        for field in contract.fields:
            most = 2 ** (field.bits - 1) - 1
            spans.append(secagg.Span(field.name, field.size, -most, most))
        frame: Frame = secagg.Frame(tuple(spans), int(contract.cap or 1))
        return frame

    def terms(
        self, frame: Frame, *, run: str, round: int, plan: bytes, model: bytes, cohort: int,
        needed: int = 0,
    ) -> Terms:  # fmt: skip
        """What a session of a round with `cohort` invited is about; plan and model are digests.

        `needed`: the fewest replies that make the round count (`Plan.needed`), where that is
        more than the minimum: one sum that would not count is not opened. Raises `PlanError` for
        a cohort (or group) below the minimum, or too large for the ring.
        """
        least = max(self.minimum, needed) if self.groups == 1 else self.minimum
        if cohort // self.groups < least:
            each = "" if self.groups == 1 else f" in each of {self.groups} groups"
            raise PlanError(
                f"SecureSum: {cohort} clients were invited and {least} are required{each}; invite "
                f"more, or lower the minimum"
            )
        cohort = self.largest(cohort)
        secagg = require("muster.secagg", extra="service")
        terms: Terms = secagg.Terms(
            run, round, plan, model, frame.size, frame.most, cohort, least,
            self.corrupt, self.dropout, self.malicious,
        )  # fmt: skip
        return terms

    def largest(self, cohort: int) -> int:
        """The most clients of a cohort in one group."""
        return -(-cohort // self.groups)

    def split(self, cohort: Sequence[ClientId], key: Source) -> tuple[tuple[ClientId, ...], ...]:
        """The cohort in random groups of nearly one size, each in the cohort's order.

        >>> from muster.keys import key
        >>> [len(group) for group in SecureSum(groups=2).split("abcdefg", key(0))]
        [4, 3]
        """
        order = np.argsort(key.uniform(len(cohort)), kind="stable")
        parts = (np.sort(part).tolist() for part in np.array_split(order, self.groups))
        return tuple(tuple(cohort[i] for i in part) for part in parts)

    def nbytes(self, frame: Frame, cohort: int) -> int:
        """Bytes of one client's masked vector in a cohort of so many."""
        ring = require("muster.secagg", extra="service").Ring.of(self.largest(cohort), frame.most)
        return int(ring.nbytes(frame.size))

    def facts(self, terms: Terms, advertised: int, survivors: int) -> dict[str, int]:
        """What a round's record notes: survivors, threshold, degree of the graph, ring's bits.

        `advertised` is the number of clients whose keys came, for whom the graph was made.
        """
        graph = require("muster.secagg.answers", extra="service").graph_for(
            terms, advertised, bytes(32)
        )
        return {
            "survivors": survivors,
            "threshold": graph.threshold,
            "degree": graph.degree,
            "bits": terms.ring.bits,
        }
