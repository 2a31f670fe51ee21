# SPDX-License-Identifier: Apache-2.0
"""The port between a site and whatever carries its words to the server: HTTP, memory, or another.

Site code speaks to `Transport` alone. An adapter turns three things into what its medium has:
messages (`call`), bodies on their way up (`upload`) and a model on its way down (`download`). It
knows names, bytes and answers; what they mean is the site's business, and so is trying again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from muster.federation.protocol.message import Message

__all__ = [
    "Answer",
    "Body",
    "LineFault",
    "MembersQuery",
    "ModelQuery",
    "ModelSink",
    "PlanQuery",
    "Question",
    "RawAnswer",
    "SessionBody",
    "SessionQuery",
    "Traffic",
    "Transport",
    "UpdateBody",
]


class LineFault(Exception):
    """It is not known whether it was heard: say it again, after `seconds` at the earliest.

    The one exception of the line. `why` is for whoever watches.
    """

    def __init__(self, why: str, seconds: float = 0.0) -> None:
        self.why, self.seconds = why, seconds
        super().__init__(why)


@dataclass(frozen=True)
class PlanQuery:
    """The value of the plan that the server holds: a `RawAnswer` of JSON."""


@dataclass(frozen=True)
class MembersQuery:
    """The credentials of those whose updates are masked with this site's in a round, as JSON."""

    round: int


@dataclass(frozen=True)
class SessionQuery:
    """All that the server says next in a secure sum: a `RawAnswer`, or `Wait`.

    `after` is the number of the latest that is known; the question may be kept `wait` seconds.
    """

    round: int
    attempt: int
    after: int
    wait: float


@dataclass(frozen=True)
class ModelQuery:
    """A model by its digest, wanted in a round."""

    digest: str
    round: int


@dataclass(frozen=True)
class UpdateBody:
    """The bytes of an announced update; `size` is that of the whole."""

    round: int
    digest: str
    size: int


@dataclass(frozen=True)
class SessionBody:
    """A message of a secure sum: whole, or in pieces, and then its `digest` and `size` are known.

    `metrics` is JSON that the plan lets be seen beside the sum, or empty.
    """

    round: int
    attempt: int
    digest: str = ""
    size: int = 0
    metrics: str = ""


Question = Message | PlanQuery | MembersQuery | SessionQuery
Body = UpdateBody | SessionBody


@dataclass(frozen=True)
class RawAnswer:
    """An answer that is no message: its bytes, and its number among those of its kind."""

    data: bytes
    number: int = 0


@dataclass(frozen=True)
class Answer:
    """All that was heard, and the seconds after which the server wants to be asked again."""

    said: Message | RawAnswer
    seconds: float = 0.0


@dataclass(slots=True)
class Traffic:
    """Bytes of one client's bodies, as one side has them: as they went, packed, and said again."""

    sent: int = 0
    received: int = 0


class ModelSink(Protocol):
    """Where the bytes of a model go; whatever it raises ends the download, and passes through."""

    def start(self, offset: int) -> None:
        """Begin: the first byte that comes is at `offset`, perhaps not the one asked for."""

    def put(self, data: bytes) -> None:
        """Take some bytes; in any thread, one call after the other."""


class Transport(Protocol):
    """One client's line to one server.

    `encrypted` says whether strangers are kept from reading along; `traffic` counts.

    Every method may be cancelled, raises `LineFault` for whatever goes wrong below it (an error of
    a library, whatever its type, is a fault of the line), and a `MusterError` only where trying
    again cannot help: `IdentityError` when the server does not prove who it is, `RunError` when it
    is none. A refusal is an answer: an `Ack` with a reason. No answer is longer than its kind may
    be (`muster.federation.protocol.limits`); the seconds that one may take are the caller's to
    bound. A method that is called twice at once has two answers.
    """

    encrypted: bool
    traffic: Traffic

    async def call(self, question: Question) -> Answer:
        """Ask, and hear a message of a kind that answers this question, or an `Ack`."""

    async def upload(self, body: Body, offset: int, data: memoryview) -> Answer:
        """Send the bytes of a body from `offset` on; `ResumeAt` says what is held, `Ack` the end.

        Where the line breaks, the server may hold some of them.
        """

    async def download(self, model: ModelQuery, offset: int, sink: ModelSink) -> Answer:
        """Have a model's bytes from `offset` on put into `sink`; an accepted `Ack` is their end.

        Where the line breaks, what has come before is in the sink.
        """

    async def close(self) -> None:
        """Hang up."""
