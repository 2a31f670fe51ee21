# SPDX-License-Identifier: Apache-2.0
"""Models down, updates up: large bodies that go on where they broke off, and are verified whole."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from muster.federation.protocol.message import (
    Ack,
    Evaluate,
    ResumeAt,
    TrainAssignment,
    UpdateHeader,
)
from muster.federation.protocol.transport import Body, ModelQuery, UpdateBody
from muster.federation.site.server_client import RetryLater, ServerClient
from muster.federation.site.state import PendingUpdate
from muster.federation.site.store import SiteStore
from muster.security.refusal import RefusalReason, Refused
from muster.store.blobs import model_name

__all__ = ["deliver", "fetch", "fetch_frozen", "send"]

PIECE = 8 << 20  # bytes of one upload's request
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
    place = _ModelPlace(line, site_store, name, (held, wanted.size))
    try:
        line.heard(await line.port.download(ModelQuery(digest, wanted.round), held, place), Ack)
    finally:
        place.leave()
    if not site_store.models.held(name):
        raise RetryLater("it answered nothing of the model")
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


class _ModelPlace:
    """Where the bytes of a model go: to the disk as they come, and no more than a model has.

    `span` is the end of what is held, and the size of a model of the plan.
    """

    def __init__(
        self, line: ServerClient, site_store: SiteStore, name: str, span: tuple[int, int]
    ) -> None:
        self.line, self.models, self.name = line, site_store.models, name
        self.end, self.most = span
        self.over = False
        self.gate = threading.Lock()  # a put that was cancelled may still go on

    def start(self, offset: int) -> None:
        """Keep what is held only when the bytes go on from its end."""
        held, self.end = self.end, offset
        if offset != held:
            self.models.drop(self.name)
        if offset not in (0, held):
            raise RetryLater("it sent another part of the model than was asked for")

    def put(self, data: bytes) -> None:
        """Take some. Raises `RetryLater` for more than the plan's model has; nothing is kept."""
        with self.gate:
            if self.over:
                return
            if self.end + len(data) > self.most:
                self.over = True
                self.models.drop(self.name)
                raise RetryLater(f"it sent more than the {self.most} bytes that a model has")
            self.end = self.models.append(self.name, self.end, data)
            self.line.moved += len(data)

    def leave(self) -> None:
        """Take nothing more."""
        with self.gate:
            self.over = True


async def deliver(line: ServerClient, site_store: SiteStore, pending: PendingUpdate) -> Ack:
    """Announce an update and send what the server lacks of it. Raises `Refused`."""
    update = pending.update
    body = memoryview(site_store.body(pending))
    site_store.at("site: before upload")
    spoiled = 0

    async def once() -> Ack:
        nonlocal spoiled
        try:
            return await _upload(line, site_store, update, body)
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
    line: ServerClient, site_store: SiteStore, update: UpdateHeader, data: memoryview
) -> Ack:
    place = line.heard(await line.port.call(update), ResumeAt).offset
    if place > update.size:
        raise RetryLater(f"it holds {place} bytes of {update.size}")
    if place == update.size:
        return Ack(True)
    body = UpdateBody(update.round, update.digest, update.size)
    return await send(line, site_store, body, data, place)


async def send(
    line: ServerClient, site_store: SiteStore, body: Body, data: memoryview, place: int
) -> Ack:
    """Return a body from `place` on, piece by piece, to its verdict.

    One that has no digest goes as a whole: a server that asks for the rest of it lies. Raises
    `RetryLater` where the server holds no more than before, and `Refused`.
    """
    most, kinds = (PIECE, (ResumeAt, Ack)) if body.digest else (len(data), (Ack,))
    while True:
        piece = data[place : place + most]
        heard: Any = line.heard(await line.port.upload(body, place, piece), *kinds)
        if isinstance(heard, Ack):
            line.moved += len(piece)
            return heard
        if not place < heard.offset <= len(data):
            raise RetryLater(
                f"it holds {heard.offset} bytes of {len(data)} after {place} were sent"
            )
        line.moved += heard.offset - place
        place = heard.offset
        site_store.at("site: in upload")
