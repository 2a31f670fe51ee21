# SPDX-License-Identifier: Apache-2.0
"""The HTTP API as an OpenAPI 3.1 document, made from the rules of the messages themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from muster.federation.protocol import message
from muster.federation.protocol.codec_json import HEX, rules
from muster.federation.protocol.transport import (
    MembersQuery,
    ModelQuery,
    PlanQuery,
    SessionBody,
    SessionQuery,
    UpdateBody,
)
from muster.security.refusal import RefusalReason
from muster.transport.http.request import STATUS
from muster.transport.routes import ROUTES, Route

__all__ = ["document"]

KINDS = (
    message.Hello,
    message.Welcome,
    message.Poll,
    message.TrainAssignment,
    message.Evaluate,
    message.Settled,
    message.Wait,
    message.RunEnded,
    message.UpdateHeader,
    message.ResumeAt,
    message.Ack,
    message.Decline,
    message.TrainingFailure,
    message.Progress,
    message.Measured,
)
GATES = (
    RefusalReason.MALFORMED,
    RefusalReason.UNENROLLED,
    RefusalReason.REVOKED,
    RefusalReason.TOO_OFTEN,
    RefusalReason.UNKNOWN,
)
BODY = (*GATES, RefusalReason.TOO_LARGE, RefusalReason.NOT_FINITE)
ROUND = (*BODY, RefusalReason.LATE, RefusalReason.NO_ROOM)  # 409 stands for every reason of a round
DIGEST = {"type": "string", "pattern": f"^{HEX[0]}$"}
WHOLE = {"type": "integer", "minimum": 0, "maximum": 10**15}
JSON: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
OCTETS: dict[str, Any] = {"application/octet-stream": {"schema": {}}}


def document() -> dict[str, Any]:
    """Return the document; the version is that of the protocol.

    >>> document()["info"]["version"], sorted(document()["paths"])[0]
    ('2', '/healthz')
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "muster",
            "version": str(max(message.VERSIONS)),
            "description": "What sites of a federation say to its server, over mutual TLS.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": _paths(),
        "components": {
            "schemas": {kind.__name__: _schema(kind) for kind in KINDS} | {"Fault": FAULT},
            "securitySchemes": {"certificate": {"type": "mutualTLS"}},
        },
        "security": [{"certificate": []}],
    }


FAULT = {
    "type": "object",
    "properties": {"kind": {"const": "fault"}, "text": {"type": "string"}},
    "required": ["kind", "text"],
}


def _schema(kind: Any) -> dict[str, Any]:
    """Return a message as JSON Schema."""
    said = {"kind": {"const": kind.kind}}
    held = {name: rule.schema() for name, rule in rules(kind).items()}
    return {
        "type": "object",
        "description": (kind.__doc__ or "").split("\n\n")[0].replace("\n    ", " "),
        "properties": said | held,
        "required": ["kind", *held],
        "additionalProperties": False,
    }


def _paths() -> dict[str, Any]:
    made: dict[str, Any] = {}
    for route in ROUTES:
        made.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return made


def _operation(route: Route) -> dict[str, Any]:
    """Return what a route is for, by the first kind that is asked there."""
    if not route.asked:
        return _got({"/healthz": "Alive"}.get(route.path, "This document"), JSON, *GATES)
    kind = route.asked[0]
    if kind in SAID:
        summary, reasons = SAID[kind]
        return _said(summary, route.asked, route.told, *reasons)
    return BODIES[kind](route)


def _plan(_: Route) -> dict[str, Any]:
    return _got("The plan's value", JSON, *GATES)


def _model(_: Route) -> dict[str, Any]:
    found = _got("A model's octets, or a range of them", OCTETS, *GATES)
    found["parameters"] = [
        _place("digest", DIGEST),
        _query("round", WHOLE | {"minimum": 1}) | {"required": False},
        *map(_header, ("Range", "If-Range", "If-None-Match", "Accept-Encoding")),
    ]
    found["responses"] |= {
        "206": {"description": "The range", "content": OCTETS},
        "304": {"description": "Held already"},
        "416": {"description": "No such range", "content": _content(message.Ack)},
    }
    return found


def _upload(route: Route) -> dict[str, Any]:
    found = _said("Send octets of an update", (), (*route.told, message.Ack), *ROUND)
    found["parameters"] = [
        _place("round", WHOLE | {"minimum": 1}),
        _place("digest", DIGEST),
        *(
            {"name": name, "in": "query", "required": True, "schema": WHOLE}
            for name in ("offset", "size")
        ),
        _header("Content-Encoding"),
    ]
    found["requestBody"] = {"required": True, "content": OCTETS}
    return found


def _members(_: Route) -> dict[str, Any]:
    what = "Certificates of those whose updates are masked with this site's, and who is revoked"
    found = _got(what, JSON, *GATES, RefusalReason.STALE)
    found["parameters"] = [_query("round", WHOLE | {"minimum": 1})]
    return found


def _masked_up(route: Route) -> dict[str, Any]:
    found = _said("A message of a secure sum", (), (message.Ack, *route.told), *ROUND)
    found["parameters"] = [
        _place("round", WHOLE | {"minimum": 1}),
        _query("digest", DIGEST) | {"required": False},
        *(_query(name, WHOLE) | {"required": False} for name in ("offset", "size")),
        ATTEMPT,
        _header("Muster-Metrics"),
    ]
    found["requestBody"] = {"required": True, "content": OCTETS}
    return found


def _masked_down(route: Route) -> dict[str, Any]:
    content = OCTETS | _content(*route.told)
    found = _got(
        "What the server said last, once it is newer", content, *GATES, RefusalReason.STALE
    )
    found["parameters"] = [
        _place("round", WHOLE | {"minimum": 1}),
        _query("after", WHOLE),
        _query("wait", {"type": "number", "minimum": 0, "maximum": 60}),
        ATTEMPT,
    ]
    return found


def _query(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": True, "schema": schema}


def _header(name: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "schema": {"type": "string"}}


ATTEMPT = _query("attempt", WHOLE | {"minimum": 1}) | {"required": False}


def _place(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _got(summary: str, content: Any, *reasons: RefusalReason) -> dict[str, Any]:
    return {
        "summary": summary,
        "responses": {"200": {"description": summary, "content": content}} | _refusals(*reasons),
    }


def _said(
    summary: str, asked: tuple[type, ...], told: tuple[type, ...], *reasons: RefusalReason
) -> dict[str, Any]:
    found = _got(summary, _content(*told), *reasons)
    if asked:
        found["requestBody"] = {"required": True, "content": _content(*asked)}
    return found


def _content(*kinds: type) -> dict[str, Any]:
    places = [{"$ref": f"#/components/schemas/{kind.__name__}"} for kind in kinds]
    return {"application/json": {"schema": places[0] if len(places) == 1 else {"oneOf": places}}}


def _refusals(*reasons: RefusalReason) -> dict[str, Any]:
    by: dict[str, list[str]] = {}
    for reason in reasons:
        by.setdefault(str(STATUS[reason]), []).append(reason.value)
    content = _content(message.Ack)
    told = {code: {"description": ", ".join(said), "content": content} for code, said in by.items()}
    fault = {"application/json": {"schema": {"$ref": "#/components/schemas/Fault"}}}
    return told | {"500": {"description": "a fault of the server", "content": fault}}


SAID: dict[type, tuple[str, tuple[RefusalReason, ...]]] = {
    message.Hello: ("Enrol", (*BODY, RefusalReason.WRONG_FINGERPRINT)),
    message.Poll: ("What is there to do?", BODY),
    message.UpdateHeader: ("Announce an update", ROUND),
    message.Decline: ("Answer without a body", ROUND),
}
BODIES: dict[type, Callable[[Route], dict[str, Any]]] = {
    PlanQuery: _plan,
    ModelQuery: _model,
    UpdateBody: _upload,
    MembersQuery: _members,
    SessionBody: _masked_up,
    SessionQuery: _masked_down,
}
