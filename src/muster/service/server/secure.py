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

from muster.secagg import messages
from muster.secagg.messages import CLIENT_KINDS, HEAD, Compared, Masked, Opened, Revealed, Shares
from muster.service.claims import check_training
from muster.service.message import LIMIT, Offer, Verdict
from muster.service.pki.credentials import Credentials
from muster.service.refusal import Reason, Refused, malformed, parse
from muster.service.round.session import Session
from muster.service.schema import Numbers
from muster.service.server.desk import Desk
from muster.service.server.exchange import Batches, Exchange
from muster.store.blobs import Blobs, NoRoom, update_name
from muster.store.records import Word
from muster.store.reserved import drop_halves
from muster.types import ClientId

__all__ = ["Sessions"]

LONGEST = 60.0  # seconds that a question may be kept
LARGE = frozenset(
    one.kind for one in (Shares, Compared, Opened, Masked, Revealed)
)  # as groups grow
METRICS = b"muster-metrics"  # a header: what the plan lets be seen beside the sum
T = TypeVar("T")


class Sessions:
    """The edge of secure sums; what touches a disk runs in `pool`."""

    def __init__(self, desk: Desk, blobs: Blobs, pool: Executor) -> None:
        self.desk, self.blobs, self.pool = desk, blobs, pool
        self._turns: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def say(
        self, name: str, exchange: Exchange, round: int, query: Mapping[str, str]
    ) -> Verdict | Offer:
        """Take a message in, or a piece of one: then where to go on. Raises `Refused`."""
        self.desk.attempted(round, int(_number(query, "attempt", "1")))
        session, client = self._session(name, round)
        metrics = Numbers().read(parse(_header(exchange), LIMIT, 1), "metrics")
        check_training(metrics, (), self.desk.facts.claims)
        async with self._turns[name]:
            word = await self._read(exchange, session, Word(name, ""), query)
            if isinstance(word, Offer):
                return word
            session.at("secure: before a message is recorded")
            ledger: Any = self.desk.hall.ledger
            job = ledger.hear(round, replace(word, metrics=metrics))
            held = await asyncio.wrap_future(job)
        if held is None:
            if word.blob:
                await self._run(self.blobs.drop, word.blob)
            raise Refused(Reason.STALE, f"round {round} is over")
        if held.digest != word.digest:
            if word.blob:
                await self._run(self.blobs.drop, word.blob)
            raise Refused(
                Reason.DUPLICATE, f"another message of kind {word.kind} is held of {name}"
            )
        session.at("secure: a message is recorded")
        hall = self.desk.hall
        with hall.changed:
            fresh = held.number > session.last
            session.last = max(session.last, held.number)
        hall.hear(client, int(fresh))  # to say the same again is no progress
        with hall.changed:
            hall.changed.notify_all()
        return Verdict(True)

    async def told(
        self, name: str, round: int, query: Mapping[str, str]
    ) -> tuple[int, bytes] | None:
        """What the member was told last, when that is newer than what it knows; waits for it.

        None when there was nothing. Raises `Refused` once the round is over.
        """
        self.desk.attempted(round, int(_number(query, "attempt", "1")))
        after, wait = _number(query, "after"), min(_number(query, "wait"), LONGEST)
        hall, client = self.desk.hall, self._client(name)
        until = hall.clock() + wait
        while True:
            hall.hear(client)
            with hall.changed:
                session = self._mine(name, round)
                found = session.told.get(client, (0, b"")) if session else (0, b"")
            left = until - hall.clock()
            if found[0] > after:
                return found
            if left <= 0 or hall.closing:
                return None
            await hall.bell.wait(client, left)

    def members(self, name: str, round: int) -> bytes:
        """The credentials of those whose updates are masked with this one's, as JSON."""
        session, _ = self._session(name, round)
        if not session.certificates:
            raise Refused(Reason.CLOSED, f"the secure sum of round {round} is not open; poll again")
        found = {other: session.certificates[other] for other in session.near[name]}
        return Credentials(found, self.desk.hall.facts.listed()).to_json()

    def _client(self, name: str) -> ClientId:
        member = self.desk.hall.members.get(name)
        if member is None:
            raise Refused(Reason.UNENROLLED, f"{name} has not said hello here")
        return member.client

    def _session(self, name: str, round: int) -> tuple[Session, ClientId]:
        client = self._client(name)
        session = self._mine(name, round)
        if session is None:
            raise Refused(Reason.CLOSED, f"no secure sum of round {round} is open; poll again")
        return session, client

    def _mine(self, name: str, round: int) -> Session | None:
        """The session of a round that this member takes part in; None before it begins."""
        hall = self.desk.hall
        session = hall.session
        if round <= hall.committed:
            raise Refused(Reason.STALE, f"round {round} is over")
        if hall.ended is not None:
            raise Refused(Reason.CLOSED, f"the run has ended: {hall.ended.text}")
        if session is None or session.round != round:
            return None
        if name not in session.clients:
            raise Refused(Reason.FOREIGN, f"not invited to round {round}; wait for a task")
        return session

    async def _read(
        self, exchange: Exchange, session: Session, word: Word, query: Mapping[str, str]
    ) -> Word | Offer:
        """The body, in memory or on the disk; an `Offer` where more of it is to come."""
        size = exchange.length()
        if size is None or size > session.limit:
            raise Refused(Reason.TOO_LARGE, f"{size} octets; at most {session.limit} are taken")
        if "digest" in query or size > LIMIT:
            return await self._stored(exchange, session, word, query)
        data = await exchange.body(LIMIT)
        return replace(word, kind=_checked(data), data=data, digest=sha256(data).hexdigest())

    async def _stored(
        self, exchange: Exchange, session: Session, word: Word, query: Mapping[str, str]
    ) -> Word | Offer:
        """A piece of a large body, to the disk as it comes; one that breaks off is gone on with."""
        digest, size = query.get("digest", ""), int(_number(query, "size"))
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            malformed("digest", digest, "the SHA-256 of the message, as in ?digest=…")
        if not size:
            malformed("size", size, "how many octets the message has, as in ?size=…")
        place = int(_number(query, "offset"))
        if max(size, place + (exchange.length() or 0)) > session.limit:
            raise Refused(Reason.TOO_LARGE, f"{size} octets; at most {session.limit} are taken")
        client = session.clients[word.name]
        blob = update_name(session.round, client, digest, "masked")
        await self._run(self._alone, blob)
        held = await self._run(self._held, blob, size)
        if place != held:
            return Offer(held)
        if held == 0:
            await self._run(drop_halves, self.blobs, blob)
        if held < size:
            held = await self._received(exchange, (word.name, session.round), blob, held)
        if held < size:
            return Offer(held)
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
        self, exchange: Exchange, who: tuple[str, int], blob: str, place: int
    ) -> int:
        """The octets of one request behind those held; how many there are then."""

        def put(data: bytearray) -> None:
            nonlocal place
            place = self.blobs.append(blob, place, memoryview(data))

        writer = Batches(partial(self._run, put))
        try:
            while (data := await exchange.piece()) is not None:
                self.desk.progress(*who, len(data))
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
            raise Refused(Reason.WRONG_DIGEST, "damaged on the way: send it again")
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
            raise Refused(Reason.NO_ROOM, "the server's disk is full; try again later") from error


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
        raise Refused(Reason.MALFORMED, str(error)) from None
    return kind


def _header(exchange: Exchange) -> bytes:
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
