# SPDX-License-Identifier: Apache-2.0
"""The line of a client in a secure sum: it says each message until it is heard, and is told others.

However long that is, no secret of the session outlives its end: that is asked before each try.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from typing import Any

from muster.federation.protocol.message import LIMIT, TrainAssignment, Wait
from muster.federation.protocol.transport import (
    MembersQuery,
    RawAnswer,
    SessionBody,
    SessionQuery,
)
from muster.federation.site.server_client import LONGEST_POLL, RetryLater
from muster.federation.site.trainer import SiteTrainer
from muster.federation.site.transfers import send
from muster.plan.told import told_of
from muster.secagg import SessionReason, SessionStep
from muster.secagg.messages import CLIENT_KINDS, Advert, Quit, SecAggMessage
from muster.security.pki.credentials import Credentials, read_credentials
from muster.security.refusal import Refused

__all__ = ["SAID", "STEPS", "SecureLine"]

STEPS = tuple(step for step in SessionStep if step is not SessionStep.OVER)
SAID = dict(zip(sorted(CLIENT_KINDS - {Quit.kind}), STEPS, strict=True))  # the step of a kind


@dataclass(frozen=True)
class SecureLine:
    """The words of one client's sessions.

    `expire` destroys secrets whose time is over; `live(task)` does so too, and raises `Aborted`
    once those of this session are gone.
    """

    work: SiteTrainer
    expire: Callable[[], None]
    live: Callable[[TrainAssignment], None]

    async def say(
        self, task: TrainAssignment, message: SecAggMessage, metrics: Mapping[str, float]
    ) -> None:
        """Say it until it is acknowledged. Raises `Refused`."""
        work, data = self.work, memoryview(message.to_bytes())
        line = work.line
        body = SessionBody(task.round, task.attempt)
        if len(data) > LIMIT:
            body = replace(body, digest=sha256(data).hexdigest(), size=len(data))
        told = metrics and told_of(work.training.plan).trained
        if isinstance(message, Advert) and told:
            body = replace(body, metrics=json.dumps(dict(metrics)))

        async def once() -> None:
            if isinstance(message, Quit):
                self.expire()  # however long nobody takes it
            else:
                self.live(task)
            await send(line, work.site_store, body, data, 0)

        try:
            await line.persist(once)
        except Refused:
            if not isinstance(message, Quit):
                raise
            return  # nobody waits for this site any more
        if message.kind in SAID:
            work.site_store.at(f"site: {SAID[message.kind].value} is said")

    async def quit(self, task: TrainAssignment, reason: SessionReason) -> None:
        """Say that this client has left, and why."""
        await self.say(task, Quit(reason.name), {})

    async def told(self, task: TrainAssignment, number: int) -> tuple[int, bytes]:
        """Return the next message of the server, and its number. Raises `Refused`."""
        line, habits = self.work.line, self.work.habits
        question = SessionQuery(task.round, task.attempt, number, habits.wait)
        while True:
            asked = habits.clock()
            found: Any = await line.say(question, RawAnswer, Wait, first=partial(self.live, task))
            if isinstance(found, RawAnswer):
                return found.number, found.data
            seconds = min(found.seconds, LONGEST_POLL)  # secrets have an end
            await line.patience.rest(seconds, habits.clock() - asked)

    async def credentials(self, task: TrainAssignment) -> Credentials:
        """Return the members' credentials that the server hands out; their user checks them."""
        line = self.work.line

        async def once() -> Credentials:
            self.live(task)
            answer = line.heard(await line.port.call(MembersQuery(task.round)), RawAnswer)
            try:
                return read_credentials(answer.data)
            except Refused as refused:
                raise RetryLater(f"it answered no certificates ({refused.text})") from None

        return await line.persist(once)
