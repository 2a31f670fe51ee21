# SPDX-License-Identifier: Apache-2.0
"""Lines to a server in the same process: bytes through the real codecs, no sockets, time passed in.

The server's side is the one that HTTP has, `ServerEndpoint`; what is said crosses as bytes, so no
object is shared by two sides that would not share it. What goes wrong is drawn by `Faults`; how
long anything takes is up to `sleep`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from muster.errors import NoRoom
from muster.federation.coordinator.endpoint import AGAIN, ServerEndpoint
from muster.federation.coordinator.receiver import Gone
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
from muster.security.refusal import RefusalReason, Refused
from muster.transport.memory.faults import FaultRates, Faults
from muster.transport.routes import Route, found, route_of

__all__ = ["MemoryServer", "MemoryTransport"]

LOG = logging.getLogger("muster.server")
CHUNK = 1 << 16  # bytes that arrive at once
NONE = Faults(0, FaultRates())
Deed = Callable[[ServerEndpoint, "asyncio.Future[None]"], Coroutine[Any, Any, Any]]


@dataclass(eq=False)
class MemoryServer:
    """A server as lines in its process reach it; `endpoint` is None while nobody is there.

    What it is asked it does in tasks of its own: it goes on when whoever asked has gone.
    """

    endpoint: ServerEndpoint | None = None
    tasks: set[asyncio.Task[Any]] = field(default_factory=set, init=False)

    def start(self, deed: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Have something done at the server."""
        task = asyncio.ensure_future(deed)
        self.tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if not task.cancelled():
            task.exception()  # told to whoever asked, who may have gone

    async def stop(self) -> None:
        """Be gone: what is under way ends where it stands, and nobody is told."""
        self.endpoint = None
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


class MemoryTransport:
    """One client's line to a server in its process; its `name` is believed.

    `certificate` is the PEM that it shows, if any. A message that is lost is waited for `timeout`
    seconds, by `sleep`.
    """

    def __init__(
        self,
        server: MemoryServer,
        name: str,
        *,
        certificate: str = "",
        encrypted: bool = True,
        faults: Faults = NONE,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
        timeout: float = 10.0,
    ) -> None:
        self.server, self.name, self.certificate = server, name, certificate
        self.encrypted, self.traffic = encrypted, Traffic()
        self.faults, self.sleep, self.timeout = faults, sleep, timeout

    async def call(self, question: Question) -> Answer:
        """Ask, and hear a message of a kind that answers this question, or an `Ack`."""
        route = route_of(type(question))
        data = to_json(question) if isinstance(question, Message) else b""
        self.traffic.sent += len(data)
        deed = partial(self._asked, route, route.address(question), data)
        return self._heard(route, await self._exchange(type(question).__name__, deed))

    async def upload(self, body: Body, offset: int, data: memoryview) -> Answer:
        """Send the bytes of a body from `offset` on."""
        route, what = route_of(type(body)), type(body).__name__
        metrics = body.metrics if isinstance(body, SessionBody) else ""
        place, cut = route.address(body, offset), self._cut(what, len(data))
        came = bytes(data[: len(data) if cut is None else cut])
        self.traffic.sent += len(came)

        async def deed(endpoint: ServerEndpoint, left: asyncio.Future[None]) -> Message:
            path, _, query = place.partition("?")
            asked, begin = route.question(found(path)[1], query)
            if metrics:
                asked = replace(asked, metrics=metrics)
            incoming = _Incoming(came, len(data))
            return await endpoint.upload(self.name, asked, begin, incoming)

        return self._heard(route, await self._exchange(what, deed))

    async def download(self, model: ModelQuery, offset: int, sink: ModelSink) -> Answer:
        """Have a model's bytes from `offset` on put into `sink`."""
        route, what = route_of(ModelQuery), "ModelQuery"

        async def deed(endpoint: ServerEndpoint, left: asyncio.Future[None]) -> Any:
            path, _, query = route.address(model).partition("?")
            blob, moved = endpoint.model(self.name, route.question(found(path)[1], query)[0])
            size = await endpoint.receiver.run(endpoint.receiver.blobs.size, blob)
            return _Download(endpoint, blob, size or 0, moved)

        opened = await self._exchange(what, deed)
        if not isinstance(opened, _Download):
            return self._heard(route, opened)
        place, end = offset, opened.size
        cut = self._cut(what, max(0, end - offset))
        if cut is not None:
            end = offset + cut
        if place < opened.size:
            sink.start(offset)
        while place < end:
            piece = await self._of_server(opened.next(place, end))
            self.traffic.received += len(piece)
            sink.put(piece)
            place += len(piece)
        if cut is not None:
            raise LineFault("the line broke in the middle of a model")
        return Answer(Ack(True))

    async def close(self) -> None:
        """Hang up."""

    async def _asked(
        self, route: Route, place: str, data: bytes, endpoint: ServerEndpoint, left: Any
    ) -> Message | RawAnswer:
        """Return a question as the server hears it."""
        path, _, query = place.partition("?")
        if data:
            question: Any = from_json(data, *route.asked)
        else:
            question, _ = route.question(found(path)[1], query)
        return await endpoint.call(self.name, question, self.certificate, left)

    async def _exchange(self, what: str, deed: Deed) -> Any:
        """Have something done at the server and hear what came of it; or not."""
        faults, link = self.faults, self.name
        if faults.strikes("delay", link, what):
            await self.sleep(faults.seconds(link, what))
        if faults.strikes("drop", link, what):
            await self.sleep(self.timeout)
            raise LineFault(f"{what} was lost")
        if faults.strikes("double", link, what):
            self.server.start(self._again(faults.seconds(link, what), deed))
        answer = await self._served(deed)
        if faults.strikes("lose", link, what):
            await self.sleep(self.timeout)
            raise LineFault(f"the answer to {what} was lost")
        return answer

    async def _again(self, seconds: float, deed: Deed) -> None:
        """Say the same once more, later; nobody hears the answer."""
        await self.sleep(seconds)
        if self.server.endpoint is not None:
            left: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            left.set_result(None)  # whoever it is kept for does not listen
            await self._answered(self.server.endpoint, left, deed)

    async def _served(self, deed: Deed) -> Any:
        endpoint = self.server.endpoint
        if endpoint is None:
            raise LineFault("nobody is there")
        left: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            return await self._of_server(self._answered(endpoint, left, deed))
        finally:
            left.set_result(None)

    async def _of_server(self, deed: Coroutine[Any, Any, Any]) -> Any:
        """Do something at the server, which goes on when whoever waits is cancelled."""
        task = self.server.start(deed)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise LineFault("the server went away") from None
            raise
        except Gone:
            raise LineFault("the line broke") from None
        except LineFault:
            raise
        except Exception as error:
            raise LineFault(f"the server failed: {type(error).__name__}") from error

    async def _answered(
        self, endpoint: ServerEndpoint, left: asyncio.Future[None], deed: Deed
    ) -> Any:
        """Return what the server says, a refusal as an `Ack`."""
        try:
            return await deed(endpoint, left)
        except Refused as refused:
            return endpoint.refused(refused)
        except NoRoom:
            text = "the server has no room for it now; try again later"
            return endpoint.refused(Refused(RefusalReason.NO_ROOM, text))
        except Gone:
            raise
        except Exception:
            LOG.exception("a question of %s failed", self.name)
            raise

    def _heard(self, route: Route, said: Message | RawAnswer) -> Answer:
        """Return an answer as it crosses the line: bytes, of a length that one may have."""
        data = said.data if isinstance(said, RawAnswer) else to_json(said)
        self.traffic.received += len(data)
        if route.longest is not None and len(data) > route.longest:
            raise LineFault(f"it answered with more than {route.longest} bytes")
        if isinstance(said, RawAnswer):
            return Answer(RawAnswer(bytes(data), said.number))
        try:
            heard = from_json(data, *route.told, Ack)
        except Refused as strange:
            raise LineFault(f"it answered no message ({strange.reason})") from None
        reason = heard.reason if isinstance(heard, Ack) else None
        return Answer(heard, float(AGAIN.get(reason, 0)) if reason else 0.0)

    def _cut(self, what: str, size: int) -> int | None:
        """After how many bytes a body breaks off; None where it does not."""
        if not self.faults.strikes("cut", self.name, what):
            return None
        return int(self.faults.draw(f"place:{self.name}:{what}") * size)


@dataclass(frozen=True)
class _Download:
    """A model that a server gives: where it lies, its size, and whom to tell of what went."""

    endpoint: ServerEndpoint
    blob: str
    size: int
    moved: Callable[[int], None]

    async def next(self, place: int, end: int) -> bytes:
        """Return some bytes from a place on."""
        receiver = self.endpoint.receiver
        until = min(end, place + CHUNK)
        data: bytes = await receiver.run(b"".join, receiver.blobs.read(self.blob, place, until))
        if not data:
            raise LineFault("the model is gone")
        self.moved(len(data))
        return data


class _Incoming:
    """A body of which `data` comes, and then the line breaks if there should be more."""

    coding = "identity"

    def __init__(self, data: bytes, size: int) -> None:
        self._data, self._size, self.read = data, size, 0

    def length(self) -> int | None:
        """Return how long the body says it is."""
        return self._size

    async def piece(self) -> bytes | None:
        """Return the next bytes, or None behind the last. Raises `Gone`."""
        data = self._data[self.read : self.read + CHUNK]
        self.read += len(data)
        if not data and self.read < self._size:
            raise Gone
        return data or None

    async def body(self, limit: int) -> bytes:
        """Return the whole of a small body. Raises `Refused` for a larger one."""
        if self._size > limit:
            what = f"{self._size} bytes; at most {limit} are read here"
            raise Refused(RefusalReason.TOO_LARGE, what)
        found = bytearray()
        while (data := await self.piece()) is not None:
            found += data
        return bytes(found)
