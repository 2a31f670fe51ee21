# SPDX-License-Identifier: Apache-2.0
"""The records of a federation between commits: its members, what is open, who sits where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from muster.types import ClientId

__all__ = ["Assignment", "Kind", "Member", "OpenWork", "SecAggEvent", "Standing", "Transition"]

Kind = Literal["train", "evaluate"]
Standing = Literal["invited", "arrived", "declined", "failed", "late"]


@dataclass(frozen=True)
class Member:
    """A member: the certificate's name, the id among the run's clients, how many rows.

    `certificate` is the PEM that it showed, empty without TLS.
    """

    name: str
    client: ClientId
    rows: int
    certificate: str = ""


@dataclass(frozen=True)
class OpenWork:
    """A piece of a round that clients are asked to do: train, or evaluate.

    `cohort` and `times` are the invited and how often each was drawn; `roster` who was enrolled
    then, with their rows, so that a server that comes back draws the same cohort; `model` the
    digest of what they are sent; `since` the wall-clock time in seconds; `groups`, where sums are
    masked, whose vectors are summed together: drawn once, so that whoever goes on or follows
    has the same.
    """

    round: int
    kind: Kind
    cohort: tuple[ClientId, ...]
    times: tuple[int, ...]
    roster: tuple[tuple[ClientId, int], ...]
    model: str
    since: float
    groups: tuple[tuple[ClientId, ...], ...] = ()


@dataclass(frozen=True)
class Assignment:
    """An assignment of one client in what is open: "invited" until it is decided, once.

    When it arrived: `digest` and `size` of the update's body, `weight`, and `metrics` as sums.
    Else `reason` is one word of a list and `text` a sentence or a traceback.
    """

    client: ClientId
    standing: Standing = "invited"
    reason: str = ""
    text: str = ""
    digest: str = ""
    size: int = 0
    weight: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class SecAggEvent:
    """One event of a round's secure sum: what a member said, or (`name` empty) a step's end.

    `number` is its place among the round's events, 0 before it has one; `kind` the number of the
    message on the wire, or the step that was closed; the octets are in `data`, or in a `blob`;
    `digest` is their SHA-256; `metrics` are those that the plan makes public.
    """

    name: str
    kind: str
    data: bytes = b""
    blob: str = ""
    digest: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    number: int = 0


@dataclass(frozen=True)
class Transition:
    """One step of a lifecycle: when (wall clock), which round, who if one client, why."""

    at: float
    round: int
    before: str
    after: str
    cause: str
    client: ClientId | None = None
