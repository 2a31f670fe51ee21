# SPDX-License-Identifier: Apache-2.0
"""The words of members in a secure sum, and to them: durable before they are answered.

What is no message is refused here, and nothing is kept of it; what a message says is the session's
business. Of each kind the first by a member stands. One that is larger than others goes to the disk
as it comes: of a kind that may be large, and one at a time of a member.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from dataclasses import replace
from functools import partial
from hashlib import sha256

from muster.federation.coordinator.receiver import Arrival, Incoming, Receiver
from muster.federation.coordinator.secagg_progress import SecAggProgress
from muster.federation.coordinator.service import FederationService
from muster.federation.protocol.claims import check_training
from muster.federation.protocol.codec_json import Numbers
from muster.federation.protocol.message import LIMIT, Ack, ResumeAt, Wait
from muster.federation.protocol.transport import (
    MembersQuery,
    RawAnswer,
    SessionBody,
    SessionQuery,
)
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
from muster.store.blobs import update_name
from muster.store.records import SecAggEvent
from muster.store.reserved import drop_halves

__all__ = ["LONGEST", "SecAggEndpoint"]

LONGEST = 60.0  # seconds that a question may be kept
LARGE = frozenset(
    one.kind for one in (Shares, Compared, OpenedShares, MaskedVector, Revealed)
)  # as groups grow


class SecAggEndpoint:
    """The requests of secure sums, whatever transport brought them."""

    def __init__(self, service: FederationService, receiver: Receiver) -> None:
        self.service, self.receiver = service, receiver
        self._turns: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._known: dict[str, Arrival] = {}  # the large message of each member

    async def say(
        self, name: str, body: SessionBody, offset: int, incoming: Incoming
    ) -> Ack | ResumeAt:
        """Take a message in, or a piece of one: then where to go on. Raises `Refused`."""
        self.service.attempted(body.round, body.attempt)
        session = self.service.secure(name, body.round)
        metrics = Numbers().read(parse(_raw(body.metrics), LIMIT, 1), "metrics")
        check_training(metrics, (), self.service.facts.claims)
        length = incoming.length()
        if length is None or length > session.limit:
            raise Refused(
                RefusalReason.TOO_LARGE, f"{length} bytes; at most {session.limit} are taken"
            )
        if not body.digest and length <= LIMIT:
            async with self._turns[name]:
                data = await incoming.body(LIMIT)
                word = SecAggEvent(name, _checked(data), data=data, digest=sha256(data).hexdigest())
                return await self._record(session, replace(word, metrics=metrics))
        arrival = await self._arrival(name, session, body, offset + length)
        async with self.receiver.turn(arrival):
            if offset != await self.receiver.look(arrival):
                return ResumeAt(arrival.held)
            if offset < arrival.size:
                moved = partial(self.service.progress, name, body.round)
                await self.receiver.take(arrival, incoming, moved)
            if arrival.held < arrival.size:
                return ResumeAt(arrival.held)
            kind = await self.receiver.run(self._finished, arrival, body.digest)
            word = SecAggEvent(name, kind, blob=arrival.blob, digest=body.digest)
            return await self._record(session, replace(word, metrics=metrics))

    async def told(self, name: str, asked: SessionQuery) -> RawAnswer | Wait:
        """Return what the member was told last, once that is newer than what it knows.

        Raises `Refused` once the round is over.
        """
        self.service.attempted(asked.round, asked.attempt)
        wait = min(asked.wait, LONGEST)
        found = await self.service.secure_news(name, asked.round, asked.after, wait)
        return Wait(0.0) if found is None else RawAnswer(found[1], found[0])

    def members(self, name: str, asked: MembersQuery) -> RawAnswer:
        """Return the credentials of those whose updates are masked with this one's, as JSON."""
        session = self.service.secure(name, asked.round)
        if not session.certificates:
            what = f"the secure sum of round {asked.round} is not open; poll again"
            raise Refused(RefusalReason.CLOSED, what)
        found = {other: session.certificates[other] for other in session.near[name]}
        listed = self.service.facts.listed()
        return RawAnswer(Credentials(found, listed).to_json())

    async def _record(self, session: SecAggProgress, word: SecAggEvent) -> Ack:
        """Write a whole message down, once for its kind. Raises `Refused`."""
        session.at("secure: before a message is recorded")
        try:
            await self.service.hear(session.round, word)
        except Refused:
            if word.blob:
                await self.receiver.run(self.receiver.blobs.drop, word.blob)
            raise
        session.at("secure: a message is recorded")
        return Ack(True)

    async def _arrival(
        self, name: str, session: SecAggProgress, body: SessionBody, end: int
    ) -> Arrival:
        """Return where a large message arrives.

        What its member has begun beside it fills no disk.
        """
        if len(body.digest) != 64 or not set(body.digest) <= set("0123456789abcdef"):
            malformed("digest", body.digest, "the SHA-256 of the message, as in ?digest=…")
        if not body.size:
            malformed("size", body.size, "how many bytes the message has, as in ?size=…")
        if max(body.size, end) > session.limit:
            raise Refused(
                RefusalReason.TOO_LARGE, f"{body.size} bytes; at most {session.limit} are taken"
            )
        blob = update_name(session.round, session.clients[name], body.digest, "masked")
        before = self._known.get(name)
        if before is not None and (before.blob, before.size) == (blob, body.size):
            return before
        arrival = self._known[name] = Arrival(blob, body.size)
        if before is not None:
            with contextlib.suppress(Refused):
                async with self.receiver.turn(before):  # whoever writes it stops
                    pass
        await self.receiver.run(drop_halves, self.receiver.blobs, blob)
        return arrival

    def _finished(self, arrival: Arrival, digest: str) -> str:
        """Return the kind of a message that is whole; damaged ones, or no messages, are removed."""
        blobs = self.receiver.blobs
        try:
            if arrival.sha.hexdigest() != digest:
                raise Refused(RefusalReason.WRONG_DIGEST, "damaged on the way: send it again")
            kind = self._stored_kind(arrival)
        except Refused:
            blobs.drop(arrival.blob)
            raise
        blobs.finish(arrival.blob)
        return kind

    def _stored_kind(self, arrival: Arrival) -> str:
        """Return the kind of a message on the disk. Raises `Refused` for one that is none."""
        blobs = self.receiver.blobs
        if arrival.size <= LIMIT:
            return _checked(b"".join(blobs.read(arrival.blob)))
        head = next(iter(blobs.read(arrival.blob, 0, len(HEAD) + 1)), b"")
        kind = _kind(head)
        if int(kind) not in LARGE:
            malformed("the message", head, f"one of at most {LIMIT} bytes: its kind is never large")
        return kind


def _raw(metrics: str) -> bytes:
    return metrics.encode("utf-8", "surrogateescape") or b"{}"


def _kind(data: bytes) -> str:
    """Return the number of a message's kind, when clients say such."""
    if not data.startswith(HEAD) or len(data) <= len(HEAD) or data[len(HEAD)] not in CLIENT_KINDS:
        malformed("the message", data[:5], "a message of a secure sum that clients say")
    return str(data[len(HEAD)])


def _checked(data: bytes) -> str:
    """Return the same, of bytes that are a whole message. Raises `Refused`."""
    kind = _kind(data)
    try:
        messages.read(data)
    except messages.Malformed as error:
        raise Refused(RefusalReason.MALFORMED, str(error)) from None
    return kind
