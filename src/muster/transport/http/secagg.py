# SPDX-License-Identifier: Apache-2.0
"""The words of members in a secure sum, and to them: durable before they are answered.

What is no message is refused here, and nothing is kept of it; what a message says is the session's
business. Of each kind the first by a member stands. One that is larger than others goes to the disk
as it comes: of a kind that may be large, and one at a time of a member.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from hashlib import sha256
from typing import Any, TypeVar

from muster.federation.coordinator.secagg_progress import SecAggProgress
from muster.federation.coordinator.service import FederationService
from muster.federation.protocol.claims import check_training
from muster.federation.protocol.codec_json import HEX, Numbers
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
from muster.store.blobs import Blobs, update_name
from muster.store.records import SecAggEvent
from muster.store.reserved import drop_halves
from muster.transport.http.request import BatchedWriter, Request, off_loop
from muster.types import ClientId

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
        session, client = self._session(name, round)
        metrics = Numbers().read(parse(_header(exchange), LIMIT, 1), "metrics")
        check_training(metrics, (), self.service.facts.claims)
        async with self._turns[name]:
            word = await self._read(exchange, session, SecAggEvent(name, ""), query)
            if isinstance(word, ResumeAt):
                return word
            session.at("secure: before a message is recorded")
            ledger: Any = self.service.round_state.ledger
            job = ledger.hear(round, replace(word, metrics=metrics))
            held = await asyncio.wrap_future(job)
        if held is None:
            if word.blob:
                await off_loop(self.pool, self.blobs.drop, word.blob)
            raise Refused(RefusalReason.STALE, f"round {round} is over")
        if held.digest != word.digest:
            if word.blob:
                await off_loop(self.pool, self.blobs.drop, word.blob)
            raise Refused(
                RefusalReason.DUPLICATE, f"another message of kind {word.kind} is held of {name}"
            )
        session.at("secure: a message is recorded")
        round_state = self.service.round_state
        with round_state.changed:
            fresh = held.number > session.last
            session.last = max(session.last, held.number)
        round_state.hear(client, int(fresh))  # to say the same again is no progress
        with round_state.changed:
            round_state.changed.notify_all()
        return Ack(True)

    async def told(
        self, name: str, round: int, query: Mapping[str, str]
    ) -> tuple[int, bytes] | None:
        """Return the last words to the member, if newer than what it knows; wait for them.

        None when there was nothing. Raises `Refused` once the round is over.
        """
        self.service.attempted(round, int(_number(query, "attempt", "1")))
        after, wait = _number(query, "after"), min(_number(query, "wait"), LONGEST)
        round_state, client = self.service.round_state, self._client(name)
        until = round_state.clock() + wait
        while True:
            round_state.hear(client)
            with round_state.changed:
                session = self._mine(name, round)
                found = session.told.get(client, (0, b"")) if session else (0, b"")
            left = until - round_state.clock()
            if found[0] > after:
                return found
            if left <= 0 or round_state.closing:
                return None
            await round_state.notifier.wait(client, left)

    def members(self, name: str, round: int) -> bytes:
        """Return the credentials of those whose updates are masked with this one's, as JSON."""
        session, _ = self._session(name, round)
        if not session.certificates:
            raise Refused(
                RefusalReason.CLOSED, f"the secure sum of round {round} is not open; poll again"
            )
        found = {other: session.certificates[other] for other in session.near[name]}
        return Credentials(found, self.service.round_state.facts.listed()).to_json()

    def _client(self, name: str) -> ClientId:
        member = self.service.round_state.members.get(name)
        if member is None:
            raise Refused(RefusalReason.UNENROLLED, f"{name} has not said hello here")
        return member.client

    def _session(self, name: str, round: int) -> tuple[SecAggProgress, ClientId]:
        client = self._client(name)
        session = self._mine(name, round)
        if session is None:
            raise Refused(
                RefusalReason.CLOSED, f"no secure sum of round {round} is open; poll again"
            )
        return session, client

    def _mine(self, name: str, round: int) -> SecAggProgress | None:
        """Return the session of a round that this member takes part in; None before it begins."""
        round_state = self.service.round_state
        session = round_state.session
        if round <= round_state.committed:
            raise Refused(RefusalReason.STALE, f"round {round} is over")
        if round_state.ended is not None:
            raise Refused(RefusalReason.CLOSED, f"the run has ended: {round_state.ended.text}")
        if session is None or session.round != round:
            return None
        if name not in session.clients:
            raise Refused(RefusalReason.FOREIGN, f"not invited to round {round}; wait for a task")
        return session

    async def _read(
        self,
        exchange: Request,
        session: SecAggProgress,
        word: SecAggEvent,
        query: Mapping[str, str],
    ) -> SecAggEvent | ResumeAt:
        """Return the body, in memory or on the disk; an `ResumeAt` where more of it is to come."""
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
        """Store a piece of a large body as it comes; one that breaks off is gone on with."""
        digest, size = query.get("digest", ""), int(_number(query, "size"))
        if not re.fullmatch(HEX[0], digest):
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
        await off_loop(self.pool, self._alone, blob)
        held = await off_loop(self.pool, self._held, blob, size)
        if place != held:
            return ResumeAt(held)
        if held == 0:
            await off_loop(self.pool, drop_halves, self.blobs, blob)
        if held < size:
            held = await self._received(exchange, (word.name, session.round), blob, held)
        if held < size:
            return ResumeAt(held)
        kind = await off_loop(self.pool, self._finished, blob, digest)
        return replace(word, kind=kind, blob=blob, digest=digest)

    def _alone(self, blob: str) -> None:
        """Remove what its member has begun beside it and not finished: it fills no disk."""
        for other in self.blobs.names(blob.rpartition("-")[0]):
            if other != blob and self.blobs.size(other) is None:
                self.blobs.drop(other)

    def _held(self, blob: str, size: int) -> int:
        """Count the bytes of a message that are on the disk."""
        done = self.blobs.size(blob)
        held = self.blobs.held(blob) if done is None else done
        if held > size:
            self.blobs.drop(blob)
            return 0
        return held

    async def _received(
        self, exchange: Request, who: tuple[str, int], blob: str, place: int
    ) -> int:
        """Receive the bytes of one request behind those held; return how many there are then."""

        def put(data: bytearray) -> None:
            nonlocal place
            place = self.blobs.append(blob, place, memoryview(data))

        writer = BatchedWriter(partial(off_loop, self.pool, put))
        try:
            while (data := await exchange.piece()) is not None:
                self.service.progress(*who, len(data))
                await writer.add(data)
        finally:
            await writer.end()
        return place

    def _finished(self, blob: str, digest: str) -> str:
        """Return the kind of a message that is whole; damaged ones, or no messages, are removed."""
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
        """Return the kind of a message on the disk. Raises `Refused` for one that is none."""
        head = next(iter(self.blobs.read(blob, 0, len(HEAD) + 1)), b"")
        if self._held(blob, 1 << 62) <= LIMIT:
            return _checked(b"".join(self.blobs.read(blob)))
        kind = _kind(head)
        if int(kind) not in LARGE:
            malformed(
                "the message", head, f"one of at most {LIMIT} octets: its kind is never large"
            )
        return kind


def _kind(data: bytes) -> str:
    """Return the number of a message's kind, when clients say such."""
    if not data.startswith(HEAD) or len(data) <= len(HEAD) or data[len(HEAD)] not in CLIENT_KINDS:
        malformed("the message", data[:5], "a message of a secure sum that clients say")
    return str(data[len(HEAD)])


def _checked(data: bytes) -> str:
    """Return the same, of octets that are a whole message. Raises `Refused`."""
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
