# SPDX-License-Identifier: Apache-2.0
"""The server's side of the port: what it answers a client, whatever transport brought the question.

A name is that of a client that was admitted; who that is, how often one may ask, and how long a
question may be, is looked at by the transport, which knows what it has.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Executor
from functools import partial
from typing import Any

from muster.federation.coordinator.receiver import Gone, Incoming, Receiver
from muster.federation.coordinator.secagg_endpoint import SecAggEndpoint
from muster.federation.coordinator.service import FederationService
from muster.federation.coordinator.uploads import Uploads
from muster.federation.protocol.message import (
    Ack,
    Decline,
    Evaluate,
    Hello,
    Measured,
    Message,
    Poll,
    Progress,
    ResumeAt,
    TrainAssignment,
    TrainingFailure,
    UpdateHeader,
    Wait,
)
from muster.federation.protocol.transport import (
    Body,
    MembersQuery,
    ModelQuery,
    PlanQuery,
    Question,
    RawAnswer,
    SessionQuery,
    UpdateBody,
)
from muster.security.refusal import RefusalReason, Refused
from muster.store.blobs import Blobs

__all__ = ["AGAIN", "KEPT", "ServerEndpoint"]

AGAIN = {
    RefusalReason.TOO_OFTEN: 1,
    RefusalReason.NO_ROOM: 5,
}  # seconds after which to ask again: well within a lease
KEPT = (Poll, SessionQuery)  # the questions that may be kept waiting
Said = Message | RawAnswer


class ServerEndpoint:
    """All that one server answers its clients; what touches a disk runs in `pool`.

    Every method raises `Refused` for what is refused, and nothing has changed then. `close`
    answers all who are kept waiting, and from then on everybody who would be.
    """

    def __init__(self, service: FederationService, blobs: Blobs, pool: Executor) -> None:
        self.service, self.receiver = service, Receiver(blobs, pool)
        self.uploads = Uploads(service, self.receiver, service.facts.lease / 3)
        self.sessions = SecAggEndpoint(service, self.receiver)
        self.plan = json.dumps(service.facts.plan).encode()
        self.closing = False
        self._kept: set[asyncio.Task[Any]] = set()
        self._rounds: dict[str, int] = {}  # what each was last invited to: its downloads renew it
        self._answers: dict[type, Callable[[str, Any], Awaitable[Said]]] = {
            PlanQuery: self._plan,
            UpdateHeader: self.uploads.announce,
            Decline: service.answer,
            TrainingFailure: service.answer,
            Measured: service.answer,
            Progress: self._progress,
            MembersQuery: self._members,
        }

    async def call(
        self,
        name: str,
        question: Question,
        certificate: str = "",
        left: asyncio.Future[Any] | None = None,
    ) -> Said:
        """Answer a question; `left` is done when whoever asks has gone away, which raises `Gone`.

        `certificate` is the PEM that a client showed, if any.
        """
        if isinstance(question, Poll):
            said = await self._keep(self.service.poll(name, question), left)
            if isinstance(said, TrainAssignment | Evaluate):
                self._rounds[name] = said.round
            return said
        if isinstance(question, SessionQuery):
            said = await self._keep(self.sessions.told(name, question), left)
            return Wait(1.0) if self.closing and isinstance(said, Wait) else said
        if isinstance(question, Hello):
            return await self.service.welcome(name, question, certificate)
        return await self._answers[type(question)](name, question)

    async def upload(
        self, name: str, body: Body, offset: int, incoming: Incoming
    ) -> ResumeAt | Ack:
        """Take bytes of a body from `offset` on: where to go on, or that it is whole."""
        if isinstance(body, UpdateBody):
            return await self.uploads.take(name, body, offset, incoming)
        return await self.sessions.say(name, body, offset, incoming)

    def model(self, name: str, asked: ModelQuery) -> tuple[str, Callable[[int], None]]:
        """Return the blob of a model, and whom to tell of bytes that went: they renew a lease."""
        blob = self.service.model(asked.digest)
        moved = partial(self.service.progress, name, asked.round or self._rounds.get(name, 0))
        moved(0)  # whoever is not enrolled hears it before the answer begins
        return blob, moved

    def refused(self, refused: Refused) -> Ack:
        """Return a refusal as it is told; it is counted here and nowhere else."""
        self.service.counts[refused.reason] += 1
        return Ack.of(refused)

    def close(self) -> None:
        """Go down: whoever is kept waiting is told to wait elsewhere, at once."""
        self.closing = True
        for asked in self._kept:
            asked.cancel()

    async def _keep(
        self, answer: Coroutine[Any, Any, Said], left: asyncio.Future[Any] | None
    ) -> Said:
        """Return an answer that may take long: given up when its asker has gone, or at the end."""
        if self.closing:
            answer.close()
            return Wait(1.0)
        asked = asyncio.ensure_future(answer)
        self._kept.add(asked)
        if left is not None:
            left.add_done_callback(lambda _: asked.cancel())
        try:
            return await asked
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            if left is not None and left.done():
                raise Gone from None
            return Wait(1.0)  # the server goes down
        finally:
            self._kept.discard(asked)

    async def _plan(self, name: str, asked: PlanQuery) -> RawAnswer:
        return RawAnswer(self.plan)

    async def _progress(self, name: str, said: Progress) -> Ack:
        self.service.stepped(name, said)
        return Ack(True)

    async def _members(self, name: str, asked: MembersQuery) -> RawAnswer:
        return self.sessions.members(name, asked)
