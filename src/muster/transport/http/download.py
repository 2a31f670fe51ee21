# SPDX-License-Identifier: Apache-2.0
"""Models on their way to sites: any range of them, compressed where that pays, never held whole.

The digest is the ETag, so a download that broke off goes on with `Range: bytes=N-` and a model
that is held is not sent again. Floats hardly ever compress; whether these do is tried once, on
their first 256 KiB.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor
from typing import TYPE_CHECKING, TypeVar

from muster.extras import require
from muster.federation.coordinator.receiver import Gone, off_loop
from muster.federation.protocol.limits import DOWNLOADS
from muster.federation.protocol.message import Ack, to_json
from muster.security.refusal import RefusalReason, Refused
from muster.store.blobs import Blobs
from muster.transport.http.request import JSON, Request

if TYPE_CHECKING:
    import zstandard
else:
    zstandard = require("zstandard", extra="service")

__all__ = ["Downloads", "span"]

OCTETS = b"application/octet-stream"
PROBE = 256 << 10  # octets
PAYS = 0.9  # of the size: what is compressed to less is sent compressed
LEVEL = 3
KNOWN = 64  # models of which it is remembered whether they compress
RANGE = re.compile(r"bytes=(?:(\d{1,15})-(\d{1,15})?|-(\d{1,15}))")
T = TypeVar("T")


class Downloads:
    """The models that one server sends; what touches a disk runs in `pool`."""

    def __init__(self, blobs: Blobs, pool: Executor) -> None:
        self.blobs, self.pool = blobs, pool
        self._busy: Counter[str] = Counter()  # how many each name takes now
        self._pays: dict[str, bool] = {}

    async def give(
        self, exchange: Request, digest: str, blob: str, moved: Callable[[int], None]
    ) -> None:
        """Send a model; `moved(octets)` is called as they leave."""
        if self._busy[exchange.name] >= DOWNLOADS:
            text = f"{exchange.name} takes {DOWNLOADS} models at once; end one of them"
            raise Refused(RefusalReason.TOO_OFTEN, text)
        self._busy[exchange.name] += 1
        try:
            await self._give(exchange, digest, blob, moved)
        finally:
            self._busy[exchange.name] -= 1
            self._busy += Counter()  # forget who takes none

    async def _give(
        self, exchange: Request, digest: str, blob: str, moved: Callable[[int], None]
    ) -> None:
        size = await off_loop(self.pool, self.blobs.size, blob)
        if size is None:
            raise Refused(RefusalReason.UNKNOWN, f"there is no model {digest[:12]}… any more")
        tag = f'"{digest}"'
        fields = [(b"etag", tag.encode()), (b"accept-ranges", b"bytes")]
        if tag in exchange.header(b"if-none-match"):
            await exchange.answer(304, b"", OCTETS, fields)
            return
        asked = exchange.header(b"range")
        if exchange.header(b"if-range") not in ("", tag):
            asked = ""
        part = span(asked, size)
        if part is None:
            text = f"{asked!r:.40} is no part of {size} octets; ask for one that is"
            data = to_json(Ack(False, RefusalReason.MALFORMED, text))
            fields.append((b"content-range", b"bytes */%d" % size))
            await exchange.answer(416, data, JSON, fields)
            return
        begin, end = part
        if (begin, end) != (0, size):
            fields.append((b"content-range", b"bytes %d-%d/%d" % (begin, end - 1, size)))
            await exchange.start(206, OCTETS, end - begin, fields)
        elif _accepts(exchange) and await self._worth(digest, blob, size):
            fields += [(b"content-encoding", b"zstd"), (b"vary", b"accept-encoding")]
            await exchange.start(200, OCTETS, None, fields)
            await self._stream(exchange, self._packed(blob), moved)
            return
        else:
            await exchange.start(200, OCTETS, size, [*fields, (b"vary", b"accept-encoding")])
        await self._stream(exchange, self.blobs.read(blob, begin, end), moved)

    async def _stream(
        self, exchange: Request, pieces: Iterator[bytes], moved: Callable[[int], None]
    ) -> None:
        """Send one piece after another, each when the line has taken the one before."""
        async with _ear(exchange) as left:
            while (piece := await off_loop(self.pool, _next, pieces)) is not None:
                if left.done():
                    raise Gone
                await exchange.more(piece)
                moved(len(piece))
            await exchange.more(b"", last=True)

    async def _worth(self, digest: str, blob: str, size: int) -> bool:
        if digest not in self._pays:
            if len(self._pays) >= KNOWN:
                self._pays.pop(next(iter(self._pays)))
            self._pays[digest] = await off_loop(self.pool, self._probe, blob, min(size, PROBE))
        return self._pays[digest]

    def _probe(self, blob: str, size: int) -> bool:
        sample = b"".join(self.blobs.read(blob, 0, size))
        return len(zstandard.ZstdCompressor(level=1).compress(sample)) < PAYS * len(sample)

    def _packed(self, blob: str) -> Iterator[bytes]:
        packer = zstandard.ZstdCompressor(level=LEVEL).compressobj()
        for piece in self.blobs.read(blob):
            yield packer.compress(piece)
        yield packer.flush()


def span(asked: str, size: int) -> tuple[int, int] | None:
    """Return begin and end of the bytes that a Range header asks for; None where there are none.

    No header, or several ranges, ask for the whole.

    >>> span("bytes=2-", 10), span("bytes=-3", 10), span("bytes=0-4", 10), span("bytes=10-", 10)
    ((2, 10), (7, 10), (0, 5), None)
    """
    found = RANGE.fullmatch(asked)
    if not found:
        return 0, size
    if found[3]:
        begin, end = max(0, size - int(found[3])), size
    else:
        begin, end = int(found[1]), min(size, int(found[2] or size) + 1)
    return (begin, end) if begin < end else None


@contextlib.asynccontextmanager
async def _ear(exchange: Request) -> AsyncIterator[asyncio.Task[None]]:
    """Yield a task that is done when the client has gone away."""
    left = asyncio.ensure_future(exchange.left())
    try:
        yield left
    finally:
        left.cancel()


def _next(pieces: Iterator[bytes]) -> bytes | None:
    return next(pieces, None)


def _accepts(exchange: Request) -> bool:
    """Return whether zstd is asked for: listed, and not with a weight of zero."""
    for entry in exchange.header(b"accept-encoding").lower().split(","):
        name, _, weight = entry.strip().partition(";")
        if name.strip() == "zstd":
            return not re.fullmatch(r"\s*q=0(\.0*)?\s*", weight)
    return False
