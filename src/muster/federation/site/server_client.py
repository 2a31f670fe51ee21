# SPDX-License-Identifier: Apache-2.0
"""The line to the server: one question after the other, each repeated until there is an answer.

A site dials out and nothing else. An answer is as long as one may be, and in no coding: nobody
fills a site's memory. Whatever may pass (a broken connection, a server that restarts,
one that is busy or full) is waited for, with exponential backoff and full jitter, without end; a
typed refusal is an answer, and raises `Refused`.
"""

from __future__ import annotations

import asyncio
import random
import re
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from muster.errors import IdentityError, RunError
from muster.extras import require
from muster.federation.protocol.limits import PAUSE
from muster.federation.protocol.message import Ack, Message, from_json, to_json
from muster.federation.site.answers import bound
from muster.security.refusal import RefusalReason, Refused, parse

if TYPE_CHECKING:
    import httpx
else:
    httpx = require("httpx", extra="site")

__all__ = [
    "Backoff",
    "Event",
    "LONGEST_PAUSE",
    "LONGEST_POLL",
    "RetryLater",
    "ServerClient",
    "number_in",
    "quiet",
]

T = TypeVar("T")
M = TypeVar("M", bound=Message)
Event = dict[str, Any]

LONGEST_POLL = 30.0  # seconds that the server may keep a question
CONNECT, READ = 10.0, 3 * LONGEST_POLL  # seconds without a connection, without an octet
LONGEST_TRY = 600.0  # seconds until it is broken off: octets that drip hold nobody
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
    """No answer yet: why, and the seconds that the server asked for."""

    def __init__(self, why: str, seconds: float = 0.0) -> None:
        self.why, self.seconds = why, seconds
        super().__init__(why)


def quiet(event: Event) -> None:
    """Watch nothing."""


class ServerClient:
    """One site's connection to one server, kept alive; `name` is told where there is no TLS.

    Proxies are those of the environment; no cookie is kept. Raises `RunError` for an address that
    is none, and `IdentityError` for a server whose certificate is not the federation's.
    """

    def __init__(
        self,
        address: str,
        name: str,
        tls: ssl.SSLContext | None = None,
        *,
        patience: Backoff = Backoff(),
        watch: Callable[[Event], None] = quiet,
        transport: httpx.AsyncBaseTransport | None = None,
        longest: float = LONGEST_TRY,
    ) -> None:
        self.address, self.patience, self.watch = _address(address, tls), patience, watch
        self.moved = 0  # octets of bodies, either way; whoever moves some counts them
        self._met, self._longest = False, longest
        headers = {"accept-encoding": "identity", "user-agent": "muster"}
        if tls is None:
            headers["muster-site"] = name
        self.http = httpx.AsyncClient(
            base_url=self.address,
            verify=tls or False,
            headers=headers,
            transport=transport,
            timeout=httpx.Timeout(READ, connect=CONNECT, pool=None),
            event_hooks={"response": [bound]},
        )
        self.http.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=()))  # of nobody

    async def __aenter__(self) -> ServerClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    async def say(self, path: str, message: Message, *kinds: type[M]) -> M:
        """Say something and hear one of these kinds of message. Raises `Refused`."""

        async def once() -> M:
            return self.heard(await self.http.post(path, content=to_json(message)), *kinds)

        return await self.persist(once)

    async def plan(self) -> Any:
        """Return the value of the plan that the server holds."""

        async def once() -> Any:
            answer = await self.http.get("/v1/plan")
            if answer.status_code != 200:
                return self.heard(answer)
            try:
                return parse(answer.content, *PLAN)
            except Refused as refused:
                raise RetryLater(f"it answered no plan ({refused})") from None

        return await self.persist(once)

    async def persist(self, deed: Callable[[], Awaitable[T]]) -> T:
        """Do it again until it is done; where octets moved meanwhile, patience begins anew.

        No try takes longer than `longest` seconds, however slowly octets come: what whoever waits
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
            except RetryLater as again:
                why, least = again.why, again.seconds
            except httpx.RequestError as error:
                _stranger(self.address, error)
                why, least = f"{type(error).__name__}: {error}".rstrip(": "), 0.0
            tries = 0 if self.moved > moved else tries + 1
            seconds = max(least, self.patience.pause(tries))
            self.watch({"event": "waiting", "why": why, "seconds": seconds})
            await self.patience.sleep(seconds)

    def heard(self, answer: httpx.Response, *kinds: type[M]) -> M:
        """Return the message in an answer.

        Raises `Refused` for a refusal, `RetryLater` for none.
        """
        status = answer.status_code
        try:
            said = from_json(answer.content, *kinds, Ack)
        except Refused as strange:
            if not self._met and 300 <= status < 500 and status not in (408, 429):
                raise RunError(
                    f"{self.address} answered {status} and is no muster server; give the address "
                    f"that the federation's operator named"
                ) from None
            raise RetryLater(f"it answered {status} and no message ({strange.reason})") from None
        self._met = True
        if isinstance(said, Ack) and said.reason is not None:
            if said.reason in PASSING or status >= 500:
                raise RetryLater(f"{said.reason}: {said.text}", _seconds(answer))
            raise Refused(said.reason, said.text)
        if status >= 300 or not isinstance(said, kinds):
            raise RetryLater(f"it answered {status} and {type(said).__name__}", _seconds(answer))
        return said


def number_in(said: str) -> int | None:
    """Return the whole number that a header says, below 10^18; None where it says none.

    >>> number_in("12"), number_in("-1"), number_in("²"), number_in("9" * 5000)
    (12, None, None, None)
    """
    return int(said) if re.fullmatch(r"[0-9]{1,18}", said) else None


def _seconds(answer: httpx.Response) -> float:
    """Return the seconds that Retry-After asks for; 0 when it asks for none, or for a date."""
    return min(float(number_in(answer.headers.get("retry-after", "")) or 0), LONGEST_PAUSE)


def _address(address: str, tls: ssl.SSLContext | None) -> str:
    try:
        parts = urlsplit(address)
        whole = parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        whole = None
    scheme = "http" if tls is None else "https"
    if not whole or parts.scheme != scheme:
        more = " (plain http needs no identity, https does)" if whole else ""
        raise RunError(f"the address {address!r} is none to use; write {scheme}://host:8443{more}")
    return address.rstrip("/")


def _stranger(address: str, error: BaseException) -> None:
    """Raise where trying again cannot help: the server cannot prove who it is."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise IdentityError(
                f"{address} does not prove to be the federation's server "
                f"({cause.verify_message}); check the address, or fetch the authority's "
                f"certificate anew"
            ) from error
        cause = cause.__cause__ or cause.__context__
