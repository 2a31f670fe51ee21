# SPDX-License-Identifier: Apache-2.0
"""Models down, updates up: large bodies that go on where they broke off, and are verified whole."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from muster.extras import require
from muster.service.message import Offer, Update, Verdict, to_json
from muster.service.refusal import Reason, Refused
from muster.service.site.line import Again, Line
from muster.service.site.state import Pending
from muster.service.site.vault import Vault
from muster.store.blobs import model_name

if TYPE_CHECKING:
    import httpx
    import zstandard
else:
    httpx = require("httpx", extra="site")
    zstandard = require("zstandard", extra="site")

__all__ = ["cut", "deliver", "fetch", "pieces"]

PIECE = 8 << 20  # octets of one upload's request
SEND = 1 << 20  # octets given to the connection at once
GATHER = 1 << 20  # octets that go to the disk at once
PROBE, PAYS = 1 << 17, 0.8  # octets that are compressed to see whether it pays, and when it does
Send = Callable[[int, memoryview], Awaitable[Any]]
SPOILED = 3  # times that a body may be damaged on its way


async def fetch(line: Line, vault: Vault, digest: str, round: int) -> Any:
    """A model's octets: those held, or downloaded from where it broke off. Raises `Refused`."""
    found = await asyncio.to_thread(vault.model, digest)
    if found is None:
        found = await line.persist(partial(_download, line, vault, digest, round))
    vault.trim()
    vault.at("site: after download")
    return found


async def _download(line: Line, vault: Vault, digest: str, round: int) -> Any:
    name = model_name(digest)
    held = vault.models.held(name)
    headers = {"accept-encoding": "zstd"}
    if held:
        headers["range"] = f"bytes={held}-"
    path = f"/v1/models/{digest}?round={round}"
    async with line.http.stream("GET", path, headers=headers) as answer:
        if answer.status_code not in (200, 206, 416):
            await answer.aread()
            line.heard(answer)
        if answer.status_code != 416:  # 416: nothing is missing behind what is held
            begin = _begin(answer)
            if begin != held:
                vault.models.drop(name)
            if begin not in (0, held):
                raise Again("it sent another part of the model than was asked for")
            await _store(line, vault, name, begin, answer)
    await asyncio.to_thread(vault.models.finish, name)
    found = await asyncio.to_thread(vault.model, digest)
    if found is None:
        raise Again(f"the model {digest[:12]}… was damaged on its way")
    return found


def _begin(answer: httpx.Response) -> int:
    """The place of the first octet of an answer."""
    if answer.status_code == 200:
        return 0
    found = re.match(r"bytes (\d{1,16})-", answer.headers.get("content-range", ""))
    return int(found[1]) if found else -1


async def _store(line: Line, vault: Vault, name: str, end: int, answer: httpx.Response) -> None:
    """The octets of an answer, behind those that are held; what came before a break is kept."""
    waiting = bytearray()
    unpack: Callable[[bytes], bytes] = bytes
    if answer.headers.get("content-encoding") == "zstd":
        unpack = zstandard.ZstdDecompressor().decompressobj().decompress
    try:
        async for data in answer.aiter_raw():
            waiting += unpack(data)
            if len(waiting) >= GATHER:
                piece, waiting = bytes(waiting), bytearray()  # a cancelled append may still end
                end = await asyncio.to_thread(vault.models.append, name, end, piece)
                line.moved += len(piece)
    except zstandard.ZstdError as error:
        raise Again(f"it sent what cannot be unpacked ({error})") from None
    finally:
        if waiting:
            vault.models.append(name, end, bytes(waiting))
            line.moved += len(waiting)


async def deliver(line: Line, vault: Vault, pending: Pending) -> Verdict:
    """Announce an update and send what the server lacks of it. Raises `Refused`."""
    update = pending.update
    body = vault.body(pending)
    pack = zstandard.ZstdCompressor(level=1) if _pays(body) else None
    vault.at("site: before upload")
    spoiled = 0

    async def once() -> Verdict:
        nonlocal spoiled
        try:
            return await _upload(line, vault, update, (body, pack))
        except Refused as refused:
            if refused.reason is Reason.WRONG_DIGEST:
                spoiled += 1
                passing = spoiled < SPOILED and await asyncio.to_thread(vault.sound, pending)
            else:
                passing = refused.reason is Reason.UNKNOWN
            if passing:
                raise Again(str(refused)) from None
            raise

    verdict = await line.persist(once)
    vault.at("site: after upload")
    return verdict


async def _upload(
    line: Line, vault: Vault, update: Update, load: tuple[Any, zstandard.ZstdCompressor | None]
) -> Verdict:
    answer = await line.http.post("/v1/updates", content=to_json(update))
    place = line.heard(answer, Offer).offset
    if place == update.size:
        return Verdict(True)
    send = partial(_put, line, update, load[1])
    return await pieces(line, vault, memoryview(load[0]), send, place)


async def pieces(line: Line, vault: Vault, body: memoryview, send: Send, place: int) -> Verdict:
    """A body from `place` on, piece by piece, to its verdict; `send(place, piece)` sends one.

    Raises `Again` where the server holds no more than before, and `Refused`.
    """
    while True:
        piece = body[place : place + PIECE]
        heard: Any = line.heard(await send(place, piece), Offer, Verdict)
        if isinstance(heard, Verdict):
            line.moved += len(piece)
            return heard
        if heard.offset <= place:
            raise Again(f"it holds {heard.offset} octets after {place} were sent")
        line.moved += heard.offset - place
        place = heard.offset
        vault.at("site: in upload")


async def _put(
    line: Line, update: Update, pack: zstandard.ZstdCompressor | None, place: int,
    piece: memoryview,
) -> httpx.Response:  # fmt: skip
    path = f"/v1/updates/{update.round}/{update.digest}?offset={place}&size={update.size}"
    headers = {}
    if pack is not None:
        piece = memoryview(await asyncio.to_thread(pack.compress, piece))
        headers["content-encoding"] = "zstd"
    headers["content-length"] = str(len(piece))
    return await line.http.put(path, content=cut(piece), headers=headers)


async def cut(piece: memoryview) -> AsyncIterator[bytes]:
    """A body in pieces that lie where it lies."""
    for begin in range(0, len(piece), SEND):
        part: Any = piece[begin : begin + SEND]
        yield part


def _pays(body: Any) -> bool:
    """Whether a piece from the middle becomes much smaller."""
    middle = max(0, len(body) // 2 - PROBE // 2)
    sample = bytes(memoryview(body)[middle : middle + PROBE])
    return len(zstandard.ZstdCompressor(level=1).compress(sample)) < PAYS * len(sample)
