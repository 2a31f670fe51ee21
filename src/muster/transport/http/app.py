# SPDX-License-Identifier: Apache-2.0
"""The server's port: raw ASGI 3 between a connection and the service, a function per endpoint.

Every request passes the same gates in the same order: who is it, does it ask too often, is it of
a size and shape that may be read; then the service. Whatever is refused is an `Ack` with a reason,
and is counted. What nobody foresaw is a 500 without a word of what is inside, and a traceback in
the log.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from muster.errors import IdentityError, NoRoom
from muster.federation.coordinator.service import FederationService
from muster.federation.protocol.message import (
    Ack,
    Decline,
    Evaluate,
    Hello,
    Measured,
    Poll,
    Progress,
    ResumeAt,
    TrainAssignment,
    TrainingFailure,
    UpdateHeader,
    Wait,
    from_json,
)
from muster.federation.protocol.transport import (
    MembersQuery,
    ModelQuery,
    PlanQuery,
    SessionBody,
    SessionQuery,
    UpdateBody,
)
from muster.security import identity
from muster.security.refusal import RefusalReason, Refused
from muster.store.blobs import Blobs
from muster.transport.http.download import Downloads
from muster.transport.http.limits import Limits
from muster.transport.http.openapi import document
from muster.transport.http.operator import HEALTHY, Meters
from muster.transport.http.request import PATIENCE, Gone, Receive, Request, Scope, Send
from muster.transport.http.routes import PREFIX, found, route_of
from muster.transport.http.secagg import SecAggEndpoint
from muster.transport.http.transfer import Uploads

__all__ = ["HTTPApp"]

LOG = logging.getLogger("muster.server")
ROUND = r"[1-9][0-9]{0,9}"
FAULT = b'{"kind":"fault","text":"the server failed; the reason is in its log; try again later"}'
Door = Callable[[Request], Awaitable[None]]
T = TypeVar("T")


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
        self.uploads = Uploads(service, blobs, self.pool, service.facts.lease / 3)
        self.downloads = Downloads(blobs, self.pool)
        self.sessions = SecAggEndpoint(service, blobs, self.pool)
        self.closing = False
        self._polls: set[asyncio.Task[Any]] = set()
        self._rounds: dict[str, int] = {}  # what each was last invited to: its downloads renew it
        self._plan = json.dumps(service.facts.plan).encode()
        self._openapi = json.dumps(document()).encode()
        doors: dict[type, Door] = {
            Hello: self._hello,
            PlanQuery: self._plan_of,
            Poll: self._poll,
            ModelQuery: self._model,
            UpdateHeader: self._announce,
            UpdateBody: self._upload,
            Decline: self._answer,
            MembersQuery: self._members,
            SessionBody: self._say,
            SessionQuery: self._told,
        }
        self._doors = {(route_of(k).method, route_of(k).path): door for k, door in doors.items()}
        self._doors |= {
            ("GET", "/openapi.json"): self._document,
            ("GET", "/healthz"): self._health,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, from the first gate to its one answer."""
        if scope["type"] != "http":
            return
        exchange, begin = Request(scope, receive, send, self.patience), time.perf_counter()
        try:
            await self._serve(exchange)
        except Refused as refused:
            await self._tell(exchange, Ack.of(refused))
        except NoRoom:
            LOG.exception("%s %s has no room", exchange.method, exchange.route)
            text = "the server has no room for it now; try again later"
            await self._tell(exchange, Ack(False, RefusalReason.NO_ROOM, text))
        except Gone:
            exchange.status = 499
        except asyncio.CancelledError:
            if not self.closing:
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
        """The server goes down: whoever polls is told to wait, at once."""
        self.closing = True
        for poll in self._polls:
            poll.cancel()

    async def _serve(self, exchange: Request) -> None:
        methods, exchange.holes = found(exchange.path)
        name = self._who(exchange)
        self.limits.check(name)
        if not methods:
            raise Refused(
                RefusalReason.UNKNOWN, "there is nothing at this address; see /openapi.json"
            )
        exchange.route = path = next(iter(methods.values())).path
        exchange.name = name
        if exchange.method not in methods:
            allow = ", ".join(methods)
            verdict = Ack(False, RefusalReason.UNKNOWN, f"only {allow} is understood at {path}")
            await self._tell(exchange, verdict, 405, [(b"allow", allow.encode())])
        else:
            await self._doors[exchange.method, path](exchange)

    def _who(self, exchange: Request) -> str:
        """The name of the site that asks, admitted now. Raises `Refused`."""
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

    async def _tell(self, exchange: Request, said: Ack | ResumeAt, *more: Any) -> None:
        """A verdict, or where to go on; a refusal is counted, here and nowhere else."""
        if isinstance(said, Ack) and said.reason is not None:
            self.service.counts[said.reason] += 1
        if exchange.status:
            raise RuntimeError(f"{exchange.route} was refused behind the start of its answer")
        await exchange.say(said, *more)

    async def _hello(self, exchange: Request) -> None:
        hello = from_json(await exchange.body(), Hello)
        shown = exchange.scope.get("state", {}).get("certificate", "")
        await exchange.say(await self.service.welcome(exchange.name, hello, shown))

    async def _plan_of(self, exchange: Request) -> None:
        await exchange.answer(200, self._plan)

    async def _poll(self, exchange: Request) -> None:
        poll = from_json(await exchange.body(), Poll)
        if self.closing:
            await exchange.say(Wait(1.0))
            return
        said = await self._kept(exchange, self.service.poll(exchange.name, poll)) or Wait(1.0)
        if isinstance(said, TrainAssignment | Evaluate):
            self._rounds[exchange.name] = said.round
        await exchange.say(said)

    async def _kept(self, exchange: Request, answer: Coroutine[Any, Any, T]) -> T | None:
        """An answer that may take long: given up when its client has gone, None at the end."""
        asked = asyncio.ensure_future(answer)
        left = asyncio.ensure_future(exchange.left())
        self._polls.add(asked)
        self.meters.polls.inc()
        try:
            await asyncio.wait({asked, left}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._polls.discard(asked)
            self.meters.polls.dec()
            if not asked.done():
                asked.cancel()
            left.cancel()
        if not asked.done():
            raise Gone
        return None if asked.cancelled() else asked.result()

    async def _model(self, exchange: Request) -> None:
        digest, name = exchange.holes["digest"], exchange.name
        blob = self.service.model(digest)
        said = dict(parse_qsl(exchange.query())).get("round", "")
        round = int(said) if re.fullmatch(ROUND, said) else self._rounds.get(name, 0)
        moved = partial(self.service.progress, name, round)
        moved(0)  # whoever is not enrolled hears it before the answer begins
        await self.downloads.give(exchange, digest, blob, moved)

    async def _announce(self, exchange: Request) -> None:
        update = from_json(await exchange.body(), UpdateHeader)
        await exchange.say(await self.uploads.announce(exchange.name, update))

    async def _upload(self, exchange: Request) -> None:
        key = int(exchange.holes["round"]), exchange.holes["digest"]
        place = dict(parse_qsl(exchange.query()))
        said = await self.uploads.take(exchange.name, exchange, key, place)
        await self._tell(exchange, said)

    async def _answer(self, exchange: Request) -> None:
        kinds = (Decline, TrainingFailure, Measured, Progress)
        said: Any = from_json(await exchange.body(), *kinds)
        if isinstance(said, Progress):
            self.service.stepped(exchange.name, said)
            await exchange.say(Ack(True))
        else:
            await self._tell(exchange, await self.service.answer(exchange.name, said))

    async def _members(self, exchange: Request) -> None:
        said = dict(parse_qsl(exchange.query())).get("round", "")
        round = int(said) if re.fullmatch(ROUND, said) else 0
        await exchange.answer(200, self.sessions.members(exchange.name, round))

    async def _say(self, exchange: Request) -> None:
        round, query = int(exchange.holes["round"]), dict(parse_qsl(exchange.query()))
        await self._tell(exchange, await self.sessions.say(exchange.name, exchange, round, query))

    async def _told(self, exchange: Request) -> None:
        round, query = int(exchange.holes["round"]), dict(parse_qsl(exchange.query()))
        if self.closing:
            await exchange.say(Wait(1.0))
            return
        found = await self._kept(exchange, self.sessions.told(exchange.name, round, query))
        if found is None:
            await exchange.say(Wait(1.0 if self.closing else 0.0))
        else:
            number = (b"muster-told", b"%d" % found[0])
            await exchange.answer(200, found[1], b"application/octet-stream", [number])

    async def _document(self, exchange: Request) -> None:
        await exchange.answer(200, self._openapi)

    async def _health(self, exchange: Request) -> None:
        await exchange.answer(200, HEALTHY)
