# SPDX-License-Identifier: Apache-2.0
"""One request and its one answer.

Over raw ASGI 3. A body is read in pieces as it comes; a refusal is told before the rest of a body
is read, and what still comes is dropped for a moment so that the sender gets to read it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from muster.federation.coordinator.endpoint import AGAIN
from muster.federation.coordinator.receiver import Gone
from muster.federation.protocol.message import LIMIT, Ack, Message, to_json
from muster.security.refusal import RefusalReason, Refused
from muster.transport.routes import PREFIX

__all__ = [
    "JSON",
    "PATIENCE",
    "Receive",
    "Request",
    "STATUS",
    "Scope",
    "Send",
]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Fields = Iterable[tuple[bytes, bytes]]

JSON = b"application/json"
STATUS = {
    RefusalReason.MALFORMED: 400,
    RefusalReason.UNENROLLED: 401,
    RefusalReason.REVOKED: 403,
    RefusalReason.UNKNOWN: 404,
    RefusalReason.UNKNOWN_RUN: 404,
    RefusalReason.LATE: 409,
    RefusalReason.DUPLICATE: 409,
    RefusalReason.STALE: 409,
    RefusalReason.FOREIGN: 409,
    RefusalReason.CLOSED: 409,
    RefusalReason.LEFT_OUT: 409,
    RefusalReason.WRONG_FINGERPRINT: 409,
    RefusalReason.WRONG_VERSION: 409,
    RefusalReason.TOO_LARGE: 413,
    RefusalReason.NOT_FINITE: 422,
    RefusalReason.WRONG_DIGEST: 422,
    RefusalReason.TOO_OFTEN: 429,
    RefusalReason.NO_ROOM: 507,
}
PATIENCE = 10.0  # seconds that a message may take to come, and half of it that a rest is dropped
LINGER = 32 << 20  # bytes dropped at most, so that a refusal is read
VERSION = (b"muster-version", b"2")


class Request:
    """One request and its answer; `read` and `sent` count octets of bodies, `status` is told."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, patience: float = PATIENCE
    ) -> None:
        self.scope, self.receive, self.send, self.patience = scope, receive, send, patience
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.status = self.read = self.sent = 0
        self.route, self.name = "other", ""  # the pattern that was met; who asks
        self.holes: dict[str, str] = {}  # what stands in the holes of the pattern
        bodiless = self.headers.get(b"content-length", b"0") == b"0"
        self.whole = bodiless and b"transfer-encoding" not in self.headers

    def header(self, name: bytes) -> str:
        """Return a header's text, or nothing."""
        return self.headers.get(name, b"").decode("latin-1").strip()

    def query(self) -> str:
        """Return the text behind the question mark."""
        found: bytes = self.scope["query_string"]
        return found.decode("latin-1")

    def length(self) -> int | None:
        """Return the length that the body says it has; None when it does not say."""
        said = self.headers.get(b"content-length", b"").strip()
        return int(said) if said.isdigit() and len(said) < 19 else None

    @property
    def coding(self) -> str:
        """How the body is packed."""
        return self.header(b"content-encoding").lower() or "identity"

    async def piece(self) -> bytes | None:
        """Return the next piece of the body, or None behind the last. Raises `Gone`."""
        if self.whole:
            return None
        message = await self.receive()
        if message["type"] == "http.disconnect":
            raise Gone
        self.whole = not message.get("more_body", False)
        data: bytes = message.get("body", b"")
        self.read += len(data)
        return data

    async def body(self, limit: int = LIMIT) -> bytes:
        """Return the whole of a small body. Raises `Refused` for a larger or a very slow one."""
        if (self.length() or 0) > limit:
            raise Refused(
                RefusalReason.TOO_LARGE, f"{self.length()} bytes; at most {limit} are read here"
            )
        data = await self.piece() or b""
        if not self.whole:
            try:
                async with asyncio.timeout(self.patience):
                    while not self.whole and len(data) <= limit:
                        data += await self.piece() or b""
            except TimeoutError:
                what = f"the body did not come within {self.patience:g} s; send it at once"
                raise Refused(RefusalReason.MALFORMED, what) from None
        if len(data) > limit:
            raise Refused(
                RefusalReason.TOO_LARGE, f"more than {limit} bytes; no more are read here"
            )
        return data

    async def left(self) -> None:
        """Wait until the client has gone away; nothing of the body may be wanted any more."""
        while (await self.receive())["type"] != "http.disconnect":
            continue

    async def start(self, status: int, kind: bytes, size: int | None, more: Fields = ()) -> None:
        """Begin the answer; `size` None where it is not known before the end."""
        self.status = status
        fields = [(b"content-type", kind), *more]
        if size is not None:
            fields.append((b"content-length", b"%d" % size))
        if self.path.startswith(PREFIX):
            fields.append(VERSION)
        if not self.whole:
            fields.append((b"connection", b"close"))
        await self.send({"type": "http.response.start", "status": status, "headers": fields})

    async def more(self, data: bytes | memoryview, last: bool = False) -> None:
        """Send a piece of the answer's body."""
        self.sent += len(data)
        await self.send({"type": "http.response.body", "body": data, "more_body": not last})

    async def answer(self, status: int, data: bytes, kind: bytes = JSON, more: Fields = ()) -> None:
        """Send the whole answer, also when some of the request has not been read."""
        await self.start(status, kind, len(data), more)
        if self.whole:
            await self.more(data, last=True)
            return
        await self.more(data)
        await self._linger()
        await self.more(b"", last=True)

    async def say(self, message: Message, status: int = 0, more: Fields = ()) -> None:
        """Send a message as the answer; a refusal has the status of its reason."""
        fields = [*more]
        reason = message.reason if isinstance(message, Ack) else None
        if reason in AGAIN:
            fields.append((b"retry-after", b"%d" % AGAIN[reason]))
        usual = 200 if reason is None else STATUS[reason]
        await self.answer(status or usual, to_json(message), more=fields)

    async def _linger(self) -> None:
        """Drop what still comes: a connection closed on it would take the answer with it."""
        most = LINGER + self.read
        try:
            async with asyncio.timeout(self.patience / 2):
                while not self.whole and self.read < most:
                    await self.piece()
        except (TimeoutError, Gone):
            return
