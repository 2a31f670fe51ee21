# SPDX-License-Identifier: Apache-2.0
"""Models down, updates up: large bodies that go on where they broke off, and are verified whole."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from muster.extras import require
from muster.federation.protocol.message import (
    Ack,
    Evaluate,
    ResumeAt,
    TrainAssignment,
    UpdateHeader,
    to_json,
)
from muster.federation.protocol.unpack import bounded
from muster.federation.site.server_client import RetryLater, ServerClient
from muster.federation.site.state import PendingUpdate
from muster.federation.site.store import SiteStore
from muster.security.refusal import RefusalReason, Refused
from muster.store.blobs import model_name

if TYPE_CHECKING:
    import httpx
    import zstandard
else:
    httpx = require("httpx", extra="site")
    zstandard = require("zstandard", extra="site")

__all__ = ["cut", "deliver", "fetch", "fetch_frozen", "pieces"]

PIECE = 8 << 20  # octets of one upload's request
SEND = 1 << 20  # octets given to the connection at once
GATHER = 1 << 20  # octets that go to the disk at once
PROBE, PAYS = 1 << 17, 0.8  # octets that are compressed to see whether it pays, and when it does
Send = Callable[[int, memoryview], Awaitable[Any]]
SPOILED = 3  # times that a body may be damaged on its way


async def fetch(
    line: ServerClient,
    site_store: SiteStore,
    asked: TrainAssignment | Evaluate,
    size: int,
    live: Callable[[], Any] = bool,
) -> Any:
    """Return the bytes of the model asked about: those held, or downloaded from the break on.

    `size` is how many a model of the plan has: no more are taken. `live()` is called before each
    try, and may raise. Raises `Refused`.
    """
    return await _fetch(line, site_store, _Wanted(asked.model, asked.round, size), live)


async def fetch_frozen(
    line: ServerClient,
    site_store: SiteStore,
    asked: TrainAssignment | Evaluate,
    digest: str,
    size: int,
) -> Any:
    """Return the same of what nobody trains, named by its digest: fetched once, and then held.

    As it is held, it is compared with its digest each time that it is looked for.
    """
    return await _fetch(line, site_store, _Wanted(digest, asked.round, size, "frozen"), bool)


class _Wanted(NamedTuple):
    """A body by its digest, at most so large, and the round whose lease its octets renew."""

    digest: str
    round: int
    size: int
    kind: str = "model"


async def _fetch(
    line: ServerClient, site_store: SiteStore, wanted: _Wanted, live: Callable[[], Any]
) -> Any:
    async def once() -> Any:
        live()
        return await _download(line, site_store, wanted)

    found = await asyncio.to_thread(site_store.model, wanted.digest, wanted.kind)
    if found is None:
        found = await line.persist(once)
    site_store.trim(wanted.kind)
    site_store.at("site: after download")
    return found


async def _download(line: ServerClient, site_store: SiteStore, wanted: _Wanted) -> Any:
    digest, kind = wanted.digest, wanted.kind
    name = model_name(digest, kind)
    held = site_store.models.held(name)
    if not held:
        await asyncio.to_thread(_drop_halves, site_store, name, kind)
    headers = {"accept-encoding": "zstd"}
    if held:
        headers["range"] = f"bytes={held}-"
    path = f"/v1/models/{digest}?round={wanted.round}"
    async with line.http.stream("GET", path, headers=headers) as answer:
        if answer.status_code not in (200, 206, 416):
            await answer.aread()
            line.heard(answer)
        if answer.status_code != 416:  # 416: nothing is missing behind what is held
            begin = _begin(answer)
            if begin != held:
                site_store.models.drop(name)
            if begin not in (0, held):
                raise RetryLater("it sent another part of the model than was asked for")
            await _store(line, site_store, name, (begin, wanted.size), answer)
    if not site_store.models.held(name):
        raise RetryLater(f"it answered {answer.status_code} and nothing of the model")
    await asyncio.to_thread(site_store.models.finish, name)
    found = await asyncio.to_thread(site_store.model, digest, kind)
    if found is None:
        raise RetryLater(f"the model {digest[:12]}… was damaged on its way")
    return found


def _drop_halves(site_store: SiteStore, name: str, kind: str) -> None:
    """Remove unfinished models: a server that begins ever new ones takes the room of one."""
    for other in site_store.models.names(model_name("", kind)):
        if other != name and site_store.models.size(other) is None:
            site_store.models.drop(other)


def _begin(answer: httpx.Response) -> int:
    """Return the place of the first octet of an answer."""
    if answer.status_code == 200:
        return 0
    found = re.match(r"bytes (\d{1,16})-", answer.headers.get("content-range", ""))
    return int(found[1]) if found else -1


async def _store(
    line: ServerClient,
    site_store: SiteStore,
    name: str,
    span: tuple[int, int],
    answer: httpx.Response,
) -> None:
    """Store the bytes of an answer behind those held; what came before a break is kept.

    Raises `RetryLater` for more octets than the model has.
    """
    place = _ModelSink(line, site_store, name, *span)
    zstd = answer.headers.get("content-encoding") == "zstd"
    put = bounded(place.put) if zstd else place.put
    try:
        async for data in answer.aiter_raw():
            if zstd or len(place.waiting) + len(data) >= GATHER:
                await asyncio.to_thread(put, data)  # a few octets may become many
            else:
                put(data)
    except Refused as refused:
        raise RetryLater(f"it sent what cannot be unpacked ({refused.text})") from None
    finally:
        place.flush()


class _ModelSink:
    """The sink for the bytes of a model: to the disk as they come, and no more than it has."""

    def __init__(
        self, line: ServerClient, site_store: SiteStore, name: str, end: int, most: int
    ) -> None:
        self.line, self.site_store, self.name, self.end, self.most = (
            line,
            site_store,
            name,
            end,
            most,
        )
        self.waiting = bytearray()
        self.over = False
        self.gate = threading.Lock()  # a put that was cancelled may still go on

    def put(self, data: bytes) -> None:
        """Take some. Raises `RetryLater` for more than the plan's model has; nothing is kept."""
        with self.gate:
            if self.over:
                return
            if self.end + len(self.waiting) + len(data) > self.most:
                self.waiting.clear()
                self.site_store.models.drop(self.name)
                raise RetryLater(f"it sent more than the {self.most} octets that a model has")
            self.waiting += data
            if len(self.waiting) >= GATHER:
                self._write()

    def flush(self) -> None:
        """Write what is left; nothing comes behind it."""
        with self.gate:
            self.over = True
            if self.waiting:
                self._write()

    def _write(self) -> None:
        piece, self.waiting = bytes(self.waiting), bytearray()
        self.end = self.site_store.models.append(self.name, self.end, piece)
        self.line.moved += len(piece)


async def deliver(line: ServerClient, site_store: SiteStore, pending: PendingUpdate) -> Ack:
    """Announce an update and send what the server lacks of it. Raises `Refused`."""
    update = pending.update
    body = site_store.body(pending)
    pack = zstandard.ZstdCompressor(level=1) if _pays(body) else None
    site_store.at("site: before upload")
    spoiled = 0

    async def once() -> Ack:
        nonlocal spoiled
        try:
            return await _upload(line, site_store, update, (body, pack))
        except Refused as refused:
            if refused.reason is RefusalReason.WRONG_DIGEST:
                spoiled += 1
                passing = spoiled < SPOILED and await asyncio.to_thread(site_store.sound, pending)
            else:
                passing = refused.reason is RefusalReason.UNKNOWN
            if passing:
                raise RetryLater(str(refused)) from None
            raise

    verdict = await line.persist(once)
    site_store.at("site: after upload")
    return verdict


async def _upload(
    line: ServerClient,
    site_store: SiteStore,
    update: UpdateHeader,
    load: tuple[Any, zstandard.ZstdCompressor | None],
) -> Ack:
    answer = await line.http.post("/v1/updates", content=to_json(update))
    place = line.heard(answer, ResumeAt).offset
    if place > update.size:
        raise RetryLater(f"it holds {place} octets of {update.size}")
    if place == update.size:
        return Ack(True)
    send = partial(_put, line, update, load[1])
    return await pieces(line, site_store, memoryview(load[0]), send, place)


async def pieces(
    line: ServerClient, site_store: SiteStore, body: memoryview, send: Send, place: int
) -> Ack:
    """Send a body from `place` on until its verdict; `send(place, piece)` sends one piece.

    Raises `RetryLater` where the server holds no more than before, and `Refused`.
    """
    while True:
        piece = body[place : place + PIECE]
        heard: Any = line.heard(await send(place, piece), ResumeAt, Ack)
        if isinstance(heard, Ack):
            line.moved += len(piece)
            return heard
        if not place < heard.offset <= len(body):
            raise RetryLater(
                f"it holds {heard.offset} octets of {len(body)} after {place} were sent"
            )
        line.moved += heard.offset - place
        place = heard.offset
        site_store.at("site: in upload")


async def _put(
    line: ServerClient,
    update: UpdateHeader,
    pack: zstandard.ZstdCompressor | None,
    place: int,
    piece: memoryview,
) -> httpx.Response:
    path = f"/v1/updates/{update.round}/{update.digest}?offset={place}&size={update.size}"
    headers = {}
    if pack is not None:
        piece = memoryview(await asyncio.to_thread(pack.compress, piece))
        headers["content-encoding"] = "zstd"
    headers["content-length"] = str(len(piece))
    return await line.http.put(path, content=cut(piece), headers=headers)


async def cut(piece: memoryview) -> AsyncIterator[bytes]:
    """Yield a body in pieces that lie where it lies."""
    for begin in range(0, len(piece), SEND):
        part: Any = piece[begin : begin + SEND]
        yield part


def _pays(body: Any) -> bool:
    """Return whether a piece from the middle becomes much smaller."""
    middle = max(0, len(body) // 2 - PROBE // 2)
    sample = bytes(memoryview(body)[middle : middle + PROBE])
    return len(zstandard.ZstdCompressor(level=1).compress(sample)) < PAYS * len(sample)
