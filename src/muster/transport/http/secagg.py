# SPDX-License-Identifier: Apache-2.0
"""What members say in a secure sum, and what they are told: durable before it is answered.

What is no message is refused here, and nothing is kept of it; what a message says is the session's
business. Of each kind the first by a member stands. One that is larger than others goes to the disk
as it comes: of a kind that may be large, and one at a time of a member.
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from hashlib import sha256
from typing import Any, TypeVar

from muster.federation.coordinator.secagg_progress import SecAggProgress
from muster.federation.coordinator.service import FederationService
from muster.federation.protocol.claims import check_training
from muster.federation.protocol.codec_json import Numbers
from muster.federation.protocol.message import LIMIT, Ack, ResumeAt
from muster.secagg import messages
from muster.secagg.messages import (
    CLIENT_KINDS,
    HEAD,
    Compared,
    MaskedVector,
    OpenedShares,
    Revealed,
    Shares,
)
from muster.security.pki.credentials import Credentials
from muster.security.refusal import RefusalReason, Refused, malformed, parse
from muster.store.blobs import Blobs, NoRoom, update_name
from muster.store.records import SecAggEvent
from muster.store.reserved import drop_halves
from muster.transport.http.request import BatchedWriter, Request

__all__ = ["SecAggEndpoint"]

LONGEST = 60.0  # seconds that a question may be kept
LARGE = frozenset(
    one.kind for one in (Shares, Compared, OpenedShares, MaskedVector, Revealed)
)  # as groups grow
METRICS = b"muster-metrics"  # a header: what the plan lets be seen beside the sum
T = TypeVar("T")


class SecAggEndpoint:
    """The edge of secure sums; what touches a disk runs in `pool`."""

    def __init__(self, service: FederationService, blobs: Blobs, pool: Executor) -> None:
        self.service, self.blobs, self.pool = service, blobs, pool
        self._turns: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def say(
        self, name: str, exchange: Request, round: int, query: Mapping[str, str]
    ) -> Ack | ResumeAt:
        """Take a message in, or a piece of one: then where to go on. Raises `Refused`."""
        self.service.attempted(round, int(_number(query, "attempt", "1")))
        session = self.service.secure(name, round)
        metrics = Numbers().read(parse(_header(exchange), LIMIT, 1), "metrics")
        check_training(metrics, (), self.service.facts.claims)
        async with self._turns[name]:
            word = await self._read(exchange, session, SecAggEvent(name, ""), query)
            if isinstance(word, ResumeAt):
                return word
            session.at("secure: before a message is recorded")
            try:
                await self.service.hear(round, replace(word, metrics=metrics))
            except Refused:
                if word.blob:
                    await self._run(self.blobs.drop, word.blob)
                raise
        session.at("secure: a message is recorded")
        return Ack(True)

    async def told(
        self, name: str, round: int, query: Mapping[str, str]
    ) -> tuple[int, bytes] | None:
        """What the member was told last, when that is newer than what it knows; waits for it.

        None when there was nothing. Raises `Refused` once the round is over.
        """
        self.service.attempted(round, int(_number(query, "attempt", "1")))
        after, wait = _number(query, "after"), min(_number(query, "wait"), LONGEST)
        return await self.service.secure_news(name, round, after, wait)

    def members(self, name: str, round: int) -> bytes:
        """Return the credentials of those whose updates are masked with this one's, as JSON."""
        session = self.service.secure(name, round)
        if not session.certificates:
            raise Refused(
                RefusalReason.CLOSED, f"the secure sum of round {round} is not open; poll again"
            )
        found = {other: session.certificates[other] for other in session.near[name]}
        return Credentials(found, self.service.facts.listed()).to_json()

    async def _read(
        self,
        exchange: Request,
        session: SecAggProgress,
        word: SecAggEvent,
        query: Mapping[str, str],
    ) -> SecAggEvent | ResumeAt:
        """The body, in memory or on the disk; an `ResumeAt` where more of it is to come."""
        size = exchange.length()
        if size is None or size > session.limit:
            raise Refused(
                RefusalReason.TOO_LARGE, f"{size} octets; at most {session.limit} are taken"
            )
        if "digest" in query or size > LIMIT:
            return await self._stored(exchange, session, word, query)
        data = await exchange.body(LIMIT)
        return replace(word, kind=_checked(data), data=data, digest=sha256(data).hexdigest())

    async def _stored(
        self,
        exchange: Request,
        session: SecAggProgress,
        word: SecAggEvent,
        query: Mapping[str, str],
    ) -> SecAggEvent | ResumeAt:
        """A piece of a large body, to the disk as it comes; one that breaks off is gone on with."""
        digest, size = query.get("digest", ""), int(_number(query, "size"))
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            malformed("digest", digest, "the SHA-256 of the message, as in ?digest=…")
        if not size:
            malformed("size", size, "how many octets the message has, as in ?size=…")
        place = int(_number(query, "offset"))
        if max(size, place + (exchange.length() or 0)) > session.limit:
            raise Refused(
                RefusalReason.TOO_LARGE, f"{size} octets; at most {session.limit} are taken"
            )
        client = session.clients[word.name]
        blob = update_name(session.round, client, digest, "masked")
        await self._run(self._alone, blob)
        held = await self._run(self._held, blob, size)
        if place != held:
            return ResumeAt(held)
        if held == 0:
            await self._run(drop_halves, self.blobs, blob)
        if held < size:
            held = await self._received(exchange, (word.name, session.round), blob, held)
        if held < size:
            return ResumeAt(held)
        kind = await self._run(self._finished, blob, digest)
        return replace(word, kind=kind, blob=blob, digest=digest)

    def _alone(self, blob: str) -> None:
        """Remove what its member has begun beside it and not finished: it fills no disk."""
        for other in self.blobs.names(blob.rpartition("-")[0]):
            if other != blob and self.blobs.size(other) is None:
                self.blobs.drop(other)

    def _held(self, blob: str, size: int) -> int:
        """How much of a message is on the disk."""
        done = self.blobs.size(blob)
        held = self.blobs.held(blob) if done is None else done
        if held > size:
            self.blobs.drop(blob)
            return 0
        return held

    async def _received(
        self, exchange: Request, who: tuple[str, int], blob: str, place: int
    ) -> int:
        """The octets of one request behind those held; how many there are then."""

        def put(data: bytearray) -> None:
            nonlocal place
            place = self.blobs.append(blob, place, memoryview(data))

        writer = BatchedWriter(partial(self._run, put))
        try:
            while (data := await exchange.piece()) is not None:
                self.service.progress(*who, len(data))
                await writer.add(data)
        finally:
            await writer.end()
        return place

    def _finished(self, blob: str, digest: str) -> str:
        """The kind of a message that is whole; one that is damaged, or no message, is removed."""
        sha = sha256()
        for piece in self.blobs.read(blob, 0, self._held(blob, 1 << 62)):
            sha.update(piece)
        if sha.hexdigest() != digest:
            self.blobs.drop(blob)
            raise Refused(RefusalReason.WRONG_DIGEST, "damaged on the way: send it again")
        try:
            kind = self._stored_kind(blob)
        except Refused:
            self.blobs.drop(blob)
            raise
        self.blobs.finish(blob)
        return kind

    def _stored_kind(self, blob: str) -> str:
        """The kind of a message on the disk. Raises `Refused` for one that is none."""
        head = next(iter(self.blobs.read(blob, 0, len(HEAD) + 1)), b"")
        if self._held(blob, 1 << 62) <= LIMIT:
            return _checked(b"".join(self.blobs.read(blob)))
        kind = _kind(head)
        if int(kind) not in LARGE:
            malformed(
                "the message", head, f"one of at most {LIMIT} octets: its kind is never large"
            )
        return kind

    async def _run(self, call: Callable[..., T], *given: Any) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self.pool, call, *given)
        except NoRoom as error:
            raise Refused(
                RefusalReason.NO_ROOM, "the server's disk is full; try again later"
            ) from error


def _kind(data: bytes) -> str:
    """The number of a message's kind, when clients say such."""
    if not data.startswith(HEAD) or len(data) <= len(HEAD) or data[len(HEAD)] not in CLIENT_KINDS:
        malformed("the message", data[:5], "a message of a secure sum that clients say")
    return str(data[len(HEAD)])


def _checked(data: bytes) -> str:
    """The same, of octets that are a whole message. Raises `Refused`."""
    kind = _kind(data)
    try:
        messages.read(data)
    except messages.Malformed as error:
        raise Refused(RefusalReason.MALFORMED, str(error)) from None
    return kind


def _header(exchange: Request) -> bytes:
    return exchange.headers.get(METRICS, b"{}")


def _number(query: Mapping[str, str], name: str, usual: str = "0") -> float:
    said = query.get(name, usual)
    try:
        found = float(said)
    except ValueError:
        found = -1.0
    if not 0 <= found < math.inf:
        malformed(name, said, "a number from 0 up")
    return found
