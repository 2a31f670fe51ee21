# SPDX-License-Identifier: Apache-2.0
"""A proxy between a site and its server, which sees messages and hurts some of them.

Which request is hurt, and how, is a function of how many went before it; nothing is drawn from a
clock. A balancer, which sees connections alone, stands before several servers.
"""

import asyncio
import contextlib
import random
import re
import threading
from collections import Counter
from dataclasses import dataclass, field

from muster.federation.coordinator import uploads

LENGTH = re.compile(rb"(?im)^content-length: *(\d+)")
CHUNKED = re.compile(rb"(?im)^transfer-encoding: *chunked")
FAULTS = (
    "duplicate",
    "stale",
    "lose request",
    "lose answer",
    "cut request",
    "cut answer",
    "delay",
    "swap",
    "spoil request",
    "spoil answer",
)
MOST = 0.2  # seconds that a message is held back
Lost = (OSError, EOFError, asyncio.IncompleteReadError)


@dataclass(eq=False)
class Seen:
    """One request: the how-manieth, what it was, what was done to it, and what was answered."""

    count: int
    head: bytes
    body: bytes = b""
    fault: str | None = None
    answer: bytes = b""

    @property
    def what(self):
        return self.head.split(b" HTTP/", 1)[0].decode()

    @property
    def status(self):
        return int(self.answer[9:12] or 0)


def drawn(seed, share=0.3):
    """Every fault now and then: a schedule.

    No update is damaged as often as makes a server give its sender up (see `test_uploads`).
    """
    spoiled = Counter()

    def schedule(seen):
        dice = random.Random(f"{seed} {seen.count}")
        if dice.random() >= share:
            return None
        fault = dice.choice(FAULTS)
        upload, model = seen.what.startswith("PUT"), seen.what.startswith("GET /v1/models")
        if (fault == "spoil request" and not upload) or (fault == "spoil answer" and not model):
            return "lose answer"
        if fault == "spoil request":
            update = seen.what.partition("?")[0]
            spoiled[update] += 1
            return fault if spoiled[update] < uploads.TRIES else "lose answer"
        return fault

    return schedule


class _Background:
    """An event loop in a thread of its own, listening on a free port until it is left."""

    def __enter__(self):
        self._up = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._listen(),))
        self._thread.start()
        self._up.wait()
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        assert not self._errors, self._errors

    async def _listen(self):
        self._loop, self._over, self._tasks = asyncio.get_running_loop(), asyncio.Event(), set()
        self._errors = []
        self.setup()
        server = await asyncio.start_server(self._taken, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._up.set()
        await self._over.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _taken(self, reader, writer):
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            await self.connection(reader, writer)
        except asyncio.CancelledError:
            assert self._over.is_set()
        except Exception as error:
            self._errors.append(error)
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    def setup(self):
        """In the loop, before the first connection."""


@dataclass(eq=False)
class Proxy(_Background):
    """A proxy before the port `target`; `schedule(seen)` names a fault, or None."""

    target: int
    schedule: object = lambda seen: None
    seen: list = field(default_factory=list)

    def setup(self):
        """Set up events for requests: another was answered, those that hang are let go."""
        self.stale, self.answered, self.free = [], asyncio.Event(), asyncio.Event()

    def release(self):
        """Those that hang are cut."""
        self._loop.call_soon_threadsafe(self.free.set)

    async def connection(self, reader, writer):
        """One connection of a site: request by request, over one connection to the server."""
        up = None
        try:
            while True:
                head, body = await message(reader)
                seen = Seen(len(self.seen), head, body)
                self.seen.append(seen)
                seen.fault = self.schedule(seen)
                if up is None:
                    up = await asyncio.open_connection("127.0.0.1", self.target)
                await self._pass(seen, up, reader, writer)
        except Lost:
            return
        finally:
            if up is not None:
                up[1].transport.abort()

    async def _pass(self, seen, up, reader, writer):
        """A request and its answer, hurt; raises `OSError` to end the connection."""
        body, fault = seen.body, seen.fault
        if fault == "lose request":
            raise OSError
        if fault == "delay":
            await asyncio.sleep(random.Random(seen.count).random() * MOST)
        if fault == "swap":
            self.answered.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.answered.wait(), MOST)
        if fault == "hang":
            await self._until_cut(reader)
        if fault == "spoil request":
            body = spoiled(body)
        await self._send(seen, body, up[1], reader)
        answer = await self._answer(up[0], reader)
        if fault == "duplicate":
            up[1].write(seen.head + seen.body)
            answer = await self._answer(up[0], reader)
        await self._late_copies()
        if fault == "stale":
            self.stale.append((seen.count, seen.head + seen.body))
        seen.answer = b"".join(answer)
        self.answered.set()
        if fault == "lose answer":
            raise OSError
        if fault == "spoil answer":
            answer = answer[0], spoiled(answer[1])
        whole = b"".join(answer)
        if fault == "drip" and seen.what.startswith("GET"):
            await drip(whole, writer)
            return
        writer.write(whole[: len(whole) // 2] if fault == "cut answer" else whole)
        await writer.drain()
        if fault == "cut answer":
            writer.close()
            await writer.wait_closed()
            raise OSError

    async def _send(self, seen, body, writer, reader):
        if seen.fault in ("cut request", "stall"):
            writer.write(seen.head + body[: len(body) // 2])
            await writer.drain()
            if seen.fault == "stall":
                await self._until_cut(reader)
            raise OSError
        if seen.fault == "drip" and body:
            writer.write(seen.head)
            await drip(body, writer)
            return
        writer.write(seen.head + body)
        await writer.drain()

    async def _until_cut(self, reader):
        """The connection is half open: until the site gives it up, or the test does."""
        await first(reader.read(1), self.free.wait())
        raise OSError

    async def _answer(self, up, reader):
        """The server's answer, unless the site has gone meanwhile."""
        answer, _ = await first(message(up), reader.read(1))
        if answer is None:
            raise OSError
        return answer.result()

    async def _late_copies(self):
        """Old messages arrive once more, when newer ones have been answered."""
        due = [old for old in self.stale if old[0] + 9 < len(self.seen)]
        self.stale = [old for old in self.stale if old not in due]
        for _, octets in due:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.target)
            try:
                writer.write(octets)
                if (
                    b" /v1/poll" not in octets[:20]
                ):  # nobody waits for the answer to an old question
                    await message(reader)
            finally:
                writer.transport.abort()


@dataclass(eq=False)
class Balancer(_Background):
    """Connections to whichever of several servers takes one, in turn."""

    targets: tuple[int, ...]
    turn: int = 0

    async def connection(self, reader, writer):
        """Octets both ways until either end closes."""
        for _ in self.targets:
            self.turn += 1
            port = self.targets[self.turn % len(self.targets)]
            try:
                up = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                continue
            try:
                await first(_copied(reader, up[1]), _copied(up[0], writer))
            finally:
                up[1].transport.abort()
            return


async def first(*coroutines):
    """Return the task that is done first, and None in place of those that were given up."""
    tasks = [asyncio.ensure_future(one) for one in coroutines]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [None if task.cancelled() else task for task in tasks]


async def _copied(reader, writer):
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()


async def message(reader):
    """The head and the body of one message of HTTP/1.1, as they came."""
    head = await reader.readuntil(b"\r\n\r\n")
    if found := LENGTH.search(head):
        return head, await reader.readexactly(int(found[1]))
    body = b""
    while CHUNKED.search(head):
        line = await reader.readuntil(b"\r\n")
        body += line + await reader.readexactly(int(line, 16) + 2)
        if int(line, 16) == 0:
            break
    return head, body


async def drip(octets, writer):
    """An eighth at a time, slowly."""
    size = len(octets) // 8 + 1
    for begin in range(0, len(octets), size):
        writer.write(octets[begin : begin + size])
        await asyncio.sleep(MOST)


def spoiled(body):
    """One bit has fallen over."""
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :] if body else body
