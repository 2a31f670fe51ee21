# SPDX-License-Identifier: Apache-2.0
"""The line of a client in a secure sum: it says each message until it is heard, and is told others.

However long that is, no secret of the session outlives its end: that is asked before each try.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from muster.federation.protocol.message import LIMIT, Ack, TrainAssignment, Wait
from muster.federation.site.server_client import LONGEST_POLL, RetryLater, number_in
from muster.federation.site.trainer import SiteTrainer
from muster.federation.site.transfers import cut, pieces
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
        line, data = self.work.line, message.to_bytes()
        path, headers = _path(task), dict[str, str]()
        secure = self.work.training.plan.secure
        told = metrics and secure is not None and secure.metrics == "public"
        if isinstance(message, Advert) and told:
            headers["muster-metrics"] = json.dumps(dict(metrics))

        async def once() -> None:
            if isinstance(message, Quit):
                self.expire()  # however long nobody takes it
            else:
                self.live(task)
            if len(data) > LIMIT:
                await self._sent(path, memoryview(data))
                return
            line.heard(await line.http.post(path, content=data, headers=headers), Ack)
            line.moved += len(data)

        try:
            await line.persist(once)
        except Refused:
            if not isinstance(message, Quit):
                raise
            return  # nobody waits for this site any more
        if message.kind in SAID:
            self.work.site_store.at(f"site: {SAID[message.kind].value} is said")

    async def _sent(self, path: str, data: memoryview) -> None:
        """Send a large message, in pieces from where the server says. Raises `Refused`."""
        line, site_store = self.work.line, self.work.site_store
        path = f"{path}&digest={sha256(data).hexdigest()}&size={len(data)}"

        async def send(place: int, piece: memoryview) -> Any:
            headers = {"content-length": str(len(piece))}
            where = f"{path}&offset={place}"
            return await line.http.post(where, content=cut(piece), headers=headers)

        await pieces(line, site_store, data, send, 0)

    async def quit(self, task: TrainAssignment, reason: SessionReason) -> None:
        """Say that this client has left, and why."""
        await self.say(task, Quit(reason.name), {})

    async def told(self, task: TrainAssignment, number: int) -> tuple[int, bytes]:
        """Return the next message of the server, and its number. Raises `Refused`."""
        line = self.work.line
        wait = self.work.habits.wait
        path = f"{_path(task)}&after={number}&wait={wait}"

        async def once() -> tuple[int, bytes] | Wait:
            self.live(task)
            answer = await line.http.get(path)
            told = answer.headers.get("muster-told", "")
            if answer.status_code == 200 and (number := number_in(told)) is not None:
                return number, answer.content
            return line.heard(answer, Wait)

        while True:
            asked = self.work.habits.clock()
            found = await line.persist(once)
            if not isinstance(found, Wait):
                return found
            seconds = min(found.seconds, LONGEST_POLL)  # secrets have an end
            await line.patience.rest(seconds, self.work.habits.clock() - asked)

    async def credentials(self, task: TrainAssignment) -> Credentials:
        """Return the members' credentials that the server hands out; their user checks them."""
        line = self.work.line

        async def once() -> Credentials:
            self.live(task)
            answer = await line.http.get(f"/v1/members?round={task.round}")
            if answer.status_code != 200:
                line.heard(answer)
            try:
                return read_credentials(answer.content)
            except Refused as refused:
                raise RetryLater(f"it answered no certificates ({refused.text})") from None

        return await line.persist(once)


def _path(task: TrainAssignment) -> str:
    """Return the path under which the session of an assignment is spoken."""
    return f"/v1/secure/{task.round}?attempt={task.attempt}"
