# SPDX-License-Identifier: Apache-2.0
"""The records of a federation between commits: its members, what is open, who sits where."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from muster.types import ClientId

__all__ = [
    "Assignment",
    "Body",
    "JournalRow",
    "Kind",
    "Member",
    "OpenWork",
    "SecAggEvent",
    "Standing",
    "Transition",
    "client_of",
    "name_of",
]

Kind = Literal["train", "evaluate"]
Body = Mapping[str, Any]  # of a row of a journal: what it says, as JSON
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
    has the same; `counted`, of an evaluation, whose replies are in the model that is measured, and
    who measures with what that reply left them: every server says the same of it.
    """

    round: int
    kind: Kind
    cohort: tuple[ClientId, ...]
    times: tuple[int, ...]
    roster: tuple[tuple[ClientId, int], ...]
    model: str
    since: float
    groups: tuple[tuple[ClientId, ...], ...] = ()
    counted: tuple[ClientId, ...] = ()


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


@dataclass(frozen=True)
class JournalRow:
    """One row of a journal: of which `topic`, of which round (0: none), and about whom (`key`).

    `body` is what it says, as JSON; octets are in `data`. `position` is its place, 0 before it has
    one.
    """

    topic: str
    round: int
    key: str
    body: Body
    data: bytes = b""
    position: int = 0


def name_of(client: ClientId) -> str:
    """Return a client's id as text, so that 1 and "1" are two clients.

    >>> name_of(1), name_of("1")
    ('1', '"1"')
    """
    return json.dumps(client)


def client_of(name: Any) -> Any:
    """Return the client's id that a text means; None for what is none.

    >>> client_of("1"), client_of('"1"'), client_of("eve")
    (1, '1', None)
    """
    try:
        found = json.loads(name)
    except (ValueError, TypeError, RecursionError):
        return None
    return found if isinstance(found, int | str) and not isinstance(found, bool) else None
