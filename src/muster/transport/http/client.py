# SPDX-License-Identifier: Apache-2.0
"""The port of a site over HTTP: what httpx and all that is below it say, in the port's words.

Whatever is raised below is a fault of the line, of any type: a library that fails in a way that
nobody foresaw (an `AttributeError` while a connection was made was seen once) ends no site. What
the sink of a download raises is not below, and passes.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from muster.errors import IdentityError, MusterError, RunError
from muster.extras import require
from muster.federation.protocol.message import Ack, Message, from_json, to_json
from muster.federation.protocol.transport import (
    Answer,
    Body,
    LineFault,
    ModelQuery,
    ModelSink,
    Question,
    RawAnswer,
    SessionBody,
    Traffic,
)
from muster.federation.protocol.unpack import bounded
from muster.security.refusal import Refused
from muster.transport.http.answers import LONGEST, bound
from muster.transport.routes import Route, number_in, route_of

if TYPE_CHECKING:
    import httpx
    import zstandard
else:
    httpx = require("httpx", extra="site")
    zstandard = require("zstandard", extra="site")

__all__ = ["HTTPTransport"]

CONNECT, READ = 10.0, 90.0  # seconds without a connection, without a byte: of a kept question, too
SEND = 1 << 20  # bytes given to the connection at once
SMALL = 1 << 16  # bytes of a body that goes with its head
GATHER = 1 << 20  # bytes that go to the sink at once
PROBE, PAYS = 1 << 17, 0.8  # bytes that are compressed to see whether it pays, and when it does
LATER = (408, 429)  # what a proxy says that has heard of muster


class HTTPTransport:
    """One site's connections to one server, kept alive; `name` is told where there is no TLS.

    Proxies are those of the environment; no cookie is kept. `transport` is what httpx speaks
    through, for tests. Raises `RunError` for an address that is none.
    """

    def __init__(
        self,
        address: str,
        name: str,
        tls: ssl.SSLContext | None = None,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.address, self.encrypted, self.traffic = (
            _address(address, tls),
            tls is not None,
            Traffic(),
        )
        self._met = False  # it has proved to be a muster server
        headers = {"accept-encoding": "identity", "user-agent": "muster"}
        if tls is None:
            headers["muster-site"] = name
        self.http = httpx.AsyncClient(
            base_url=self.address,
            verify=tls or False,
            headers=headers,
            transport=transport,
            timeout=httpx.Timeout(READ, connect=CONNECT, pool=None),
            event_hooks={"response": [partial(bound, self.traffic)]},
        )
        self.http.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=()))  # of nobody

    async def call(self, question: Question) -> Answer:
        """Ask, and hear a message of a kind that answers this question, or an `Ack`."""
        route = route_of(type(question))
        place, more = route.address(question), {LONGEST: route.longest}
        data = to_json(question) if isinstance(question, Message) else b""
        self.traffic.sent += len(data)
        with self._line():
            answer = await self.http.request(
                route.method, place, content=data or None, extensions=more
            )
        return self._heard(route, answer)

    async def upload(self, body: Body, offset: int, data: memoryview) -> Answer:
        """Send the bytes of a body from `offset` on."""
        route, headers = route_of(type(body)), dict[str, str]()
        place = route.address(body, offset)
        if isinstance(body, SessionBody) and body.metrics:
            headers["muster-metrics"] = body.metrics
        with self._line():
            if route.packs and _pays(data):
                data = memoryview(await asyncio.to_thread(_packed, data))
                headers["content-encoding"] = "zstd"
            headers["content-length"] = str(len(data))
            content: Any = self._pieces(data)
            if len(data) <= SMALL:
                content = bytes(data)
                self.traffic.sent += len(data)
            answer = await self.http.request(route.method, place, content=content, headers=headers)
        return self._heard(route, answer)

    async def download(self, model: ModelQuery, offset: int, sink: ModelSink) -> Answer:
        """Have a model's bytes from `offset` on put into `sink`."""
        route, headers = route_of(ModelQuery), {"accept-encoding": "zstd"}
        if offset:
            headers["range"] = f"bytes={offset}-"
        place, told = route.address(model), _Watched(sink)
        more = {LONGEST: route.longest}
        with self._line(told):
            async with self.http.stream(
                route.method, place, headers=headers, extensions=more
            ) as answer:
                if answer.status_code == 416:  # nothing is missing behind what is held
                    return Answer(Ack(True))
                if answer.status_code in (200, 206):
                    told.start(_begin(answer))
                    await _pour(answer, told)
                    return Answer(Ack(True))
                await answer.aread()
        refused = self._heard(route, answer)
        if isinstance(refused.said, Ack) and refused.said.reason is not None:
            return refused
        raise LineFault(f"it answered {answer.status_code} and nothing of the model")

    async def close(self) -> None:
        """Hang up."""
        with self._line():
            await self.http.aclose()

    @contextmanager
    def _line(self, sink: _Watched | None = None) -> Iterator[None]:
        """Turn whatever is raised below into what the port raises."""
        try:
            yield
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise LineFault("the line was given up below") from None  # nobody has cancelled this
        except (LineFault, MusterError):
            raise  # the latter of the sink, or of whoever looks at the server's certificate
        except Exception as error:
            if sink is not None and error is sink.error:
                raise
            _stranger(self.address, error)
            why = f"{type(error).__name__}: {error}".rstrip(": ")
            raise LineFault(why) from error

    async def _pieces(self, data: memoryview) -> AsyncIterator[bytes]:
        """Yield a body in pieces that lie where it lies."""
        for begin in range(0, len(data), SEND):
            part: Any = data[begin : begin + SEND]
            self.traffic.sent += len(part)
            yield part

    def _heard(self, route: Route, answer: httpx.Response) -> Answer:
        """Return the message in an answer. Raises `LineFault` for none."""
        status = answer.status_code
        if status == 200 and route.raw:
            told = answer.headers.get("muster-told")
            if not route.told:
                return Answer(RawAnswer(answer.content))
            if told is not None and (number := number_in(told)) is not None:
                return Answer(RawAnswer(answer.content, number))
        try:
            said = from_json(answer.content, *route.told, Ack)
        except Refused as strange:
            if not self._met and 300 <= status < 500 and status not in LATER:
                raise RunError(
                    f"{self.address} answered {status} and is no muster server; give the address "
                    f"that the federation's operator named"
                ) from None
            raise LineFault(f"it answered {status} and no message ({strange.reason})") from None
        self._met, seconds = True, _seconds(answer)
        refused = isinstance(said, Ack) and said.reason is not None
        if status >= 500 and isinstance(said, Ack) and refused:
            raise LineFault(f"{said.reason}: {said.text}", seconds)
        if status >= 300 and not refused:
            raise LineFault(f"it answered {status} and {type(said).__name__}", seconds)
        return Answer(said, seconds)


class _Watched:
    """The sink of a download, and what it has raised."""

    def __init__(self, sink: ModelSink) -> None:
        self._sink = sink
        self.error: Exception | None = None

    def start(self, offset: int) -> None:
        try:
            self._sink.start(offset)
        except Exception as error:
            self.error = error
            raise

    def put(self, data: bytes) -> None:
        try:
            self._sink.put(data)
        except Exception as error:
            self.error = error
            raise


async def _pour(answer: httpx.Response, sink: _Watched) -> None:
    """Put the bytes of an answer into a sink; what came before a break is there."""
    if answer.headers.get("content-encoding") == "zstd":
        unpack = bounded(sink.put)
        try:
            async for data in answer.aiter_raw():
                await asyncio.to_thread(unpack, data)  # a few bytes may become many
        except Refused as refused:
            if refused is sink.error:
                raise
            raise LineFault(f"it sent what cannot be unpacked ({refused.text})") from None
        return
    waiting = bytearray()
    try:
        async for data in answer.aiter_raw():
            waiting += data
            if len(waiting) >= GATHER:
                whole, waiting = bytes(waiting), bytearray()
                await asyncio.to_thread(sink.put, whole)
    finally:
        if waiting and sink.error is None:
            sink.put(bytes(waiting))


def _packed(data: memoryview) -> bytes:
    return zstandard.ZstdCompressor(level=1).compress(data)


def _pays(data: memoryview) -> bool:
    """Return whether a piece from the middle becomes much smaller."""
    middle = max(0, len(data) // 2 - PROBE // 2)
    sample = bytes(data[middle : middle + PROBE])
    return len(_packed(memoryview(sample))) < PAYS * len(sample)


def _begin(answer: httpx.Response) -> int:
    """Return the place of the first byte of an answer; -1 where it does not say."""
    if answer.status_code == 200:
        return 0
    found = re.match(r"bytes (\d{1,16})-", answer.headers.get("content-range", ""))
    return int(found[1]) if found else -1


def _seconds(answer: httpx.Response) -> float:
    """Return the seconds that Retry-After asks for; 0 when it asks for none, or for a date."""
    return float(number_in(answer.headers.get("retry-after", "")) or 0)


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
