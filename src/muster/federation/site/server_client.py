# SPDX-License-Identifier: Apache-2.0
"""The line to the server: one question after the other, each repeated until there is an answer.

A site dials out and nothing else. Whatever may pass (a broken line, a server that restarts, one
that is busy or full) is waited for, with exponential backoff and full jitter, without end; a typed
refusal is an answer, and raises `Refused`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from muster.federation.protocol.limits import PAUSE
from muster.federation.protocol.message import Ack, Message
from muster.federation.protocol.transport import (
    Answer,
    LineFault,
    PlanQuery,
    Question,
    RawAnswer,
    Transport,
)
from muster.security.refusal import RefusalReason, Refused, parse

__all__ = [
    "Backoff",
    "Event",
    "LONGEST_PAUSE",
    "LONGEST_POLL",
    "RetryLater",
    "ServerClient",
    "quiet",
]

T = TypeVar("T")
M = TypeVar("M", bound=Message | RawAnswer)
Event = dict[str, Any]

LONGEST_POLL = 30.0  # seconds that the server may keep a question
LONGEST_TRY = 600.0  # seconds until it is broken off: bytes that drip hold nobody
LONGEST_PAUSE = 600.0  # seconds that a server may have a site wait before it asks again
PASSING = {RefusalReason.TOO_OFTEN, RefusalReason.NO_ROOM}
PLAN = (1 << 22, 32)  # bytes and levels of a plan's value


@dataclass(frozen=True)
class Backoff:
    """The time to wait before trying again: up to `first` · 2^tries seconds, at most `longest`.

    After an answer that has nothing to do, a question follows the one before it by `least` seconds.
    """

    first: float = 0.25
    longest: float = 5.0  # well within a lease: a server that is back is found in time
    least: float = PAUSE
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep
    random: Callable[[], float] = random.random

    def pause(self, tries: int) -> float:
        """Return the seconds to wait after so many failures in a row, drawn up to the bound.

        >>> Backoff(random=float).pause(3)
        0.0
        """
        return self.random() * min(self.longest, self.first * 2.0 ** min(tries, 30))

    async def rest(self, seconds: float, spent: float) -> None:
        """Wait as a server asks, which has answered after `spent` seconds.

        One that is honest keeps a question until there is something to do, and then has it asked
        again at once; one that answers at once is not asked without end.
        """
        await self.sleep(max(seconds, self.least - spent))


class RetryLater(Exception):
    """An answer that leads nowhere yet: why, and the seconds that the server asked for."""

    def __init__(self, why: str, seconds: float = 0.0) -> None:
        self.why, self.seconds = why, seconds
        super().__init__(why)


def quiet(event: Event) -> None:
    """Watch nothing."""


class ServerClient:
    """One site's line to one server, through a `Transport`: each question until it is answered.

    `moved` counts bytes of bodies that have arrived, either way: whoever moves some counts them.
    """

    def __init__(
        self,
        port: Transport,
        *,
        patience: Backoff = Backoff(),
        watch: Callable[[Event], None] = quiet,
        longest: float = LONGEST_TRY,
    ) -> None:
        self.port, self.patience, self.watch = port, patience, watch
        self.moved = 0
        self._longest = longest

    async def __aenter__(self) -> ServerClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self.port.close()
        except LineFault as fault:  # nothing is owed any more
            self.watch({"event": "told", "text": f"the line was not closed in order: {fault.why}"})

    async def say(
        self, question: Question, *kinds: type[M], first: Callable[[], None] | None = None
    ) -> M:
        """Say something and hear one of these kinds of answer. Raises `Refused`.

        `first` is called before each try, and may raise.
        """

        async def once() -> M:
            if first is not None:
                first()
            return self.heard(await self.port.call(question), *kinds)

        return await self.persist(once)

    async def plan(self) -> Any:
        """Return the value of the plan that the server holds."""

        async def once() -> Any:
            answer = self.heard(await self.port.call(PlanQuery()), RawAnswer)
            try:
                return parse(answer.data, *PLAN)
            except Refused as refused:
                raise RetryLater(f"it answered no plan ({refused})") from None

        return await self.persist(once)

    async def persist(self, deed: Callable[[], Awaitable[T]]) -> T:
        """Do it again until it is done; where bytes moved meanwhile, patience begins anew.

        No try takes longer than `longest` seconds, however slowly bytes come: what whoever waits
        must do meanwhile is done between two of them. A transfer goes on where it stood.
        """
        tries = 0
        while True:
            moved = self.moved
            try:
                async with asyncio.timeout(self._longest):
                    return await deed()
            except TimeoutError:
                why, least = f"no whole answer within {self._longest:g} s", 0.0
            except (LineFault, RetryLater) as again:
                why, least = again.why, again.seconds
            tries = 0 if self.moved > moved else tries + 1
            seconds = max(min(least, LONGEST_PAUSE), self.patience.pause(tries))
            self.watch({"event": "waiting", "why": why, "seconds": seconds})
            await self.patience.sleep(seconds)

    def heard(self, answer: Answer, *kinds: type[M]) -> M:
        """Return what was said in an answer.

        Raises `Refused`, or `RetryLater` for what may pass.
        """
        said = answer.said
        if isinstance(said, Ack) and said.reason is not None:
            if said.reason in PASSING:
                raise RetryLater(f"{said.reason}: {said.text}", answer.seconds)
            raise Refused(said.reason, said.text)
        if not isinstance(said, kinds):
            raise RetryLater(f"it answered {type(said).__name__}", answer.seconds)
        return said
