# SPDX-License-Identifier: Apache-2.0
"""Mutants of one valid message, field by field, on the bytes of the wire alone.

`mutants(data)` of a message of a secure sum, `json_mutants(message)` of one in JSON, `headers(…)`
of a text beside them. The fields are found in the definition of the message: a new one has mutants
without a word here.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from itertools import groupby
from typing import Any, get_args, get_type_hints

from muster.federation.protocol.codec_json import rules
from muster.federation.protocol.message import Ack, from_json, to_json
from muster.secagg.messages import HEAD, Malformed, read
from muster.security.refusal import RefusalReason, Refused

KINDS = ("absent", "extreme", "type", "repeated", "cut", "trailing")
WHOLE = ""  # the field of a mutant of the message as a whole
HUGE = 1_000_000
NAN = ("NaN", "Infinity", "-Infinity", "1e999", "9" * 5000)  # numbers that are none, as they stand


@dataclass(frozen=True)
class Mutant:
    """One lie: which `message` it was, in which `field`, of which kind, and its octets."""

    message: str
    field: str
    kind: str
    what: str
    data: bytes

    @property
    def place(self) -> tuple[str, str, str]:
        """Where it stands in the matrix."""
        return self.message, self.field, self.kind

    def __str__(self) -> str:
        return f"{self.message}.{self.field} {self.kind}: {self.what}"


@dataclass(frozen=True)
class Part:
    """One field on the wire: its octets lie from `begin` to `end`."""

    path: str
    begin: int
    end: int
    shape: str  # fixed, sized, text, number, list or record
    items: tuple[tuple[int, int], ...] = ()


def parts(data: bytes) -> list[Part]:
    """The fields of a message of a secure sum, where they lie; every octet is in one of them."""
    found: list[Part] = []
    at = _walk(data, len(HEAD) + 1, "", read(data), found)
    assert at == len(data), "the parts of a message are all of it"
    return found


def places(kind: Any, path: str = "") -> set[str]:
    """The fields that the definition of a kind of message has, as `Part.path` names them."""
    found = set()
    for name, hint in get_type_hints(kind).items():
        if name not in {field.name for field in fields(kind)}:
            continue
        here = f"{path}.{name}" if path else name
        found.add(here)
        while get_args(hint):
            hint, here = get_args(hint)[0], f"{here}[]"
            found.add(here)
        if is_dataclass(hint):
            found |= places(hint, here)
    return found


def _walk(data: bytes, at: int, path: str, value: Any, found: list[Part]) -> int:
    """Add the parts of one value that begins there; where it ends."""
    begin = at
    if is_dataclass(value):
        if path:
            found.append(Part(path, begin, begin, "record"))
            place = len(found) - 1
        for field in fields(value):
            name = f"{path}.{field.name}" if path else field.name
            at = _walk(data, at, name, getattr(value, field.name), found)
        if path:
            found[place] = Part(path, begin, at, "record")
        return at
    if isinstance(value, tuple):
        place, items = len(found), []
        found.append(Part(path, begin, begin, "list"))
        at += 4
        for i, item in enumerate(value):
            first, inside = at, list[Part]()
            at = _walk(data, at, f"{path}[]", item, inside)
            items.append((first, at))
            if i in (0, len(value) - 1):  # of a list, the first and the last are changed inside
                found += inside
        found[place] = Part(path, begin, at, "list", tuple(items))
        return at
    if isinstance(value, int):
        found.append(Part(path, at, at + 4, "number"))
        return at + 4
    octets = value.encode() if isinstance(value, str) else value
    sized = data[at : at + 4] == len(octets).to_bytes(4, "big")
    sized = sized and data[at + 4 : at + 4 + len(octets)] == octets
    end = at + len(octets) + 4 * sized
    shape = "text" if isinstance(value, str) else "sized" if sized else "fixed"
    found.append(Part(path, at, end, shape))
    return end


def mutants(data: bytes) -> Iterator[Mutant]:
    """All mutants of a message of a secure sum."""
    name = type(read(data)).__name__
    yield from _of_whole(name, data)
    seen = set()
    for part in parts(data):
        first = part.path not in seen  # a second one of a list has the mutants of values alone
        seen.add(part.path)
        for kind, what, octets in _changed(part, data[part.begin : part.end], data):
            if first or kind in ("extreme", "repeated"):
                yield Mutant(
                    name, part.path, kind, what, data[: part.begin] + octets + data[part.end :]
                )
        cut = (part.begin + part.end) // 2
        yield Mutant(name, part.path, "cut", "in the middle", data[:cut])


def wellformed(data: bytes) -> bool:
    """Return whether bytes are a message of a secure sum."""
    try:
        read(data)
    except Malformed:
        return False
    return True


def readable(data: bytes, kind: Any) -> bool:
    """Return whether bytes are a message of a kind, in JSON."""
    try:
        from_json(data, kind)
    except Refused:
        return False
    return True


def refusal(data: bytes) -> RefusalReason | None:
    """The reason for which octets refuse, or None."""
    return from_json(data, Ack).reason if readable(data, Ack) else None


def uncovered(found: Iterable[Any], message: str, names: Iterable[str]) -> set[Any]:
    """Which of these fields of a message lack mutants of which kind."""
    wanted = {(message, name, kind) for name in names for kind in KINDS[:4]}
    return wanted - {mutant.place for mutant in found}


def chosen(data: bytes, most: int = 2) -> Iterator[Mutant]:
    """Some of the mutants of a message: of each field and kind, `most` that are other messages.

    One where none is a message.
    """
    ordered = sorted(mutants(data), key=lambda mutant: mutant.place)
    for _, some in groupby(ordered, key=lambda mutant: mutant.place):
        lies = list(some)
        meant = [one for one in lies if wellformed(one.data) and one.data != data]
        yield from meant[:: -(-len(meant) // most) or 1] or lies[:1]


def _of_whole(name: str, data: bytes) -> Iterator[Mutant]:
    for kind, what, octets in (
        ("absent", "nothing", b""),
        ("absent", "its head alone", data[: len(HEAD) + 1]),
        ("extreme", "another version", data[:3] + b"\x09" + data[4:]),
        ("extreme", "a kind that is none", HEAD + b"\xff" + data[len(HEAD) + 1 :]),
        ("type", "JSON", b'{"kind":"wait","seconds":0.0}'),
        ("type", "an array", b"[" * 1000),
        ("repeated", "twice in one", data + data),
        ("cut", "its last octet", data[:-1]),
        ("trailing", "an octet more", data + b"\0"),
        ("trailing", "a line more", data + b"\r\n"),
    ):
        yield Mutant(name, WHOLE, kind, what, octets)


def _changed(part: Part, own: bytes, data: bytes) -> Iterator[tuple[str, str, bytes]]:
    """Kinds, words and octets of what stands in the place of a part."""
    yield "absent", "not there", b""
    yield "repeated", "twice", own + own
    if part.shape == "number":
        for number in (0, (1 << 31) - 1, 1 << 31, (1 << 32) - 1):
            yield "extreme", f"{number}", number.to_bytes(4, "big")
        yield "type", "letters", b"null"
    elif part.shape == "fixed":
        yield "extreme", "zeros", bytes(len(own))
        yield "extreme", "ones", b"\xff" * len(own)
        yield "extreme", "a bit", bytes([own[0] ^ 1]) + own[1:]
        yield "type", "letters", (b"null" * len(own))[: len(own)]
        yield "type", "behind a length", len(own).to_bytes(4, "big") + own
    elif part.shape in ("sized", "text"):
        held = own[4:]
        yield "absent", "empty", bytes(4)
        yield "extreme", "a length without end", b"\xff" * 4 + held
        yield "extreme", "a length too short", max(0, len(held) - 1).to_bytes(4, "big") + held
        yield "extreme", "a length too long", (len(held) + 1).to_bytes(4, "big") + held
        yield "extreme", "zeros", _sized(bytes(len(held)))
        yield "extreme", "ones", _sized(b"\xff" * len(held))
        yield "extreme", "a bit", _sized(bytes([held[0] ^ 1]) + held[1:] if held else b"\1")
        yield "extreme", "an octet less", _sized(held[:-1])
        yield "extreme", "an octet more", _sized(held + b"\0")
        yield "extreme", "a great many", _sized(bytes(40_000))
        yield "type", "no text", _sized(b"\xff\xfe" + held[2:])
        yield "type", "a path", _sized(b"../../etc/passwd")
        yield "repeated", "its octets twice", _sized(held + held)
    elif part.shape == "list":
        items = [data[begin:end] for begin, end in part.items]
        yield "absent", "no items", bytes(4)
        yield "extreme", "a million items", HUGE.to_bytes(4, "big") + own[4:]
        yield "extreme", "items without end", b"\xff" * 4 + own[4:]
        yield "extreme", "an item less", _listed(items[:-1])
        yield "extreme", "a thousand items", _listed(items[:1] * 1000 or [bytes(4)] * 1000)
        yield "type", "octets", _sized(b"null")
        yield "repeated", "each item twice", _listed([one for one in items for _ in range(2)])
        yield "repeated", "the first twice", _listed(items[:1] + items)
        yield "extreme", "the other way round", _listed(items[::-1])
    else:
        yield "type", "octets", _sized(b"null")
        yield "extreme", "zeros", bytes(len(own))


def _sized(octets: bytes) -> bytes:
    return len(octets).to_bytes(4, "big") + octets


def _listed(items: list[bytes]) -> bytes:
    return len(items).to_bytes(4, "big") + b"".join(items)


# -- JSON ------------------------------------------------------------------------------------------

ODD = {  # what stands for a value, as it is written in JSON
    "null": "null",
    "a truth": "true",
    "a list": "[]",
    "an object": "{}",
    "a text": '"x"',
    "a number": "7",
    "a fraction": "1.5",
    "nested": "[[[[[[[]]]]]]]",
}
EXTREMES = {  # by the name of a rule
    "Number": ["0", "-1", "1", "2147483649", str(1 << 63), str(1 << 64), "1e308", "-1e308", "0.5"],
    "Text": ['""', f'"{"x" * 50_000}"', '"\\u0000"', '"../../etc/passwd"', '"\\ud800"', '" "'],
    "Numbers": [
        "{}",
        '{"rows":0}',
        '{"rows":-1}',
        '{"rows":1e308,"loss":1.7e308}',
        '{"":1}',
        '{"rows":NaN}',
        '{"rows":1,"rows":2}',
        '{"rows":1}',
        '{"rows":1e-300,"loss":1.7e308}',
        json.dumps({f"m{i}": 1.0 for i in range(300)}),
        '{"rows":5,"\\u0000":1}',
    ],
    "Truth": ["0", "1", '"true"'],
    "Versions": ["[]", "[0]", "[2,2]", "[2,1]", "[1e9]", f"[{','.join(['2'] * 10_000)}]"],
    "Id": ['""', f'"{"x" * 9999}"', str(1 << 64), "-1", '"../../x"', '"\\ud800"'],
    "Why": ['"no reason"', '""'],
}


def json_mutants(message: Any) -> Iterator[Mutant]:
    """All mutants of a message in JSON."""
    yield from object_mutants(
        type(message).__name__,
        json.loads(to_json(message)),
        {name: type(rule).__name__ for name, rule in rules(type(message)).items()},
    )


def object_mutants(name: str, value: dict[str, Any], known: dict[str, str]) -> Iterator[Mutant]:
    """All mutants of an object, whose fields hold what these rules say."""
    written = {key: json.dumps(part) for key, part in value.items()}
    whole = _object(written)
    for kind, what, text in (
        ("absent", "nothing", ""),
        ("absent", "no fields", "{}"),
        ("extreme", "too long", whole[:-1] + " " * (1 << 17) + "}"),
        ("extreme", "a field that is none", _object(written | {"odd": "1"})),
        ("type", "a list", f"[{whole}]"),
        ("type", "null", "null"),
        ("type", "no UTF-8", "\udcff"),
        ("repeated", "twice in one", whole + whole),
        ("cut", "its last octet", whole[:-1]),
        ("trailing", "a letter more", whole + "x"),
    ):
        yield Mutant(name, WHOLE, kind, what, text.encode("utf-8", "surrogateescape"))
    for field, own in written.items():
        others = {key: part for key, part in written.items() if key != field}
        yield Mutant(name, field, "absent", "not there", _object(others).encode())
        for what, odd in ODD.items():
            yield Mutant(name, field, "type", what, _object(written | {field: odd}).encode())
        for odd in (*EXTREMES.get(known.get(field, ""), ()), *NAN, '"\\u0000"'):
            told = _object(written | {field: odd}).encode()
            yield Mutant(name, field, "extreme", odd[:30], told)
        twice = f'{whole[:-1]},"{field}":{own}}}'
        yield Mutant(name, field, "repeated", "twice", twice.encode())
        cut = whole.index(f'"{field}":') + len(field) + 3
        yield Mutant(name, field, "cut", "before its value", whole[:cut].encode())


def _object(written: dict[str, str]) -> str:
    return "{" + ",".join(f'"{key}":{part}' for key, part in written.items()) + "}"


# -- what stands beside a message ------------------------------------------------------------------

NUMBERS = (  # of a header or an address, in latin-1
    "",
    " ",
    "-1",
    "0",
    "1.5",
    "1e400",
    "nan",
    "inf",
    "x",
    "\u00b2",
    "9" * 5000,
    "0x1",
    "1 1",
    "+1",
    "1_0",
    str(1 << 63),
    str(1 << 64),
    "\u00bd",
)
