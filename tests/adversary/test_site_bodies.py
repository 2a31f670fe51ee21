# SPDX-License-Identifier: Apache-2.0
"""A server whose answers are large, endless, or small until unpacked: a site stays small."""

import asyncio
import gzip
import tracemalloc
import zlib
from hashlib import sha256

import httpx
import pytest
import zstandard
from tests.federation.site.lines import line_over
from tests.federation.site.scene import hurried

from muster.federation.protocol import limits
from muster.federation.protocol.limits import ANSWER
from muster.federation.protocol.message import (
    VERSIONS,
    Hello,
    Poll,
    TrainAssignment,
    Wait,
    Welcome,
    to_json,
)
from muster.federation.protocol.transport import (
    LineFault,
    MembersQuery,
    PlanQuery,
    SessionBody,
    SessionQuery,
)
from muster.federation.site import transfers
from muster.federation.site.store import SiteStore
from muster.ports import Disk
from muster.store.blobs import model_name

HELLO = Hello(VERSIONS, "a", "0" * 64, 3)
POLL = Poll("r", 0, 1.0)
WELCOME = to_json(Welcome(2, "r1", "a", 15.0))
MODEL = bytes(range(256)) * 64
BIG = 256 << 20
PEAK = 24 << 20  # bytes of Python's memory, whatever is sent: a window, a piece, a read


def test_no_cookie_of_a_server_is_kept_or_sent():
    """Each answer could bring more of them, which all later requests would carry."""
    cookies = [("set-cookie", f"c{n}={'x' * 1000}; Path=/") for n in range(50)]
    rogue = Streams(*([(cookies, Stream([to_json(Wait(1.0))]))] * 3))

    async def ask(line):
        for _ in range(3):
            await line.say(POLL, Wait)
        return list(line.port.http.cookies.jar)

    assert over(rogue, ask)[0] == []
    assert not any("cookie" in request.headers for request in rogue.heard)


class Silent(httpx.AsyncBaseTransport):
    """Answers the first question with `begin`, and then says nothing more of it for ever."""

    def __init__(self, begin, then):
        self.begin, self.then, self.heard = begin, then, 0

    async def handle_async_request(self, request):
        self.heard += 1
        if self.heard > 1:
            return httpx.Response(200, content=self.then)
        if self.begin is None:
            await asyncio.Event().wait()
        return httpx.Response(200, stream=Dripping(self.begin))


class Dripping(httpx.AsyncByteStream):
    """Some octets, and no end."""

    def __init__(self, begin):
        self.begin = begin

    async def __aiter__(self):
        yield self.begin
        await asyncio.Event().wait()

    async def aclose(self):
        pass


@pytest.mark.parametrize("begin", [None, b"{"])
def test_no_answer_is_waited_for_without_end(begin):
    """A sender of one byte a minute keeps no question open, and no secret alive, for ever."""
    silent = Silent(begin, to_json(Wait(1.0)))

    async def main():
        how = {"patience": hurried(), "longest": 0.05}
        async with asyncio.timeout(20), line_over(silent, **how) as line:
            return await line.say(POLL, Wait)

    assert asyncio.run(main()) == Wait(1.0) and silent.heard == 2


class Stream(httpx.AsyncByteStream):
    """A body in pieces; `endless` repeats the last one until nobody takes it."""

    def __init__(self, pieces, endless=False):
        self.pieces, self.endless, self.sent, self.closed = pieces, endless, 0, False

    async def __aiter__(self):
        for piece in self.pieces:
            self.sent += len(piece)
            yield piece
        while self.endless:
            self.sent += len(self.pieces[-1])
            yield self.pieces[-1]

    async def aclose(self):
        self.closed = True


class Streams(httpx.AsyncBaseTransport):
    """Gives these answers, one after the other: (headers, stream)."""

    def __init__(self, *answers):
        self.answers, self.heard = list(answers), []

    async def handle_async_request(self, request):
        await request.aread()
        self.heard.append(request)
        headers, stream = self.answers.pop(0)
        return httpx.Response(200, headers=headers, stream=stream)


def over(rogue, deed):
    """Return the outcome at a site, and the most memory that took."""

    async def life():
        async with line_over(rogue, patience=hurried()) as line:
            return await deed(line)

    tracemalloc.start()
    try:
        found = asyncio.run(life())
        return found, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def packed(size, pack):
    """Zeros, compressed."""
    return b"".join([*(pack.compress(bytes(1 << 20)) for _ in range(size >> 20)), pack.flush()])


def deflate(bits):
    return packed(BIG, zlib.compressobj(9, zlib.DEFLATED, bits))


CODED = {
    "gzip": lambda: deflate(31),
    "deflate": lambda: deflate(15),
    "zstd": lambda: packed(BIG, zstandard.ZstdCompressor(3).compressobj()),
    "gzip, gzip": lambda: gzip.compress(deflate(31)),
    "br": lambda: bytes(100),
    "GZIP": lambda: deflate(31),
}


def hello(line):
    return line.say(HELLO, Welcome)


@pytest.mark.parametrize("coding", CODED)
def test_an_answer_in_a_coding_that_was_not_asked_for_is_not_unpacked(coding):
    bomb = Stream([CODED[coding]()])
    rogue = Streams(({"content-encoding": coding}, bomb), ({}, Stream([WELCOME])))
    welcome, peak = over(rogue, hello)
    assert welcome.run == "r1" and len(rogue.heard) == 2
    assert bomb.sent == 0 and bomb.closed and peak < PEAK


BOUNDS = {
    "hello": (HELLO, ANSWER),
    "plan": (PlanQuery(), limits.PLAN_ANSWER),
    "members": (MembersQuery(1), limits.MEMBERS_ANSWER),
    "session": (SessionQuery(1, 1, 0, 0.0), limits.SESSION_ANSWER),
    "a word in a session": (SessionBody(1, 1), ANSWER),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_an_endless_answer_is_read_up_to_its_bound(name):
    question, size = BOUNDS[name]
    endless = Stream([b" " * (1 << 16)], endless=True)

    async def ask(line):
        with pytest.raises(LineFault, match=f"more than {size} bytes"):
            if isinstance(question, SessionBody):
                await line.port.upload(question, 0, memoryview(b"word"))
            else:
                await line.port.call(question)

    _, peak = over(Streams(({}, endless)), ask)
    assert endless.closed and size <= endless.sent <= size + (1 << 16)
    assert peak < PEAK + 2 * size  # what came, and the whole that it would have been


def test_an_answer_at_its_bound_is_heard():
    wait = to_json(Wait(1.0))
    whole = wait[:-1] + b" " * (ANSWER - len(wait)) + b"}"

    async def ask(line):
        return line.heard(await line.port.call(POLL), Wait)

    async def over_it(line):
        with pytest.raises(LineFault, match=f"more than {ANSWER} bytes"):
            await line.port.call(POLL)

    assert over(Streams(({}, Stream([whole]))), ask)[0] == Wait(1.0)
    over(Streams(({}, Stream([whole, b" "]))), over_it)


@pytest.fixture
def site_store(tmp_path):
    found = SiteStore(tmp_path, disk=Disk(sync=int))
    yield found
    found.close()


ASKED = TrainAssignment("r1", 1, sha256(MODEL).hexdigest(), 30.0)


def fetch(site_store):
    return lambda line: transfers.fetch(line, site_store, ASKED, len(MODEL))


BODIES = {
    "packed zeros": (
        lambda: Stream([packed(BIG, zstandard.ZstdCompressor(3).compressobj())]),
        {"content-encoding": "zstd"},
    ),
    "more than a model": (lambda: Stream([MODEL, b"x"]), {}),
    "no end": (lambda: Stream([b"x" * 4096], endless=True), {}),
    "no end, packed": (
        lambda: Stream([zstandard.compress(bytes(1 << 16))], endless=True),
        {"content-encoding": "zstd"},
    ),
    "no zstd": (lambda: Stream([b"plain"]), {"content-encoding": "zstd"}),
    "gzip": (lambda: Stream([deflate(31)]), {"content-encoding": "gzip"}),
    "a window of 128 MiB": (lambda: Stream([wide()]), {"content-encoding": "zstd"}),
}


def wide():
    given = zstandard.ZstdCompressionParameters.from_level(3, window_log=27)
    pack = zstandard.ZstdCompressor(compression_params=given).compressobj()
    return pack.compress(MODEL) + pack.flush()


@pytest.mark.parametrize("name", BODIES)
def test_a_model_takes_no_more_than_a_model(site_store, name):
    make, headers = BODIES[name]
    stream = make()
    rogue = Streams((headers, stream), ({}, Stream([MODEL])))
    found, peak = over(rogue, fetch(site_store))
    assert bytes(found) == MODEL and stream.closed and peak < PEAK
    assert sum(file.stat().st_size for file in site_store.folder.glob("model-*")) == len(MODEL)


def test_a_packed_model_at_its_bound_is_taken(site_store):
    pieces = [zstandard.compress(MODEL)]
    rogue = Streams(({"content-encoding": "zstd"}, Stream(pieces)))
    assert bytes(over(rogue, fetch(site_store))[0]) == MODEL


def test_ever_new_models_of_which_none_ends_take_the_room_of_one(site_store):
    for number in range(5):
        site_store.models.append(model_name(f"{number:064x}"), 0, b"half")
    over(Streams(({}, Stream([MODEL]))), fetch(site_store))
    assert len(list(site_store.folder.glob("model-*"))) == 1
