# SPDX-License-Identifier: Apache-2.0
"""An operator's view and orders: metrics for Prometheus, and the control socket's routes.

The socket is the operator's alone. The loopback port is for whoever may watch; where the privacy of
clients counts on nobody knowing who was drawn, it tells of rounds and nothing else, since seats,
requests, octets and times all tell how many were.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from muster.extras import require
from muster.federation.coordinator.receiver import Gone
from muster.federation.coordinator.service import FederationService
from muster.federation.protocol.message import Ack, Poll
from muster.federation.protocol.transport import Traffic
from muster.security.refusal import RefusalReason, Refused, parse
from muster.transport.http.request import Receive, Request, Scope, Send
from muster.transport.routes import route_of

if TYPE_CHECKING:
    import prometheus_client
    from prometheus_client import metrics_core, registry
else:
    prometheus_client = require("prometheus_client", extra="service")
    metrics_core = require("prometheus_client.metrics_core", extra="service")
    registry = require("prometheus_client.registry", extra="service")

__all__ = ["HEALTHY", "Meters", "Operator"]

LOG = logging.getLogger("muster.server")
HEALTHY = b'{"healthy":true}'
METRICS = b"text/plain; version=0.0.4; charset=utf-8"
FAULT = b'{"kind":"fault","text":"the server failed; the reason is in its log"}'
POLL = route_of(Poll).path
STANDINGS = ("invited", "arrived", "declined", "failed", "late")
SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0)


class Meters:
    """Meters of one server, in a registry of its own.

    Rounds, seats and refusals are read from the service when somebody looks; requests, bytes and
    times are counted as they pass (`seen`), the bytes of each member (`traffic`) as well.
    """

    def __init__(self, service: FederationService) -> None:
        own = self._registry = prometheus_client.CollectorRegistry()
        own.register(_Desk(service))
        self._open = prometheus_client.CollectorRegistry()
        self._open.register(_Rounds(service))
        self.hides, self._service = service.facts.hides, service
        self.traffic: dict[str, Traffic] = {}  # of members, by name, as the server sees it
        prometheus_client.ProcessCollector(registry=own)
        self._requests = prometheus_client.Counter(
            "muster_requests", "Requests answered", ["route", "status"], registry=own
        )
        octets = prometheus_client.Counter(
            "muster_octets", "Octets of bodies", ["direction"], registry=own
        )
        self._in, self._out = octets.labels("in"), octets.labels("out")
        self._checkin = prometheus_client.Histogram(
            "muster_checkin_seconds",
            "Time from a poll to its answer",
            buckets=SECONDS,
            registry=own,
        )
        self.polls = prometheus_client.Gauge(
            "muster_polls", "Polls that are kept waiting", registry=own
        )
        self._by: dict[tuple[str, int], Any] = {}

    def seen(self, exchange: Request, seconds: float) -> None:
        """Count a request that was answered after so many seconds."""
        key = (exchange.route, exchange.status)
        counter = self._by.get(key)
        if counter is None:
            counter = self._by[key] = self._requests.labels(key[0], str(key[1]))
        counter.inc()
        if exchange.read:
            self._in.inc(exchange.read)
        if exchange.sent:
            self._out.inc(exchange.sent)
        if exchange.name in self._service.round_state.members:  # whoever knocks fills no memory
            carried = self.traffic.get(exchange.name) or Traffic()
            self.traffic[exchange.name] = carried
            carried.received += exchange.read
            carried.sent += exchange.sent
        if exchange.route == POLL:
            self._checkin.observe(seconds)

    def text(self, *, operator: bool) -> bytes:
        """Return all that an operator, or whoever watches, may see, as Prometheus reads it."""
        whole = operator or not self.hides
        return prometheus_client.generate_latest(self._registry if whole else self._open)


def _rounds(status: Mapping[str, Any]) -> Iterator[Any]:
    yield metrics_core.CounterMetricFamily(
        "muster_rounds_committed", "Rounds in the model", value=status.get("committed") or 0
    )
    yield metrics_core.GaugeMetricFamily(
        "muster_round_open", "The round that is open, or 0", value=status.get("round") or 0
    )


class _Rounds(registry.Collector):
    """The rounds: how far the run is."""

    def __init__(self, service: FederationService) -> None:
        self.service = service

    def collect(self) -> Iterator[Any]:
        yield from _rounds(self.service.status())


class _Desk(registry.Collector):
    """The service's knowledge, when it is asked."""

    def __init__(self, service: FederationService) -> None:
        self.service = service

    def collect(self) -> Iterator[Any]:
        status = self.service.status()
        yield from _rounds(status)
        held = Counter(seat["standing"] for seat in status.get("seats", ()))
        seats = metrics_core.GaugeMetricFamily(
            "muster_seats", "Seats of what is open", labels=["standing"]
        )
        for standing in STANDINGS:
            seats.add_metric([standing], held[standing])
        yield seats
        refusals = metrics_core.CounterMetricFamily(
            "muster_refusals", "Refusals told to sites", labels=["reason"]
        )
        for reason in RefusalReason:
            refusals.add_metric([reason.value], self.service.counts[reason])
        yield refusals


class Operator:
    """The application for operators: health and metrics, and over the control socket, verbs."""

    def __init__(self, service: FederationService, meters: Meters) -> None:
        self.service, self.meters = service, meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request of an operator."""
        if scope["type"] != "http":
            return
        exchange = Request(scope, receive, send)
        try:
            await self._serve(exchange)
        except Refused as refused:
            await exchange.say(Ack.of(refused))
        except Gone:
            return
        except Exception:
            LOG.exception("%s %s of an operator failed", exchange.method, exchange.path)
            if exchange.status:
                raise
            await exchange.answer(500, FAULT)

    async def _serve(self, exchange: Request) -> None:
        asked = f"{exchange.method} {exchange.path}"
        verbs = exchange.scope.get("state", {}).get("control", False)
        if asked == "GET /healthz":
            await exchange.answer(200, HEALTHY)
        elif asked == "GET /metrics":
            await exchange.answer(200, self.meters.text(operator=verbs), METRICS)
        elif asked == "GET /status" and verbs:
            await exchange.answer(200, _json(self._status()))
        elif asked.startswith("POST /want/") and verbs:
            word = exchange.path.removeprefix("/want/")
            await exchange.answer(200, _json(await self.service.want(word)))
        elif asked == "POST /rollback" and verbs:
            round, by, reason = _order(await exchange.body())
            await exchange.answer(200, _json(await self.service.go_back(round, by, reason)))
        else:
            raise Refused(RefusalReason.UNKNOWN, "there is nothing at this address")

    def _status(self) -> dict[str, Any]:
        """Return what the service says, with the bytes of each member since this server started."""
        found = self.service.status()
        for member in found.get("members", ()):
            carried = self.meters.traffic.get(member["name"], Traffic())
            member |= {"received": carried.received, "sent": carried.sent}
        return found


def _order(data: bytes) -> tuple[int, str, str]:
    """Return the round that an operator wants to go back to, who that is, and why."""
    said = parse(data, 4096, 1)
    if not isinstance(said, dict) or said.keys() != {"round", "by", "reason"}:
        raise Refused(
            RefusalReason.MALFORMED, "an order to go back has a round, by whom and a reason"
        )
    round, by, reason = said["round"], said["by"], said["reason"]
    if type(round) is not int or round < 0 or not (type(by) is type(reason) is str):
        raise Refused(
            RefusalReason.MALFORMED, "the round is a whole number, by and reason are text"
        )
    return round, by[:64], reason


def _json(value: Any) -> bytes:
    return json.dumps(value, default=str).encode()
