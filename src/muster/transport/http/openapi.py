# SPDX-License-Identifier: Apache-2.0
"""The HTTP API as an OpenAPI 3.1 document, made from the rules of the messages themselves."""

from __future__ import annotations

from typing import Any

from muster.federation.protocol import message
from muster.federation.protocol.codec_json import HEX, rules
from muster.federation.protocol.message import Message
from muster.security.refusal import RefusalReason
from muster.transport.http.request import STATUS

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
    m = message
    answers = (m.TrainAssignment, m.Evaluate, m.Settled, m.Wait, m.RunEnded)
    reports = (m.Decline, m.TrainingFailure, m.Progress, m.Measured)
    wrong = (RefusalReason.WRONG_FINGERPRINT,)
    return {
        "/v1/hello": {"post": _said("Enrol", m.Hello, (m.Welcome,), *BODY, *wrong)},
        "/v1/plan": {"get": _got("The plan's value", JSON, *GATES)},
        "/v1/poll": {"post": _said("What is there to do?", m.Poll, answers, *BODY)},
        "/v1/models/{digest}": {"get": _model()},
        "/v1/updates": {"post": _said("Announce an update", m.UpdateHeader, (m.ResumeAt,), *ROUND)},
        "/v1/updates/{round}/{digest}": {"put": _upload()},
        "/v1/members": {"get": _members()},
        "/v1/secure/{round}": {"post": _masked_up(), "get": _masked_down()},
        "/v1/answers": {"post": _said("Answer without a body", reports, (m.Ack,), *ROUND)},
        "/openapi.json": {"get": _got("This document", JSON, *GATES)},
        "/healthz": {"get": _got("Alive", JSON, *GATES)},
    }


def _model() -> dict[str, Any]:
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


def _upload() -> dict[str, Any]:
    kinds = (message.ResumeAt, message.Ack)
    found = _said("Send octets of an update", None, kinds, *ROUND)
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


def _members() -> dict[str, Any]:
    what = "Certificates of those whose updates are masked with this site's, and who is revoked"
    found = _got(what, JSON, *GATES, RefusalReason.STALE)
    found["parameters"] = [_query("round", WHOLE | {"minimum": 1})]
    return found


def _masked_up() -> dict[str, Any]:
    found = _said("A message of a secure sum", None, (message.Ack, message.ResumeAt), *ROUND)
    found["parameters"] = [
        _place("round", WHOLE | {"minimum": 1}),
        _query("digest", DIGEST) | {"required": False},
        *(_query(name, WHOLE) | {"required": False} for name in ("offset", "size")),
        ATTEMPT,
        _header("Muster-Metrics"),
    ]
    found["requestBody"] = {"required": True, "content": OCTETS}
    return found


def _masked_down() -> dict[str, Any]:
    content = OCTETS | _content(message.Wait)
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


def _said(summary: str, asked: Any, told: Any, *reasons: RefusalReason) -> dict[str, Any]:
    found = _got(summary, _content(*told), *reasons)
    if asked is not None:
        kinds = asked if isinstance(asked, tuple) else (asked,)
        found["requestBody"] = {"required": True, "content": _content(*kinds)}
    return found


def _content(*kinds: type[Message]) -> dict[str, Any]:
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
