# SPDX-License-Identifier: Apache-2.0
"""The server's side of HTTP: raw ASGI 3 between a connection and the endpoint of a server.

Every request passes the same gates in the same order: who is it, does it ask too often, is it of
a size and shape that may be read; then the service. Whatever is refused is an `Ack` with a reason,
and is counted. What nobody foresaw is a 500 without a word of what is inside, and a traceback in
the log.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from muster.errors import IdentityError, NoRoom
from muster.federation.coordinator.endpoint import KEPT, ServerEndpoint
from muster.federation.coordinator.receiver import Gone
from muster.federation.coordinator.service import FederationService
from muster.federation.protocol.message import Message, from_json
from muster.federation.protocol.transport import ModelQuery, RawAnswer, SessionBody, UpdateBody
from muster.security import identity
from muster.security.refusal import RefusalReason, Refused
from muster.store.blobs import Blobs
from muster.transport.http.download import OCTETS, Downloads
from muster.transport.http.limits import Limits
from muster.transport.http.openapi import document
from muster.transport.http.operator import HEALTHY, Meters
from muster.transport.http.request import PATIENCE, Receive, Request, Scope, Send
from muster.transport.routes import PREFIX, Route, found

__all__ = ["HTTPApp"]

LOG = logging.getLogger("muster.server")
FAULT = b'{"kind":"fault","text":"the server failed; the reason is in its log; try again later"}'
METRICS = b"muster-metrics"  # a header: what the plan lets be seen beside a masked sum
Door = Callable[[Request, Route], Awaitable[None]]


class HTTPApp:
    """The server's face to its sites.

    `revoked()` gives the serials that open no door; `limits` how often one may ask; with `plain`,
    a request over plain HTTP says in `Muster-Site` who it is, and is believed; `patience` in
    seconds for a message to come. `close` answers all polls at once, and from then on every poll.
    """

    def __init__(
        self,
        service: FederationService,
        blobs: Blobs,
        revoked: Callable[[], frozenset[int]],
        *,
        limits: Limits | None = None,
        meters: Meters | None = None,
        plain: bool = False,
        patience: float = PATIENCE,
    ) -> None:
        self.service, self.revoked, self.plain, self.patience = service, revoked, plain, patience
        self.now = partial(datetime.now, UTC)  # by which certificates end
        self.limits, self.meters = limits or Limits(), meters or Meters(service)
        self.pool = ThreadPoolExecutor(8, "muster-edge")
        self.endpoint, self.downloads = (
            ServerEndpoint(service, blobs, self.pool),
            Downloads(blobs, self.pool),
        )
        self._pages = {"/openapi.json": json.dumps(document()).encode(), "/healthz": HEALTHY}
        self._doors: dict[type, Door] = {
            ModelQuery: self._download,
            UpdateBody: self._upload,
            SessionBody: self._upload,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, from the first gate to its one answer."""
        if scope["type"] != "http":
            return
        exchange, begin = Request(scope, receive, send, self.patience), time.perf_counter()
        try:
            await self._serve(exchange)
        except Refused as refused:
            await self._tell(exchange, self.endpoint.refused(refused))
        except NoRoom:
            LOG.exception("%s %s has no room", exchange.method, exchange.route)
            text = "the server has no room for it now; try again later"
            full = Refused(RefusalReason.NO_ROOM, text)
            await self._tell(exchange, self.endpoint.refused(full))
        except Gone:
            exchange.status = 499
        except asyncio.CancelledError:
            if not self.endpoint.closing:
                raise
        except Exception:
            LOG.exception("%s %s failed", exchange.method, exchange.route)
            if not exchange.status:
                await exchange.answer(500, FAULT)
            else:
                raise  # half an answer is on its way: the connection ends here
        finally:
            self.meters.seen(exchange, time.perf_counter() - begin)

    def close(self) -> None:
        """Close, as the server goes down: whoever polls is told to wait, at once."""
        self.endpoint.close()

    async def _serve(self, exchange: Request) -> None:
        methods, exchange.holes = found(exchange.path)
        name = self._who(exchange)
        self.limits.check(name)
        if not methods:
            raise Refused(
                RefusalReason.UNKNOWN, "there is nothing at this address; see /openapi.json"
            )
        exchange.route = path = next(iter(methods.values())).path
        exchange.name, route = name, methods.get(exchange.method)
        if route is None:
            allow = ", ".join(methods)
            wrong = Refused(RefusalReason.UNKNOWN, f"only {allow} is understood at {path}")
            more = 405, [(b"allow", allow.encode())]
            await self._tell(exchange, self.endpoint.refused(wrong), *more)
        elif route.asked:
            await self._doors.get(route.asked[0], self._call)(exchange, route)
        else:
            await exchange.answer(200, self._pages[path])

    def _who(self, exchange: Request) -> str:
        """Return the name of the site that asks, admitted now. Raises `Refused`."""
        who = exchange.scope.get("state", {}).get("identity")
        if who is not None:
            try:
                return identity.admit(who, "site", self.revoked(), self.now()).name
            except IdentityError as error:
                raise Refused(RefusalReason.REVOKED, str(error)) from None
        if self.plain and exchange.scope.get("scheme", "http") == "http":
            name = exchange.header(b"muster-site")
            if not exchange.path.startswith(PREFIX):
                return name[:64]
            try:
                return identity.check_name(name)
            except IdentityError as error:
                raise Refused(RefusalReason.UNENROLLED, f"Muster-Site: {error}") from None
        raise Refused(
            RefusalReason.UNENROLLED, "nobody is known here without a certificate; use TLS"
        )

    async def _tell(self, exchange: Request, said: Message, *more: Any) -> None:
        """Answer with a message."""
        if exchange.status:
            raise RuntimeError(f"{exchange.route} was refused behind the start of its answer")
        await exchange.say(said, *more)

    async def _call(self, exchange: Request, route: Route) -> None:
        """Answer a question that is small, as is its answer."""
        if issubclass(route.asked[0], Message):
            question: Any = from_json(await exchange.body(), *route.asked)
        else:
            question, _ = route.question(exchange.holes, exchange.query())
        if isinstance(question, KEPT):
            left = asyncio.ensure_future(exchange.left())
            self.meters.polls.inc()
            try:
                said = await self.endpoint.call(exchange.name, question, left=left)
            finally:
                self.meters.polls.dec()
                left.cancel()
        else:
            shown = exchange.scope.get("state", {}).get("certificate", "")
            said = await self.endpoint.call(exchange.name, question, shown)
        if not isinstance(said, RawAnswer):
            await self._tell(exchange, said)
        elif route.told:
            number = (b"muster-told", b"%d" % said.number)
            await exchange.answer(200, said.data, OCTETS, [number])
        else:
            await exchange.answer(200, said.data)

    async def _upload(self, exchange: Request, route: Route) -> None:
        """Bytes of a body: read as they come, or not at all."""
        body, offset = route.question(exchange.holes, exchange.query())
        if METRICS in exchange.headers:
            told = exchange.headers[METRICS].decode("utf-8", "surrogateescape")
            body = replace(body, metrics=told) if isinstance(body, SessionBody) else body
        await self._tell(
            exchange, await self.endpoint.upload(exchange.name, body, offset, exchange)
        )

    async def _download(self, exchange: Request, route: Route) -> None:
        """Send a model, or a range of it."""
        asked, _ = route.question(exchange.holes, exchange.query())
        blob, moved = self.endpoint.model(exchange.name, asked)
        await self.downloads.give(exchange, asked.digest, blob, moved)
