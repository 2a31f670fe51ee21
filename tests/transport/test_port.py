# SPDX-License-Identifier: Apache-2.0
"""Every transport keeps the promises of the port, and the check finds those that are broken."""

import asyncio
import contextlib
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("cryptography")
pytest.importorskip("uvicorn")

from tests.transport.http.stand import (
    DATA,
    FAST,
    HELLO,
    SAID,
    Desk,
    Federation,
    edge_over,
    keep_model,
    listening,
)

from muster.errors import MusterError
from muster.federation.coordinator.endpoint import ServerEndpoint
from muster.federation.protocol.message import Ack
from muster.federation.protocol.transport import Answer
from muster.security.refusal import Refused
from muster.store.blobs import Files
from muster.testing import TransportStand, check_transport
from muster.transport.http.client import HTTPTransport
from muster.transport.http.listen import ListenAddress
from muster.transport.http.protocol import Trust
from muster.transport.memory.line import MemoryServer, MemoryTransport

MODEL = bytes(range(251)) * 900


def stand_of(service, blobs, connect, cut, mend):
    digest = keep_model(service, blobs, MODEL)
    plan = json.dumps(service.facts.plan).encode()
    return TransportStand(connect, HELLO, plan, MODEL, digest, SAID, DATA, cut, mend)


@contextlib.asynccontextmanager
async def over_http(folder, *, tls=False):
    """A server on loopback; whoever cuts it stops it in order, and it comes back at its port."""
    service, lives = Desk(), []
    scheme, trust, context = "http", None, None
    if tls:
        people = Federation(folder / "pki")
        trust, context = Trust(people.hub), people.tls(people.join("lyon"))
        scheme = "https"

    async def mend(port=0):
        stack = contextlib.AsyncExitStack()
        edge, _, blobs = stack.enter_context(edge_over(folder, service, plain=not tls))
        where = ListenAddress(port=port, tick=0.05, grace=2.0)
        port = await stack.enter_async_context(listening(edge, where, trust))
        lives.append(stack)
        return blobs, port

    async def cut():
        await lives.pop().aclose()

    blobs, port = await mend()
    address = f"{scheme}://localhost:{port}"
    try:
        yield stand_of(
            service,
            blobs,
            lambda: HTTPTransport(address, "lyon", context),
            cut,
            lambda: mend(port),
        )
    finally:
        await cut()


@contextlib.asynccontextmanager
async def over_memory(folder, line=MemoryTransport):
    """A server in this process; whoever cuts it ends it where it stands."""
    service, server = Desk(), MemoryServer()
    blobs = Files(folder / "blobs", FAST)
    with ThreadPoolExecutor(2) as pool:

        async def mend():
            server.endpoint = ServerEndpoint(service, blobs, pool)

        await mend()
        try:
            yield stand_of(service, blobs, lambda: line(server, "lyon"), server.stop, mend)
        finally:
            await server.stop()


STANDS = {
    "memory": over_memory,
    "http": over_http,
    "https": lambda folder: over_http(folder, tls=True),
}


def fresh(tmp_path, stand):
    """A folder for each part of the check."""
    parts = iter(range(100))

    def make():
        folder = tmp_path / str(next(parts))
        folder.mkdir()
        return stand(folder)

    return make


@pytest.mark.parametrize("name", STANDS)
def test_every_transport_keeps_the_promises_of_the_port(name, tmp_path):
    check_transport(fresh(tmp_path, STANDS[name]))


class Swallows(MemoryTransport):
    async def download(self, model, offset, sink):
        try:
            return await super().download(model, offset, sink)
        except MusterError:
            raise
        except Exception:
            return Answer(Ack(True))


class Leaks(MemoryTransport):
    async def call(self, question):
        if self.server.endpoint is None:
            raise ConnectionResetError("of a library")
        return await super().call(question)


class Raises(MemoryTransport):
    async def call(self, question):
        found = await super().call(question)
        if isinstance(found.said, Ack) and found.said.reason is not None:
            raise Refused(found.said.reason, found.said.text)
        return found


class OneByOne(MemoryTransport):
    gate = None

    async def call(self, question):
        self.gate = self.gate or asyncio.Lock()
        if self.gate.locked():
            return Answer(Ack(True))
        async with self.gate:
            return await super().call(question)


class FromTheStart(MemoryTransport):
    async def download(self, model, offset, sink):
        class Moved:
            def start(self, begin):
                sink.start(offset)

            put = sink.put

        return await super().download(model, 0, Moved())


class CountsNothing(MemoryTransport):
    async def upload(self, body, offset, data):
        before = self.traffic.sent
        found = await super().upload(body, offset, data)
        self.traffic.sent = before
        return found


class ForgetsWhere(MemoryTransport):
    async def upload(self, body, offset, data):
        return await super().upload(body, 0, data)


BROKEN = {
    Swallows: "swallowed",
    Leaks: "ConnectionResetError",
    Raises: "an answer came as Refused",
    OneByOne: "beside one that is kept",
    FromTheStart: "bytes came of",
    CountsNothing: "an upload was not counted",
    ForgetsWhere: "the rest",
}


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.__name__)
def test_the_check_finds_a_promise_that_is_broken(kind, tmp_path):
    with pytest.raises(AssertionError, match=BROKEN[kind]):
        check_transport(fresh(tmp_path, lambda folder: over_memory(folder, kind)))
