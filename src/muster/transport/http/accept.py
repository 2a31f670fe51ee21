# SPDX-License-Identifier: Apache-2.0
"""The entrance: connections are taken off a listening socket only while there is room for them.

Each open connection is a descriptor, and a process has few: without a bound, a stranger who only
connects takes those that the store, the audit log and the operator need. Whoever has not said in a
handshake who it is holds one of few places; when they are all taken the oldest of the address that
holds most of them goes, so that strangers displace strangers. When everything is taken, newcomers
wait in the system's queue.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from muster.federation.protocol.limits import CONNECTIONS, DESCRIPTORS, HANDSHAKES
from muster.transport.http.protocol import Live

resource: Any
try:
    import resource
except ModuleNotFoundError:  # Windows has none, and no such limit
    resource = None

__all__ = ["Entrance", "affordable", "more_descriptors"]

LOG = logging.getLogger("muster.server")
PAUSE = 0.25  # seconds until a shortage of the system is looked at again
GONE = (errno.ECONNABORTED, errno.EPROTO, errno.EINTR, errno.ECONNRESET)  # whoever came has left
SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
Accept = Callable[[socket.socket], Awaitable[tuple[socket.socket, Any]]]


def more_descriptors(most: int = 1 << 16) -> int:
    """Ask for as many descriptors as this process may have, up to so many; how many it has."""
    if resource is None:
        return most
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most if hard == resource.RLIM_INFINITY else min(most, hard)
    if soft not in (resource.RLIM_INFINITY, wanted) and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return most if soft == resource.RLIM_INFINITY else soft


def affordable(descriptors: int) -> int:
    """Count the connections that sites may hold together, of so many descriptors.

    The rest is kept for the store, logs, bodies and the operator.

    >>> affordable(1024), affordable(200), affordable(1 << 20) == CONNECTIONS
    (768, 100, True)
    """
    return max(1, min(CONNECTIONS, descriptors - min(DESCRIPTORS, descriptors // 2)))


async def _accept(sock: socket.socket) -> tuple[socket.socket, Any]:
    try:
        return sock.accept()  # whoever waits in the system's queue, without a turn of the loop
    except BlockingIOError:
        return await asyncio.get_running_loop().sock_accept(sock)


async def _pause() -> None:
    await asyncio.sleep(PAUSE)


@dataclass(eq=False)
class Entrance:
    """Takes connections off `sock`, at most `most` at once, of which few without a handshake.

    `make` gives the protocol of a connection, which enters `live`; `tls` is None for plain HTTP;
    `patience` in seconds for a handshake. `accept` and `pause` are the world outside, for tests.
    """

    sock: socket.socket
    make: Callable[[], asyncio.BaseProtocol]
    live: Live
    most: int
    tls: ssl.SSLContext | None = None
    patience: float = 10.0
    accept: Accept = _accept
    pause: Callable[[], Awaitable[None]] = _pause
    handshaking: dict[asyncio.Task[None], str] = field(default_factory=dict, init=False)

    @property
    def places(self) -> int:
        """The number that may be in a handshake at once; without TLS it is over at once."""
        return self.most if self.tls is None else max(1, min(HANDSHAKES, self.most // 2))

    async def run(self) -> None:
        """Take what comes, until cancelled; shortages of the system are waited out."""
        short = False
        while True:
            await self._room()
            try:
                taken, address = await self.accept(self.sock)
            except OSError as error:
                if error.errno in GONE:
                    continue
                if error.errno not in SHORT:
                    raise
                if not short:
                    LOG.error("no connection can be taken now (%s); it is tried again", error)
                short = True
                self._displace()  # what a stranger holds is what is missing
                await self.pause()
                continue
            short = False
            greeting = asyncio.ensure_future(self._greet(taken))
            self.handshaking[greeting] = str(address[0]) if address else ""
            greeting.add_done_callback(self._done)
            while len(self.handshaking) > self.places:
                self._displace()
            await asyncio.sleep(0)  # a flood leaves others their turn

    def close(self) -> None:
        """Take nothing more; handshakes that are under way end."""
        self.sock.close()
        for greeting in list(self.handshaking):
            greeting.cancel()

    async def _room(self) -> None:
        """Wait until one more can be held."""
        while self.live.count + len(self.handshaking) >= self.most:
            if self.handshaking and self.tls is not None:
                self._displace()
            elif self.handshaking:
                await asyncio.wait(self.handshaking, return_when=asyncio.FIRST_COMPLETED)
            else:
                self.live.left.clear()
                await self.live.left.wait()

    def _displace(self) -> None:
        """End the oldest handshake of the address that holds most of them."""
        if self.handshaking:
            crowd, _ = Counter(self.handshaking.values()).most_common(1)[0]
            oldest = next(one for one, address in self.handshaking.items() if address == crowd)
            del self.handshaking[oldest]
            oldest.cancel()

    async def _greet(self, taken: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        taken.setblocking(False)
        more: dict[str, Any] = (
            {}
            if self.tls is None
            else {
                "ssl": self.tls,
                "ssl_handshake_timeout": self.patience,
                "ssl_shutdown_timeout": 1.0,
            }
        )
        try:
            await loop.connect_accepted_socket(self.make, taken, **more)
        except BaseException:
            taken.close()
            raise

    def _done(self, greeting: asyncio.Task[None]) -> None:
        self.handshaking.pop(greeting, None)
        if not greeting.cancelled():
            error = greeting.exception()  # a stranger's line that broke is nobody's news
            if error is not None and not isinstance(error, OSError):
                LOG.warning("a connection could not be taken: %r", error)
