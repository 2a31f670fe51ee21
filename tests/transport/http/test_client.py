# SPDX-License-Identifier: Apache-2.0
"""Whatever is raised below the port is a fault of the line, and ends no site."""

import asyncio
import random
import ssl

import httpx
import pytest

pytest.importorskip("cryptography")

from tests.federation.site.hub import Hub, Wire
from tests.federation.site.lines import line_over
from tests.federation.site.scene import PLANS, attend, hurried

from muster.errors import IdentityError, NoRoom
from muster.federation.protocol.message import Ack, Poll, RunEnded, Wait, to_json
from muster.federation.protocol.transport import (
    LineFault,
    ModelQuery,
    PlanQuery,
    SessionBody,
    UpdateBody,
)
from muster.transport.http.client import HTTPTransport
from muster.transport.routes import ROUTES, found, route_of

DIGEST = "0" * 64
POLL = Poll("r", 0, 1.0)
BODY = UpdateBody(1, DIGEST, 4)
NOISE = random.Random(0).randbytes(3 << 20)

ODD = [
    AttributeError("'NoneType' object has no attribute 'selected_alpn_protocol'"),
    KeyError("host"),
    ssl.SSLError("odd"),
    OSError("odd"),
    EOFError(),
    RuntimeError("Event loop is closed"),
    NotImplementedError(),
    MemoryError(),
    RecursionError(),
    UnicodeDecodeError("ascii", b"?", 0, 1, "odd"),
    asyncio.InvalidStateError(),
    asyncio.CancelledError(),  # of its own, while nobody has cancelled this
    ExceptionGroup("two", [OSError("a"), OSError("b")]),
    StopIteration(),
    Wait(1.0).__class__,  # a class that is no exception: a TypeError
]


class Collecting:
    """A sink that keeps what comes, or raises."""

    def __init__(self, error=None):
        self.data, self.error, self.begun = bytearray(), error, None

    def start(self, offset):
        self.begun = offset

    def put(self, data):
        if self.error is not None:
            raise self.error
        self.data += data


def raising(error):
    def answer(request):
        raise error

    return answer


def over(answer, deed, **more):
    """Return what a port makes of it whose requests are answered so."""

    async def life():
        port = HTTPTransport("http://hub", "a", transport=Wire(answer), **more)
        try:
            return await deed(port)
        finally:
            await port.close()

    return asyncio.run(life())


DEEDS = {
    "call": lambda port: port.call(POLL),
    "upload": lambda port: port.upload(BODY, 0, memoryview(b"body")),
    "download": lambda port: port.download(ModelQuery(DIGEST, 1), 0, Collecting()),
}


@pytest.mark.parametrize("error", ODD, ids=lambda e: getattr(e, "__name__", type(e).__name__))
@pytest.mark.parametrize("deed", DEEDS)
def test_any_exception_below_the_port_is_a_fault_of_the_line(deed, error):
    with pytest.raises(LineFault):
        over(raising(error), DEEDS[deed])


@pytest.mark.parametrize("error", ODD, ids=lambda e: getattr(e, "__name__", type(e).__name__))
def test_a_site_goes_on_behind_any_exception_below_the_port(error, tmp_path):
    """Seen once: an AttributeError while a connection was made ended a site."""
    hub = Hub(PLANS["plain"], rounds=1)
    calm = len(run_of(hub, tmp_path / "calm"))
    for number in range(calm):
        hub = Hub(PLANS["plain"], rounds=1)
        hub.faults[number] = lambda request, answer: raising(error)(request)
        run_of(hub, tmp_path / str(number))


def run_of(hub, folder):
    assert attend(hub.plan, hub, folder).rounds == 1
    return hub.requests


def test_whoever_is_cancelled_stops():
    """A fault of the line is not made of a site that is told to stop."""

    async def life():
        async def never(request):
            await asyncio.Event().wait()

        port = HTTPTransport("http://hub", "a", transport=httpx.MockTransport(never))
        asked = asyncio.ensure_future(port.call(POLL))
        await asyncio.sleep(0)
        asked.cancel()
        await asyncio.wait([asked])
        assert asked.cancelled()

    asyncio.run(life())


def test_what_a_sink_raises_passes_and_is_no_fault_of_the_line():
    def answer(request):
        return httpx.Response(200, content=b"model")

    for error in (NoRoom("full"), ZeroDivisionError("a fault of ours")):
        with pytest.raises(type(error)):
            over(answer, lambda p, e=error: p.download(ModelQuery(DIGEST, 1), 0, Collecting(e)))


def test_a_server_that_does_not_prove_who_it_is_is_no_fault_of_the_line():
    cause = ssl.SSLCertVerificationError("self-signed")
    cause.verify_message = "self-signed certificate"
    with pytest.raises(IdentityError, match="self-signed"):
        over(raising(cause), DEEDS["call"])


def test_a_line_that_cannot_be_closed_in_order_is_told_of_and_ends_nothing():
    class Stuck(httpx.MockTransport):
        async def aclose(self):
            raise AttributeError("odd")

    seen = []

    async def life():
        wait = Stuck(lambda request: httpx.Response(200, content=to_json(Wait(1.0))))
        async with line_over(wait, patience=hurried(), watch=seen.append) as line:
            return await line.say(POLL, Wait, RunEnded)

    assert asyncio.run(life()) == Wait(1.0)
    assert [event["event"] for event in seen] == ["told"]


def test_bytes_are_counted_once_in_each_direction():
    """As they go over the line, with those that were in vain."""
    body, model, asked = bytes(3 << 20), b"m" * 1000, to_json(POLL)
    fails = [httpx.ReadError("torn"), None]

    def answer(request):
        if request.method == "POST":
            return httpx.Response(200, content=to_json(Wait(1.0)))
        if request.method == "PUT":
            if error := fails.pop(0):
                raise error
            return httpx.Response(200, content=to_json(Ack(True)))
        return httpx.Response(200, content=model)

    async def deed(port):
        await port.call(POLL)
        sink = Collecting()
        await port.download(ModelQuery(DIGEST, 1), 0, sink)
        assert sink.data == model and sink.begun == 0
        heard = len(to_json(Wait(1.0))) + len(model)
        assert (port.traffic.sent, port.traffic.received) == (len(asked), heard)
        noise = memoryview(NOISE)
        with pytest.raises(LineFault):
            await port.upload(UpdateBody(1, DIGEST, len(noise)), 0, noise)
        await port.upload(UpdateBody(1, DIGEST, len(noise)), 0, noise)
        assert port.traffic.sent == len(asked) + 2 * len(noise)
        packed = port.traffic.sent
        fails.append(None)
        await port.upload(UpdateBody(1, DIGEST, len(body)), 0, memoryview(body))
        assert 0 < port.traffic.sent - packed < len(body) // 100  # as it went: packed

    over(answer, deed)


def test_the_table_of_routes_says_every_kind_once_and_finds_its_own_addresses():
    kinds = [kind for route in ROUTES for kind in route.asked]
    assert len(kinds) == len(set(kinds))
    questions = [BODY, ModelQuery(DIGEST, 3), PlanQuery(), SessionBody(2, 1)]
    for question in questions:
        route = route_of(type(question))
        path, _, query = route.address(question, 4).partition("?")
        methods, holes = found(path)
        assert methods[route.method] is route
        assert holes == {k: str(vars(question)[k]) for k in holes}
        assert ("offset=4" in query) == isinstance(question, UpdateBody)
    whole, pieces = SessionBody(2, 1), SessionBody(2, 1, DIGEST, 9)
    assert route_of(SessionBody).address(whole) == "/v1/secure/2?attempt=1"
    assert route_of(SessionBody).address(pieces, 4).endswith("&size=9&offset=4")


@pytest.mark.parametrize("path", ["/v1/models/{digest}", "/v1/updates/0/" + DIGEST, "/v1/x", ""])
def test_what_is_no_address_is_not_found(path):
    assert found(path) == ({}, {})
