# SPDX-License-Identifier: Apache-2.0
"""Updates on their way to a server: announced first, then sent from the offered offset on.

The header is looked at as soon as it is there. A body whose digest is wrong may be sent again, a
few times; one that is whole and is not what the plan says decides the seat: its client has failed
in this round.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from muster.federation.coordinator import admission
from muster.federation.coordinator.receiver import Arrival, Incoming, Receiver
from muster.federation.coordinator.service import FederationService, Upload
from muster.federation.protocol import codec_tensors
from muster.federation.protocol.message import Ack, ResumeAt, UpdateHeader
from muster.federation.protocol.transport import UpdateBody
from muster.security.refusal import RefusalReason, Refused
from muster.store.reserved import drop_halves
from muster.types import Tree

__all__ = ["TRIES", "Uploads"]

TRIES = 3  # bodies with a wrong digest, after which the client has failed


@dataclass(eq=False)
class _Announced:
    """An announced update of one client, and what has come of it."""

    wanted: Upload
    body: Arrival
    verdict: Ack | None = None
    spoiled: int = 0

    def is_of(self, wanted: Upload) -> bool:
        """Return whether it is this very update: that of another attempt may have the same bits."""
        ours, theirs = self.wanted, wanted
        return (ours.blob, ours.update.attempt) == (theirs.blob, theirs.update.attempt)


class Uploads:
    """The updates that are on their way to one server, by the name of the site: one each.

    While a whole body is looked at, its lease is renewed every `pulse` seconds: the server's own
    work is not the client's silence.
    """

    def __init__(self, service: FederationService, receiver: Receiver, pulse: float = 5.0) -> None:
        self.service, self.receiver, self.pulse = service, receiver, pulse
        self._known: dict[str, _Announced] = {}
        self._checks = asyncio.Semaphore(1)  # whole bodies looked at together: a bound on memory

    async def announce(self, name: str, update: UpdateHeader) -> ResumeAt:
        """Return the place to go on from, when the update is wanted. Raises `Refused`."""
        wanted = self.service.announce(name, update)
        if wanted.held:
            return ResumeAt(update.size)
        before, receiver = self._known.get(name), self.receiver
        if before is not None and before.is_of(wanted):
            upload, upload.wanted = before, wanted
        else:
            body = Arrival(wanted.blob, update.size, partial(_seen, wanted.template, update.size))
            upload = self._known[name] = _Announced(wanted, body)
            if before is not None:
                await self._displace(name, before)
            else:  # halves of another life of this server
                await receiver.run(drop_halves, receiver.blobs, wanted.blob)
        async with receiver.turn(upload.body):
            if await receiver.look(upload.body) == update.size:
                await self._complete(name, upload)
            return ResumeAt(upload.body.held)

    async def take(
        self, name: str, body: UpdateBody, offset: int, incoming: Incoming
    ) -> ResumeAt | Ack:
        """Read bytes of an announced update, from `offset` on. Raises `Refused`.

        Bytes that do not go on where those before ended are not read: the answer says where to go
        on.
        """
        upload = self._known.get(name)
        key = (body.round, body.digest)
        if upload is None or key != (upload.wanted.update.round, upload.wanted.update.digest):
            raise Refused(
                RefusalReason.UNKNOWN, "this update was not announced here; announce it first"
            )
        here, receiver = upload.body, self.receiver
        if body.size != here.size or offset > here.size:
            said = f"bytes from {offset} of {body.size}"
            raise Refused(
                RefusalReason.MALFORMED, f"{said}; the update was announced with {here.size}"
            )
        async with receiver.turn(here):
            if upload.verdict is not None:
                return upload.verdict
            if offset != await receiver.look(here):
                return ResumeAt(here.held)
            try:
                if offset < here.size:
                    await receiver.take(here, incoming, self._moved(name, body.round))
            except Refused as refused:
                if here.hostile:
                    await self._spoiled(name, upload, refused)
                raise
            if here.held == here.size:
                return await self._complete(name, upload)
            return ResumeAt(here.held)

    def _moved(self, name: str, round: int) -> Callable[[int], None]:
        return partial(self.service.progress, name, round)

    async def _displace(self, name: str, upload: _Announced) -> None:
        """Displace an update that another has replaced: its writer stops, and it is removed.

        No verdict was given here, and yet it may count: it came whole through another server.
        """
        with contextlib.suppress(Refused):
            async with self.receiver.turn(upload.body):
                if upload.verdict is None:
                    await self.receiver.run(self._drop_unless_disposed, name, upload.wanted)

    def _drop_unless_disposed(self, name: str, wanted: Upload) -> None:
        if not self.service.disposed(name, wanted.update):
            self.receiver.blobs.drop(wanted.blob)

    async def _complete(self, name: str, upload: _Announced) -> Ack:
        """All bytes are here: have them decided, in the server's time and not the client's."""
        if upload.verdict is None:
            moved = self._moved(name, upload.wanted.update.round)
            deciding = asyncio.ensure_future(self._decide(name, upload))
            try:
                while not (await asyncio.wait({deciding}, timeout=self.pulse))[0]:
                    moved(1)
            finally:
                deciding.cancel()
            upload.verdict = deciding.result()
        return upload.verdict

    async def _decide(self, name: str, upload: _Announced) -> Ack:
        async with self._checks:
            try:
                await self.receiver.run(self._sound, upload)
            except Refused as refused:
                await self._spoiled(name, upload, refused)
                raise
        try:
            return await self.service.arrived(name, upload.wanted)
        except Refused as refused:
            if refused.reason is not RefusalReason.STALE:  # else the ledger disposes of it
                await self._drop(upload)
            raise

    async def _drop(self, upload: _Announced) -> None:
        await self.receiver.run(self.receiver.blobs.drop, upload.wanted.blob)

    async def _spoiled(self, name: str, upload: _Announced, refused: Refused) -> None:
        """Remove what came and is no good; its seat is decided, unless it may be sent again."""
        if refused.reason is RefusalReason.NO_ROOM:
            return
        await self._drop(upload)
        # A header that is not the plan's may have been damaged on the way, as a digest tells of
        # the rest: it is too early to know.
        body = upload.body
        damaged = body.hostile or refused.reason is RefusalReason.WRONG_DIGEST
        body.held, body.hostile, upload.spoiled = -1, False, upload.spoiled + 1
        if not damaged or upload.spoiled >= TRIES:
            self._known.pop(name, None)
            await self.service.refuse(name, upload.wanted.update, refused)

    def _sound(self, upload: _Announced) -> None:
        """Raise `Refused` unless the body is what was announced, and what the plan says."""
        wanted, blobs = upload.wanted, self.receiver.blobs
        admission.arrived(wanted.update, upload.body.sha.hexdigest(), upload.body.held)
        blobs.finish(wanted.blob)
        body = blobs.whole(wanted.blob, known=True)  # it was hashed as it came
        codec_tensors.decode(body, wanted.template, finite=True)


def _seen(template: Tree, size: int, head: bytes) -> bool:
    """Return whether the header of an update is whole, and the plan's. Raises `Refused`."""
    if len(head) < 8:
        return False
    if len(head) < codec_tensors.head_size(head[:8], codec_tensors.longest_head(template)):
        return False
    codec_tensors.check_header(head, template, size=size)
    return True
