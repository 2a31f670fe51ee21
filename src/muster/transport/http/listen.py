# SPDX-License-Identifier: Apache-2.0
"""Sockets: where a server listens, for whom, and how it stops.

One port for the sites, over TLS or, on a loopback address and only when asked, in the clear; a
unix socket for the operator; and, if wanted, a loopback port for health and metrics. Signals are
the caller's: whoever sets `stop` gets an orderly end within a bounded time.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import socket
import ssl
import stat
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from muster.errors import NoRoom, RunError, short
from muster.extras import require
from muster.federation.protocol.limits import CONNECTIONS, EACH, WATCHERS
from muster.transport.http.accept import Entrance, affordable, more_descriptors
from muster.transport.http.protocol import Connection, Live, Trust
from muster.transport.http.request import Receive, Scope, Send
from muster.transport.http.sparse import sparse

if TYPE_CHECKING:
    import uvicorn
    from uvicorn import server as uvicorn_server
else:
    uvicorn = require("uvicorn", extra="service")
    uvicorn_server = require("uvicorn.server", extra="service")

__all__ = ["ListenAddress", "serve"]

HANDSHAKE = 10.0  # seconds; until then nobody knows who it is
LOG = logging.getLogger("muster.server")
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Closing(Protocol):
    """An application that can be told that the server goes down."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

    def close(self) -> None:
        """Answer everybody who is kept waiting."""


@dataclass(frozen=True)
class ListenAddress:
    """The addresses at which a server listens; times in seconds.

    Fields: `host` and `port` (0: any that is free) for the sites; `control`, the path of the
    operator's socket; `meters`, a loopback port for health and metrics; `backlog` of connections
    not yet taken; `tick` between two looks at certificates and stalled connections; `grace` for
    requests in flight at the end; `idle` that a connection may rest between two requests;
    `patience` with a peer that sends or takes nothing; `most` connections of one certificate, and
    `connections` of all together: None as many as there are descriptors for.
    """

    host: str = "127.0.0.1"
    port: int = 8443
    control: Path | None = None
    meters: int | None = None
    backlog: int = 2048
    tick: float = 1.0
    grace: float = 10.0
    idle: float = 75.0
    patience: float = 60.0
    most: int = EACH
    connections: int | None = None


async def serve(
    app: Closing,
    operator: App,
    where: ListenAddress,
    stop: asyncio.Event,
    *,
    trust: Trust | None = None,
    told: Callable[[int], None] | None = None,
) -> None:
    """Serve until `stop` is set; `told(port)` is called when everybody can connect.

    `trust` is the server's identity; without one, everything is in the clear, which is refused
    unless `where.host` is a loopback address.
    """
    if trust is None and not _loopback(where.host):
        raise RunError(
            f"plain HTTP on {where.host!r} would let anybody be anybody; serve on 127.0.0.1, or "
            f"give the server an identity (muster pki)"
        )
    doors = _Doors(where, trust)
    most = where.connections or affordable(more_descriptors())
    with sparse(), contextlib.ExitStack() as stack:
        try:
            sock = _tcp(where.host, where.port)
            await doors.open(app, sock, trust.context() if trust else None, most=most)
            if where.meters is not None:
                await doors.open(operator, _tcp("127.0.0.1", where.meters), most=WATCHERS)
            if where.control is not None:
                control = stack.enter_context(_unix(where.control))
                await doors.open(operator, control, control=True)
            if told is not None:
                told(sock.getsockname()[1])
            await doors.watch(stop)
        finally:
            app.close()
            await doors.close()


class _Doors:
    """The listening sockets of one server, and the connections that came through them."""

    def __init__(self, where: ListenAddress, trust: Trust | None) -> None:
        self.where, self.trust = where, trust
        self.lives: list[Live] = []  # one for each door
        self.state = uvicorn_server.ServerState()
        self.servers: list[asyncio.AbstractServer] = []
        self.entrances: dict[asyncio.Task[None], Entrance] = {}

    async def open(
        self,
        app: App,
        sock: socket.socket,
        tls: ssl.SSLContext | None = None,
        *,
        most: int = CONNECTIONS,
        **state: Any,
    ) -> None:
        """Listen for `most` connections; `state` is in the scope of every request that comes."""
        live = Live(self.where.most, self.where.patience)
        self.lives.append(live)
        config = uvicorn.Config(
            app,
            http=Connection,
            interface="asgi3",
            lifespan="off",
            ws="none",
            proxy_headers=False,
            server_header=False,
            access_log=False,
            log_config=None,
            timeout_keep_alive=round(self.where.idle),
        )
        config.load()
        common = {"config": config, "server_state": self.state, "app_state": state}
        loop, backlog = asyncio.get_running_loop(), self.where.backlog
        make = partial(Connection, live, **common)
        if sock.family is socket.AF_UNIX:
            self.servers.append(await loop.create_unix_server(make, sock=sock, backlog=backlog))
            return
        sock.listen(backlog)
        patience = min(HANDSHAKE, self.where.patience)
        entrance = Entrance(sock, make, live, most, tls, patience)
        self.entrances[asyncio.ensure_future(entrance.run())] = entrance

    async def watch(self, stop: asyncio.Event) -> None:
        """Look once a tick, until the end, at certificates, and at connections that stall."""
        loop = asyncio.get_running_loop()
        while not stop.is_set():
            self.state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
            if self.trust is not None:
                self.trust.look()
                for live in self.lives:
                    live.close(self.trust.revoked())
            for live in self.lives:
                live.sweep(loop.time())
            for taking in self.entrances:
                if taking.done():
                    taking.result()  # a door that has failed is the end of the server
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), self.where.tick)

    async def close(self) -> None:
        """Take nothing new, finish what is in flight within the grace, and cut the rest."""
        for server in self.servers:
            server.close()
        for taking in self.entrances:
            taking.cancel()
        await asyncio.gather(*self.entrances, return_exceptions=True)
        for entrance in self.entrances.values():
            entrance.close()
        for connection in list(self.state.connections):
            connection.shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.where.grace):
                await self._empty()
                await _done(self.state.tasks)
        cut = [c for one in self.lives for held in one.connections.values() for c in held]
        for connection in cut:
            connection.transport.abort()
        for task in list(self.state.tasks):
            task.cancel()
        if cut or self.state.tasks:
            LOG.warning("%d connections did not end within %g s", len(cut), self.where.grace)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await _done(self.state.tasks)
                await self._empty()

    async def _empty(self) -> None:
        for live in self.lives:
            await live.empty.wait()


async def _done(tasks: set[asyncio.Task[None]]) -> None:
    if tasks:
        await asyncio.wait(set(tasks))


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _tcp(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        sock = socket.create_server((host, port), family=family)
    except OSError as error:
        if short(error):
            raise NoRoom(f"there is no room for a socket on {host} port {port} ({error})") from None
        raise RunError(
            f"the server cannot listen on {host} port {port} ({error.strerror}); name another "
            f"address or a port that is free"
        ) from None
    sock.setblocking(False)
    return sock


@contextlib.contextmanager
def _unix(path: Path) -> Iterator[socket.socket]:
    """Yield a socket for its owner alone; nobody can connect before its mode is set."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()  # left behind by a server that was killed
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(path))
        os.chmod(path, 0o600)
    except OSError as error:
        sock.close()
        if short(error):
            raise NoRoom(f"there is no room for the control socket {path} ({error})") from None
        raise RunError(
            f"the control socket {path} cannot be made ({error}); use a folder whose path has "
            f"less than 90 characters"
        ) from None
    try:
        sock.setblocking(False)
        yield sock
    finally:
        sock.close()
        path.unlink(missing_ok=True)
