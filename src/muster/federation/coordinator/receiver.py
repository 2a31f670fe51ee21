# SPDX-License-Identifier: Apache-2.0
"""Bodies on their way to a server: to the disk as they come, hashed as they come, never held whole.

Updates and large messages of secure sums arrive alike: from the byte that is missing, in one
request or in many, whatever transport brings them. One connection writes a body: a newer one takes
over from an older, because the older is most often a line that broke without saying so, and hears
CLOSED if it still listens.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import Any, Protocol, TypeVar

from muster.errors import RunError
from muster.federation.protocol.unpack import bounded
from muster.security.refusal import RefusalReason, Refused
from muster.store.blobs import Blobs, NoRoom

__all__ = ["Arrival", "BatchedWriter", "Gone", "Incoming", "Receiver", "off_loop"]

SLACK = 1 << 20  # bytes by which zstd may be longer than what it holds
BATCH = 1 << 19  # bytes that go to the disk in one step
T = TypeVar("T")


async def off_loop(pool: Executor, call: Callable[..., T], *given: Any) -> T:
    """Do in the pool what touches a disk, or takes longer than a millisecond.

    Raises `Refused` where the disk is full.
    """
    try:
        return await asyncio.get_running_loop().run_in_executor(pool, call, *given)
    except NoRoom as error:
        raise Refused(
            RefusalReason.NO_ROOM, "the server's disk is full; try again later"
        ) from error


class Gone(Exception):
    """The client has gone away: nobody is left to be answered."""


class Incoming(Protocol):
    """The body of one request, as its transport has it; whatever breaks it is raised by `piece`.

    `coding` is "identity" or "zstd", or what nobody unpacks here; `read` the bytes that came.
    """

    @property
    def coding(self) -> str:
        """How the bytes are packed."""

    @property
    def read(self) -> int:
        """The bytes that have come so far."""

    def length(self) -> int | None:
        """Return the length that the body says it has; None when it does not say."""

    async def piece(self) -> bytes | None:
        """Return the next bytes, or None behind the last. Raises `Gone`."""

    async def body(self, limit: int) -> bytes:
        """Return the whole of a small body. Raises `Refused` for a larger or a very slow one."""


@dataclass(eq=False)
class Arrival:
    """A body that one client may send: what is held of it, and who is writing.

    `check` looks at its first bytes as they come, and says whether it has seen enough of them; it
    raises `Refused` for what can be no such body: it is `hostile` then, whatever comes behind.
    """

    blob: str
    size: int
    check: Callable[[bytes], bool] | None = None
    held: int = -1  # bytes on the disk that `sha` has seen; -1 when nobody has looked
    sha: Any = field(default_factory=sha256)
    head: bytearray | None = None  # until it is checked
    hostile: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    turn: int = 0  # of the newest connection
    reader: asyncio.Task[Any] | None = None  # waits for bytes, and may be told to stop


class Receiver:
    """Where bodies arrive; what touches a disk runs in `pool`."""

    def __init__(self, blobs: Blobs, pool: Executor) -> None:
        self.blobs, self.pool = blobs, pool

    async def run(self, call: Callable[..., T], *given: Any) -> T:
        """Do it off the loop, as `off_loop` does."""
        return await off_loop(self.pool, call, *given)

    @contextlib.asynccontextmanager
    async def turn(self, arrival: Arrival) -> AsyncIterator[None]:
        """Be the one who writes; whoever came before is told to stop, and has when this begins."""
        arrival.turn += 1
        mine = arrival.turn
        if arrival.reader is not None:
            arrival.reader.cancel()
            arrival.reader = None
        async with arrival.lock:
            if arrival.turn != mine:
                raise _taken()
            try:
                yield
            except asyncio.CancelledError:
                if arrival.turn == mine:
                    raise
                task = asyncio.current_task()
                assert task is not None
                task.uncancel()
                raise _taken() from None

    async def look(self, arrival: Arrival) -> int:
        """Find out how much is held, and hash it unless that was done as it came."""
        await self.run(self._look, arrival)
        return arrival.held

    async def take(
        self, arrival: Arrival, incoming: Incoming, moved: Callable[[int], None]
    ) -> None:
        """Take the bytes of one request, behind those held; what came before a break is kept.

        `moved(bytes)` is called as they come. Raises `Refused` for more than the body has.
        """
        coding, put = incoming.coding, partial(self._put, arrival)
        feed: Callable[[bytearray], None] = put
        if coding == "zstd":
            feed = bounded(put)
        elif coding != "identity":
            raise Refused(
                RefusalReason.MALFORMED, f"Content-Encoding {coding!r:.40}; use zstd or none"
            )
        elif arrival.held + (incoming.length() or 0) > arrival.size:
            raise _over(arrival.size)
        writer, most = BatchedWriter(partial(self.run, feed)), arrival.size + SLACK
        arrival.reader = asyncio.current_task()
        try:
            while (data := await incoming.piece()) is not None:
                if incoming.read > most:  # zstd that unpacks to nothing would never end
                    raise _over(arrival.size)
                moved(len(data))
                await writer.add(data)
        finally:
            arrival.reader = None
            await writer.end()

    def _put(self, arrival: Arrival, data: bytearray | bytes) -> None:
        """Write some bytes to the disk; in a thread."""
        if arrival.held + len(data) > arrival.size:
            raise _over(arrival.size)
        if arrival.head is not None and arrival.check is not None:
            arrival.head += data
            try:
                if arrival.check(bytes(arrival.head)):
                    arrival.head = None
            except Refused:
                arrival.hostile = True
                raise
        arrival.held = self._append(arrival, memoryview(data))
        arrival.sha.update(data)

    def _append(self, arrival: Arrival, data: memoryview) -> int:
        try:
            return self.blobs.append(arrival.blob, arrival.held, data)
        except NoRoom:
            raise
        except RunError:
            if self.blobs.held(arrival.blob) == arrival.held:
                raise
            arrival.held = -1  # another server of this federation writes it
            raise _taken() from None

    def _look(self, arrival: Arrival) -> None:
        """Look at what is held; a whole one stays, whatever size is said."""
        done = self.blobs.size(arrival.blob)
        if done is not None and done != arrival.size:
            if self._whole(arrival.blob):
                what = f"{arrival.size} bytes were announced of a body that has {done}"
                raise Refused(RefusalReason.MALFORMED, f"{what}; give its own size")
            self.blobs.drop(arrival.blob)  # damaged on this disk
            done = None
        held = self.blobs.held(arrival.blob) if done is None else done
        if held == arrival.held:
            return
        if held > arrival.size:
            self.blobs.drop(arrival.blob)
            held = 0
        arrival.held, arrival.sha = held, sha256()
        arrival.head = None if held or arrival.check is None else bytearray()
        for piece in self.blobs.read(arrival.blob, 0, held) if held else ():
            arrival.sha.update(piece)

    def _whole(self, blob: str) -> bool:
        """Return whether a finished blob is what the digest in its name says."""
        sha = sha256()
        for piece in self.blobs.read(blob):
            sha.update(piece)
        return sha.hexdigest() == blob.rpartition("-")[2]


class BatchedWriter:
    """Gathers bytes, and has a batch written while the next one is gathered."""

    def __init__(self, write: Callable[[bytearray], Coroutine[Any, Any, None]]) -> None:
        self.write, self.batch = write, bytearray()
        self.job: asyncio.Task[None] | None = None
        self.broken = False

    async def add(self, data: bytes) -> None:
        """Take some; wait when the disk is slower than the line."""
        self.batch += data
        if len(self.batch) >= BATCH:
            await self._written()
            batch, self.batch = self.batch, bytearray()
            self.job = asyncio.ensure_future(self.write(batch))

    async def end(self) -> None:
        """Have everything written that was taken, unless some could not be."""
        if not self.broken:
            await self._written()
            if self.batch:
                await self.write(self.batch)

    async def _written(self) -> None:
        if self.job is not None:
            await asyncio.wait({self.job})  # goes on when the waiting is cancelled
            job, self.job = self.job, None
            self.broken = job.exception() is not None
            job.result()


def _over(size: int) -> Refused:
    return Refused(
        RefusalReason.TOO_LARGE, f"more bytes than the {size} that were announced; stop there"
    )


def _taken() -> Refused:
    return Refused(RefusalReason.CLOSED, "a newer connection goes on with this; use that one")
