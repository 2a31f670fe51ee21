# SPDX-License-Identifier: Apache-2.0
"""The commands that a coordinator decides: what members, operators and the engine want of it.

A `name` is the one in a certificate that was admitted. Commands carry what only the outside knows
when they come (room on a disk, seconds that are left), so that `decide` looks at nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

from muster.federation.coordinator.lifecycle import Call
from muster.federation.protocol.message import (
    Decline,
    Hello,
    Measured,
    Poll,
    Progress,
    TrainingFailure,
    UpdateHeader,
)
from muster.store.records import Assignment, Kind, OpenWork, SecAggEvent
from muster.types import ClientId

__all__ = [
    "AnnounceUpdate",
    "AskTask",
    "Attempted",
    "BeginWork",
    "BodyArrived",
    "BodyRefused",
    "ClosePiece",
    "Command",
    "CommitRound",
    "Conclude",
    "DecideAssignments",
    "Disposed",
    "EndLeases",
    "Exclude",
    "GiveAnswer",
    "GiveOrder",
    "HearSecure",
    "JoinSecure",
    "OrderReturn",
    "SayHello",
    "ShowBytes",
    "ShowSteps",
]


@dataclass(frozen=True)
class SayHello:
    """A site says who it is, and on how many rows; `certificate` (PEM) is what it showed."""

    name: str
    hello: Hello
    certificate: str = ""


@dataclass(frozen=True)
class AskTask:
    """A site asks what to do next, and may be kept waiting for `left` seconds more.

    `fate` says whether its pending update is in the model, for rounds older than those at hand.
    """

    name: str
    poll: Poll
    left: float = 0.0
    fate: bool = False


@dataclass(frozen=True)
class AnnounceUpdate:
    """A site announces an update; `room` is the bytes that the disk has for it."""

    name: str
    update: UpdateHeader
    room: int = 1 << 62


@dataclass(frozen=True)
class BodyArrived:
    """The body of an announced update is whole, and on the disk."""

    name: str
    update: UpdateHeader


@dataclass(frozen=True)
class BodyRefused:
    """The body of an announced update was no good: for this `reason`, in this sentence."""

    name: str
    update: UpdateHeader
    reason: str
    text: str


@dataclass(frozen=True)
class Disposed:
    """A question whether the journal disposes of an update: it is counted, or its round is over."""

    name: str
    update: UpdateHeader


@dataclass(frozen=True)
class GiveAnswer:
    """A site declines, has failed, or has measured."""

    name: str
    message: Decline | TrainingFailure | Measured


@dataclass(frozen=True)
class ShowBytes:
    """So many bytes or steps of a site have moved in a round."""

    name: str
    round: int
    amount: int


@dataclass(frozen=True)
class ShowSteps:
    """A site says how many steps of its round it has done."""

    name: str
    said: Progress


@dataclass(frozen=True)
class Attempted:
    """A site speaks of a round in some attempt, before its message is read."""

    round: int
    attempt: int


@dataclass(frozen=True)
class JoinSecure:
    """A site asks about the secure sum of a round; `begun` wants one that is open."""

    name: str
    round: int
    begun: bool = True


@dataclass(frozen=True)
class HearSecure:
    """A message of a secure sum; one without a name is the engine's: a step has ended.

    A member's was in `attempt`.
    """

    round: int
    word: SecAggEvent


@dataclass(frozen=True)
class BeginWork:
    """The engine opens a piece of a round."""

    work: OpenWork


@dataclass(frozen=True)
class EndLeases:
    """An end of leases: who made no progress until its end is not waited for any longer."""

    round: int
    kind: Kind


@dataclass(frozen=True)
class ClosePiece:
    """A close of what is open, where `call` says so by now."""

    round: int
    kind: Kind
    call: Call


@dataclass(frozen=True)
class DecideAssignments:
    """The engine knows what became of some clients in a secure sum."""

    round: int
    kind: Kind
    assignments: tuple[Assignment, ...]


@dataclass(frozen=True)
class CommitRound:
    """A round is in the model, with these clients' replies; the same again changes nothing."""

    round: int
    accepted: tuple[ClientId, ...]


@dataclass(frozen=True)
class GiveOrder:
    """An operator wants something of the run."""

    word: str


@dataclass(frozen=True)
class OrderReturn:
    """An operator wants the run to go back to an older round."""

    round: int


@dataclass(frozen=True)
class Exclude:
    """A client takes part no more."""

    client: ClientId
    why: str


@dataclass(frozen=True)
class Conclude:
    """The run is over, and why."""

    text: str


Command = (
    SayHello
    | AskTask
    | AnnounceUpdate
    | BodyArrived
    | BodyRefused
    | Disposed
    | GiveAnswer
    | ShowBytes
    | ShowSteps
    | Attempted
    | JoinSecure
    | HearSecure
    | BeginWork
    | EndLeases
    | ClosePiece
    | DecideAssignments
    | CommitRound
    | GiveOrder
    | OrderReturn
    | Exclude
    | Conclude
)
