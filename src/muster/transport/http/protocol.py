# SPDX-License-Identifier: Apache-2.0
"""Connections that know who is at the other end, and close when that end is no longer welcome.

uvicorn keeps the peer's certificate to itself. Here it is read once per connection, and every
request's scope has `scope["state"]["identity"]`: an `Identity`, or None without TLS; the PEM that
it showed is in `scope["state"]["certificate"]`. Whether it is
admitted is asked anew on every request, by the application; a revocation also closes what is open.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muster.errors import IdentityError
from muster.extras import require
from muster.federation.protocol.limits import EACH
from muster.federation.protocol.message import Ack, to_json
from muster.security import pki
from muster.security.identity import IDENTITY, Identity, peer_identity, server_context
from muster.security.refusal import RefusalReason

if TYPE_CHECKING:
    from uvicorn.protocols.http import httptools_impl
else:
    httptools_impl = require("uvicorn.protocols.http.httptools_impl", extra="service")

__all__ = ["Connection", "Live", "Trust"]

LOG = logging.getLogger("muster.server")
HEAD = 16 << 10  # bytes of a request's address and headers
AUTHORITY = "authority.pem"


class Live:
    """The connections that are open, by the serial of the certificate behind them.

    `most` for one certificate; `patience` in seconds for the head of a request, for the next
    byte of a body, and for a reader that takes nothing.
    """

    def __init__(self, most: int = EACH, patience: float = 60.0) -> None:
        self.most, self.patience = most, patience
        self.connections: dict[int, set[Connection]] = {}
        self.count = 0
        self.empty = asyncio.Event()  # nobody is connected
        self.empty.set()
        self.left = asyncio.Event()  # somebody has left

    def enter(self, connection: Connection) -> bool:
        """Note a connection; False when its certificate has enough of them."""
        held = self.connections.setdefault(connection.serial, set())
        self.count += connection not in held
        held.add(connection)
        self.empty.clear()
        return not connection.serial or len(held) <= self.most

    def leave(self, connection: Connection) -> None:
        """Forget a connection."""
        held = self.connections.get(connection.serial, set())
        self.count -= connection in held
        held.discard(connection)
        self.left.set()
        if not held:
            self.connections.pop(connection.serial, None)
        if not self.connections:
            self.empty.set()

    def close(self, serials: Iterable[int]) -> int:
        """Cut every connection of these certificates at once; return how many."""
        found = [c for serial in serials for c in self.connections.get(serial, ())]
        for connection in found:
            connection.transport.abort()
        return len(found)

    def sweep(self, now: float) -> int:
        """Cut the connections that hold a place and do nothing with it; `now` of the loop."""
        everybody = [c for held in self.connections.values() for c in held]
        stalled = [c for c in everybody if c.stalled(now, self.patience)]
        for connection in stalled:
            connection.transport.abort()
        return len(stalled)


class Connection(httptools_impl.HttpToolsProtocol):
    """One connection: its peer is known, its heads are bounded, its refusals are typed."""

    def __init__(self, live: Live, **given: Any) -> None:
        super().__init__(**given)
        self.live = live
        self.who: Identity | None = None
        self.serial = 0  # of the certificate; 0 without one
        self.certificate = ""  # PEM
        self.heard = 0.0  # when the last byte came
        self.head: float | None = None  # since when the head of a request is awaited
        self.stuck: float | None = None  # since when the other end takes nothing
        self.size = 0  # of the head so far

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Find out who is there, before anything is read."""
        super().connection_made(transport)
        self.head = self.heard = self.loop.time()
        secured = transport.get_extra_info("ssl_object")
        if secured is not None:
            try:
                shown = secured.getpeercert(True) or b""
                self.who = peer_identity(shown)
                self.serial, self.certificate = self.who.serial, ssl.DER_cert_to_PEM_cert(shown)
            except IdentityError as error:
                LOG.warning("a connection is closed: %s", error)
                transport.abort()
        if not self.live.enter(self):
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the connection has ended."""
        self.live.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take the bytes that have come."""
        self.heard = self.loop.time()
        if self.parser is not None:  # not behind the end of a connection
            super().data_received(data)

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self.size, self.head = 0, self.heard
        self.scope["state"] |= {"identity": self.who, "certificate": self.certificate}

    def on_url(self, url: bytes) -> None:
        """Take a piece of the address."""
        self._more(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._more(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the request, whose head is whole."""
        self.head = None
        super().on_headers_complete()

    def _more(self, size: int) -> None:
        self.size += size
        if self.size > HEAD:
            raise ValueError("the head of the request is too large")  # ends in send_400_response

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, or has too large a head, as everything else is refused."""
        if self.size > HEAD:
            status, what = (
                431,
                Ack(
                    False,
                    RefusalReason.TOO_LARGE,
                    f"the head of a request has at most {HEAD} bytes",
                ),
            )
        else:
            status, what = 400, Ack(False, RefusalReason.MALFORMED, "this is not HTTP/1.1")
        data = to_json(what)
        self.transport.write(
            httptools_impl.STATUS_LINE[status]
            + b"content-type: application/json\r\nconnection: close\r\n"
            + b"content-length: %d\r\n\r\n" % len(data)
            + data
        )
        self.transport.close()

    def pause_writing(self) -> None:
        """Pause: the other end takes less than is sent."""
        self.stuck = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """Go on: the other end has taken what was sent."""
        self.stuck = None
        super().resume_writing()

    def stalled(self, now: float, patience: float) -> bool:
        """Return whether this end has waited for the other for longer than `patience` seconds."""
        if self.flow.read_paused:
            self.heard = now  # it is this end that does not read
        cycle = self.cycle
        if self.head is not None and self.timeout_keep_alive_task is None:
            return now - self.head > patience
        if self.stuck is not None:
            return now - self.stuck > patience
        awaited = cycle is not None and cycle.more_body and not cycle.waiting_for_100_continue
        return awaited and now - self.heard > patience


class Trust:
    """The trust of a server's folder: its own certificates, and those that are revoked.

    `look` reads again what has changed: a renewed identity serves the next handshake, and a newer
    list of what is revoked (`revocations`) holds from then on. What cannot be used, or is an older
    list that was put back, is logged once, and the newest goes on holding.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.revocations = pki.Revocations(folder)
        self._context: ssl.SSLContext = server_context(folder, folder / AUTHORITY)
        self._shown = _stamp(folder / IDENTITY)
        self._said = ""

    def context(self) -> ssl.SSLContext:
        """Return TLS as the server speaks it."""
        return self._context

    def revoked(self) -> frozenset[int]:
        """Return the serials that open no door."""
        return self.revocations.current.serials

    def look(self) -> None:
        """Take up what has changed in the folder."""
        try:
            self.revocations.look()
            self._said = ""
        except IdentityError as error:
            if str(error) != self._said:
                self._said = str(error)
                LOG.error("the revocation list has changed and cannot be used: %s", error)
        after = _stamp(self.folder / IDENTITY)
        if after == self._shown:
            return
        self._shown = after
        try:
            server_context(self.folder, self.folder / AUTHORITY)  # is it a whole one?
            self._context.load_cert_chain(self.folder / IDENTITY)
        except (IdentityError, OSError) as error:
            LOG.error("%s has changed and cannot be used: %s", self.folder / IDENTITY, error)


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_ino, found.st_size)
