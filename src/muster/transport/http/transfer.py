# SPDX-License-Identifier: Apache-2.0
"""Uploads: octets go to the disk as they come, are hashed as they come, and are never held whole.

Announced first, then sent from the offered offset, in one request or in many. One connection
writes an update: a newer one takes over from an older, because the older is most often a line that
broke without saying so, and hears CLOSED if it still listens. The header is looked at as soon as
it is there. A body whose digest is wrong may be sent again, a few times; one that is whole and
is not what the plan says decides the seat: its client has failed in this round.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import Any, TypeVar

from muster.errors import RunError
from muster.federation.coordinator import admission
from muster.federation.coordinator.service import FederationService, Upload
from muster.federation.protocol import codec_tensors
from muster.federation.protocol.message import Ack, ResumeAt, UpdateHeader
from muster.federation.protocol.unpack import bounded
from muster.security.refusal import RefusalReason, Refused, malformed
from muster.store.blobs import Blobs, NoRoom
from muster.store.reserved import drop_halves
from muster.transport.http.request import BatchedWriter, Request, off_loop

__all__ = ["Uploads"]

HEAD = (1 << 20) + 8  # octets of the longest header, whatever a template says
SLACK = 1 << 20  # octets by which zstd may be longer than what it holds
TRIES = 3  # bodies with a wrong digest, after which the client has failed
NUMBER = re.compile(r"[0-9]{1,16}")
T = TypeVar("T")


@dataclass(eq=False)
class _Arrival:
    """An announced update of one client: what is held of it, and who is writing."""

    wanted: Upload
    held: int = -1  # octets on the disk that `sha` has seen; -1 when nobody has looked
    sha: Any = field(default_factory=sha256)
    head: bytearray | None = field(default_factory=bytearray)  # until the header is checked
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    turn: int = 0  # of the newest connection
    reader: asyncio.Task[Any] | None = None  # waits for octets, and may be told to stop
    verdict: Ack | None = None
    hostile: bool = False  # its header is not the plan's: nothing behind it can be good
    spoiled: int = 0

    @property
    def size(self) -> int:
        return self.wanted.update.size

    def is_of(self, wanted: Upload) -> bool:
        """Return whether it is this very update: that of another attempt may have the same bits."""
        ours, theirs = self.wanted, wanted
        return (ours.blob, ours.update.attempt) == (theirs.blob, theirs.update.attempt)


class Uploads:
    """The updates that are on their way to one server, by the name of the site: one each.

    What touches a disk runs in `pool`. While a whole body is looked at, its lease is renewed
    every `pulse` seconds: the server's own work is not the client's silence.
    """

    def __init__(
        self, service: FederationService, blobs: Blobs, pool: Executor, pulse: float = 5.0
    ) -> None:
        self.service, self.blobs, self.pool, self.pulse = service, blobs, pool, pulse
        self._known: dict[str, _Arrival] = {}
        self._checks = asyncio.Semaphore(1)  # whole bodies looked at together: a bound on memory

    async def announce(self, name: str, update: UpdateHeader) -> ResumeAt:
        """Return the place to go on from, when the update is wanted. Raises `Refused`."""
        wanted = self.service.announce(name, update)
        if wanted.held:
            return ResumeAt(update.size)
        before = self._known.get(name)
        if before is not None and before.is_of(wanted):
            upload, upload.wanted = before, wanted
        else:
            upload = self._known[name] = _Arrival(wanted)
            if before is not None:
                await self._displace(name, before)
            else:  # halves of another life of this server
                await off_loop(self.pool, drop_halves, self.blobs, wanted.blob)
        async with self._turn(upload):
            await off_loop(self.pool, self._look, upload)
            if upload.held == upload.size:
                await self._complete(name, upload)
            return ResumeAt(upload.held)

    async def take(
        self, name: str, exchange: Request, key: tuple[int, str], place: dict[str, str]
    ) -> ResumeAt | Ack:
        """Read octets of the announced update `key` (its round and digest). Raises `Refused`.

        `place` has the offset of the first octet and the size of the whole, as text. Octets that
        do not go on where those before ended are not read: the answer says where to go on.
        """
        upload = self._known.get(name)
        if upload is None or key != (upload.wanted.update.round, upload.wanted.update.digest):
            raise Refused(
                RefusalReason.UNKNOWN, "this update was not announced here; announce it first"
            )
        offset, size = _number(place, "offset"), _number(place, "size")
        if size != upload.size or offset > size:
            said = f"octets from {offset} of {size}"
            raise Refused(
                RefusalReason.MALFORMED, f"{said}; the update was announced with {upload.size}"
            )
        async with self._turn(upload):
            if upload.verdict is not None:
                return upload.verdict
            await off_loop(self.pool, self._look, upload)
            if offset != upload.held:
                return ResumeAt(upload.held)
            try:
                if offset < size:
                    await self._receive(name, upload, exchange)
            except Refused as refused:
                if upload.hostile:
                    await self._spoiled(name, upload, refused)
                raise
            if upload.held == size:
                return await self._complete(name, upload)
            return ResumeAt(upload.held)

    async def _displace(self, name: str, upload: _Arrival) -> None:
        """Displace an update that another has replaced: its writer stops, and it is removed.

        No verdict was given here, and yet it may count: it came whole through another server.
        """
        with contextlib.suppress(Refused):
            async with self._turn(upload):
                if upload.verdict is None:
                    await off_loop(self.pool, self._drop_unless_disposed, name, upload.wanted)

    def _drop_unless_disposed(self, name: str, wanted: Upload) -> None:
        if not self.service.disposed(name, wanted.update):
            self.blobs.drop(wanted.blob)

    @contextlib.asynccontextmanager
    async def _turn(self, upload: _Arrival) -> AsyncIterator[None]:
        """Be the one who writes; whoever came before is told to stop, and has when this begins."""
        upload.turn += 1
        mine = upload.turn
        if upload.reader is not None:
            upload.reader.cancel()
            upload.reader = None
        async with upload.lock:
            if upload.turn != mine:
                raise _taken()
            try:
                yield
            except asyncio.CancelledError:
                if upload.turn == mine:
                    raise
                task = asyncio.current_task()
                assert task is not None
                task.uncancel()
                raise _taken() from None

    async def _receive(self, name: str, upload: _Arrival, exchange: Request) -> None:
        """Receive the body of one request onto the disk; what came before a break is kept."""
        coding = exchange.header(b"content-encoding").lower() or "identity"
        put: Callable[[bytearray], None] = partial(self._put, upload)
        if coding == "zstd":
            put = bounded(put)
        elif coding != "identity":
            raise Refused(
                RefusalReason.MALFORMED, f"Content-Encoding {coding!r:.40}; use zstd or none"
            )
        elif upload.held + (exchange.length() or 0) > upload.size:
            raise _over(upload.size)
        round = upload.wanted.update.round
        writer = BatchedWriter(partial(off_loop, self.pool, put))
        most = upload.size + SLACK
        upload.reader = asyncio.current_task()
        try:
            while (data := await exchange.piece()) is not None:
                if exchange.read > most:  # zstd that unpacks to nothing would never end
                    raise _over(upload.size)
                self.service.progress(name, round, len(data))
                await writer.add(data)
        finally:
            upload.reader = None
            await writer.end()

    def _put(self, upload: _Arrival, data: bytearray | bytes) -> None:
        """Put some bytes on the disk; in a thread."""
        if upload.held + len(data) > upload.size:
            raise _over(upload.size)
        if upload.head is not None:
            upload.head += data[: HEAD - len(upload.head)]
            self._check_head(upload, upload.head)
        upload.held = self._append(upload, memoryview(data))
        upload.sha.update(data)

    def _append(self, upload: _Arrival, data: memoryview) -> int:
        blob = upload.wanted.blob
        try:
            return self.blobs.append(blob, upload.held, data)
        except NoRoom:
            raise
        except RunError:
            if self.blobs.held(blob) == upload.held:
                raise
            upload.held = -1  # another server of this federation writes it
            raise _taken() from None

    def _check_head(self, upload: _Arrival, head: bytearray) -> None:
        try:
            template = upload.wanted.template
            if len(head) < 8:
                return
            if len(head) >= codec_tensors.head_size(
                bytes(head[:8]), codec_tensors.longest_head(template)
            ):
                codec_tensors.check_header(bytes(head), template, size=upload.size)
                upload.head = None
        except Refused:
            upload.hostile = True
            raise

    def _look(self, upload: _Arrival) -> None:
        """Find out what is held, and hash it unless that was done as it came; in a thread."""
        blob = upload.wanted.blob
        done = self.blobs.size(blob)
        held = self.blobs.held(blob) if done is None else done
        if held == upload.held:
            return
        if held > upload.size:
            self.blobs.drop(blob)
            held = 0
        upload.held, upload.sha, upload.head = held, sha256(), None if held else bytearray()
        for piece in self.blobs.read(blob, 0, held) if held else ():
            upload.sha.update(piece)

    async def _complete(self, name: str, upload: _Arrival) -> Ack:
        """Have a whole update decided, in the server's time and not the client's."""
        if upload.verdict is None:
            deciding = asyncio.ensure_future(self._decide(name, upload))
            try:
                while not (await asyncio.wait({deciding}, timeout=self.pulse))[0]:
                    self.service.progress(name, upload.wanted.update.round, 1)
            finally:
                deciding.cancel()
            upload.verdict = deciding.result()
        return upload.verdict

    async def _decide(self, name: str, upload: _Arrival) -> Ack:
        async with self._checks:
            try:
                await off_loop(self.pool, self._sound, upload)
            except Refused as refused:
                await self._spoiled(name, upload, refused)
                raise
        try:
            return await self.service.arrived(name, upload.wanted)
        except Refused as refused:
            if (
                refused.reason is not RefusalReason.STALE
            ):  # of a round that is over the ledger disposes
                await off_loop(self.pool, self.blobs.drop, upload.wanted.blob)
            raise

    async def _spoiled(self, name: str, upload: _Arrival, refused: Refused) -> None:
        """Remove what came and is no good; its seat is decided, unless it may be sent again."""
        if refused.reason is RefusalReason.NO_ROOM:
            return
        await off_loop(self.pool, self.blobs.drop, upload.wanted.blob)
        # A header that is not the plan's may have been damaged on the way, as a digest tells of
        # the rest: it is too early to know.
        damaged = upload.hostile or refused.reason is RefusalReason.WRONG_DIGEST
        upload.held, upload.hostile, upload.spoiled = -1, False, upload.spoiled + 1
        if not damaged or upload.spoiled >= TRIES:
            self._known.pop(name, None)
            await self.service.refuse(name, upload.wanted.update, refused)

    def _sound(self, upload: _Arrival) -> None:
        """Raise `Refused` unless the body is what was announced, and what the plan says."""
        wanted = upload.wanted
        admission.arrived(wanted.update, upload.sha.hexdigest(), upload.held)
        self.blobs.finish(wanted.blob)
        body = self.blobs.whole(wanted.blob, known=True)  # it was hashed as it came
        codec_tensors.decode(body, wanted.template, finite=True)


def _number(place: dict[str, str], name: str) -> int:
    said = place.get(name, "")
    if not NUMBER.fullmatch(said):
        malformed(name, said, "a whole number, as in ?offset=0&size=1000")
    return int(said)


def _over(size: int) -> Refused:
    return Refused(
        RefusalReason.TOO_LARGE, f"more octets than the {size} that were announced; stop there"
    )


def _taken() -> Refused:
    return Refused(
        RefusalReason.CLOSED, "a newer connection goes on with this update; use that one"
    )
