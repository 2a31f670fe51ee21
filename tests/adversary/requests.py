# SPDX-License-Identifier: Apache-2.0
"""Lies of a request beside its body: in its address, its query and its headers.

`request_mutants(request)` gives them field by field, as they lie on the wire; `FIELDS` names the
fields of every request of the protocol, as the document of the HTTP API has them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from urllib.parse import quote

from tests.adversary.mutants import NUMBERS

from muster.transport.http.openapi import document

HEX = "0123456789abcdef" * 4
EXTREMES = (
    "0",
    "-1",
    "00",
    "1.5",
    "1e400",
    "nan",
    "inf",
    "9" * 5000,
    str((1 << 31) + 1),
    str(1 << 63),
    str(1 << 64),
    "0" * 64,
    "f" * 64,
    HEX.upper(),
    HEX[:-1],
    f"{HEX}0",
    "x" * 9000,
)
TYPES = (
    "x",
    "null",
    "true",
    "[]",
    "{}",
    '"1"',
    "0x1",
    "+1",
    "1_0",
    " 1",
    "1 1",
    "1,1",
    "\u00b2",
    "\u00bd",
    "\u00e9" * 64,
    "..",
    "../../etc/passwd",
    "%00",
    "\x00",
    "a\nb",
    "a/b",
    "-",
    "*",
)


def _fields() -> dict[str, tuple[tuple[str, str], ...]]:
    found = {}
    for address, methods in document()["paths"].items():
        for method, said in methods.items():
            places = tuple((part["in"], part["name"]) for part in said.get("parameters", ()))
            found[f"{method.upper()} {address}"] = places
    return found


FIELDS = _fields()  # by request: where each field stands (path, query or header), and its name


@dataclass(frozen=True)
class Request:
    """A request; `place`, `query` and `headers` hold its fields by name."""

    method: str
    address: str
    place: dict[str, str] = field(default_factory=dict)
    query: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return its name in the document."""
        return f"{self.method} {self.address}"

    @property
    def path(self) -> str:
        """Its address with the fields in it."""
        path = self.address
        for name, value in self.place.items():
            path = path.replace(f"{{{name}}}", value)
        return path

    def sent(self) -> tuple[str, str, list[tuple[bytes, bytes]]]:
        """Method, target and headers, as they are sent."""
        return self.method, self.path + _asked(list(self.query.items())), _told(self.headers)

    def fields(self) -> set[tuple[str, str]]:
        """Where its fields stand, and their names."""
        held = (("path", self.place), ("query", self.query), ("header", self.headers))
        return {(where, name) for where, fields in held for name in fields}


@dataclass(frozen=True)
class Lie:
    """One lie about a request: in which `field`, of which kind, and what is sent."""

    message: str
    field: str
    kind: str
    what: str
    method: str
    target: str
    headers: tuple[tuple[bytes, bytes], ...]

    @property
    def place(self) -> tuple[str, str, str]:
        """Where it stands in the matrix."""
        return self.message, self.field, self.kind

    def __str__(self) -> str:
        return f"{self.message} {self.field} {self.kind}: {self.what}"


def request_mutants(request: Request) -> Iterator[Lie]:
    """All mutants of a request: each field left out, extreme, of another type, repeated."""
    for where, name in sorted(request.fields()):
        for kind, value in (
            ("absent", ""),
            *(("extreme", odd) for odd in (*EXTREMES, *NUMBERS)),
            *(("type", odd) for odd in TYPES),
        ):
            yield _lie(request, where, name, kind, value)
        yield from _without(request, where, name)
        yield from _twice(request, where, name)
    for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "x"):
        if method != request.method:
            yield _made(replace(request, method=method), request.name, "method", "type", method)


def _lie(request: Request, where: str, name: str, kind: str, value: str) -> Lie:
    held = {"path": request.place, "query": request.query, "header": request.headers}[where]
    part = {"path": "place", "query": "query", "header": "headers"}[where]
    changed = replace(request, **{part: held | {name: value}})
    return _made(changed, request.name, name, kind, value[:30])


def _without(request: Request, where: str, name: str) -> Iterator[Lie]:
    """Without the field; a piece of an address cannot be left out, it is empty then."""
    for part, held in (("query", request.query), ("headers", request.headers)):
        if where == part.rstrip("s"):
            rest = {key: value for key, value in held.items() if key != name}
            yield _made(replace(request, **{part: rest}), request.name, name, "absent", "not there")


def _twice(request: Request, where: str, name: str) -> Iterator[Lie]:
    method, target, headers = request.sent()
    if where == "path":
        value = request.place[name]
        for twice in (f"{value}/{value}", value + value, f"{value},{value}"):
            yield _lie(request, where, name, "repeated", twice)
        return
    if where == "query":
        for other in (request.query[name], "1", "x"):
            again = f"{target}&{quote(name)}={quote(other)}"
            yield Lie(request.name, name, "repeated", other, method, again, tuple(headers))
        return
    for other in (request.headers[name], "x"):
        again = (*headers, (name.lower().encode(), other.encode("latin-1")))
        yield Lie(request.name, name, "repeated", other, method, target, again)


def _made(changed: Request, message: str, name: str, kind: str, what: str) -> Lie:
    method, target, headers = changed.sent()
    return Lie(message, name, kind, what, method, target, tuple(headers))


def _asked(query: list[tuple[str, str]]) -> str:
    text = "&".join(f"{quote(key)}={quote(value, encoding='latin-1')}" for key, value in query)
    return f"?{text}" if text else ""


def _told(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(key.lower().encode(), value.encode("latin-1")) for key, value in headers.items()]
