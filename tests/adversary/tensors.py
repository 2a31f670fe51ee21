# SPDX-License-Identifier: Apache-2.0
"""Lies of a body of tensors: in its length, its header, each entry, and its data.

`tensor_mutants(body, name)` gives whole bodies, each with a length that is right for its header
unless the length is the lie.
"""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from tests.adversary.mutants import WHOLE, Mutant

FIELDS = ("length", "__metadata__", "name", "dtype", "shape", "data_offsets", "data")
ODD = ("null", "true", "7", "1.5", '"x"', "[]", "{}", "[[[[]]]]", '["x"]', "[null]", "[true, 1]")
EXTREMES = {
    "dtype": ('"F999"', '"F64"', '"I8"', '""', f'"{"F" * 5000}"', '"f32"', '"\\u0000"'),
    "shape": (
        "[0]",
        "[-1]",
        "[1]",
        f"[{1 << 40}]",
        f"[{1 << 64}]",
        f"[{'1,' * 99}1]",
        "[1e9]",
        "[NaN]",
    ),
    "data_offsets": (
        "[0,0]",
        "[-8,0]",
        "[8,0]",
        "[0,1]",
        f"[0,{1 << 63}]",
        f"[{1 << 63},{1 << 64}]",
        "[1,5]",
        "[0,4,8]",
        "[0]",
        "[1e300,1e300]",
        "[4,8]",
    ),
    "__metadata__": (
        "{}",
        '{"muster":"9"}',
        '{"muster":1}',
        '{"muster":"1","more":"x"}',
        json.dumps({"muster": "1" * 9000}),
    ),
}


def tensor_mutants(body: bytes, message: str) -> Iterator[Mutant]:
    """All mutants of a body of tensors."""
    size = 8 + int.from_bytes(body[:8], "little")
    head, data = json.loads(body[8:size]), body[size:]
    written = {key: json.dumps(value) for key, value in head.items()}

    def made(field: str, kind: str, what: str, whole: bytes) -> Mutant:
        return Mutant(message, field, kind, what[:40], whole)

    for kind, what, whole in (
        ("absent", "nothing", b""),
        ("absent", "a header alone", body[:size]),
        ("extreme", "a hundred kilobytes more", body + bytes(100_000)),
        ("type", "JSON", b'{"kind":"wait","seconds":0.0}' + bytes(99)),
        ("type", "zeros", bytes(len(body))),
        ("repeated", "twice in one", body + body),
        ("cut", "its last octet", body[:-1]),
        ("trailing", "an octet more", body + b"\0"),
    ):
        yield made(WHOLE, kind, what, whole)
    yield made("length", "absent", "not there", body[8:])
    yield made("length", "repeated", "twice", body[:8] + body)
    yield made("length", "type", "letters", b"12345678" + body[8:])
    for length in (0, 1, 8, size - 9, size, 1 << 20, (1 << 20) + 8, 1 << 40, (1 << 64) - 1):
        yield made("length", "extreme", str(length), length.to_bytes(8, "little") + body[8:])

    def packed(entries: list[tuple[str, str]]) -> bytes:
        text = "{" + ",".join(f"{json.dumps(key)}:{value}" for key, value in entries) + "}"
        raw = text.encode()
        raw += b" " * (-len(raw) % 8)
        return len(raw).to_bytes(8, "little") + raw + data

    for key in head:
        rest = [(other, value) for other, value in written.items() if other != key]
        name = "__metadata__" if key == "__metadata__" else "name"
        yield made(name, "absent", key, packed(rest))
        yield made(name, "repeated", key, packed([*written.items(), (key, written[key])]))
        for odd in ODD:
            yield made(name, "type", f"{key} is {odd}", packed([*rest, (key, odd)]))
        if name == "__metadata__":
            for odd in EXTREMES[name]:
                yield made(name, "extreme", odd, packed([*rest, (key, odd)]))
            continue
        for odd in ("", "x" * 9000, "../../etc/passwd", "\x00", key + "\n", key.upper()):
            yield made(name, "extreme", odd, packed([*rest, (odd, written[key])]))
        many = [(f"x{n}", written[key]) for n in range(1000)]
        yield made(name, "extreme", "a thousand", packed([*written.items(), *many]))
        yield from _of_entry(message, key, head[key], rest, packed)
    yield from _of_data(made, body[:size], head, data)


def _of_entry(
    message: str, key: str, entry: dict[str, Any], rest: list[tuple[str, str]], packed: Any
) -> Iterator[Mutant]:
    """The lies about the dtype, shape and place of one array."""
    fields = {name: json.dumps(value) for name, value in entry.items()}

    def told(pairs: list[tuple[str, str]]) -> bytes:
        text = "{" + ",".join(f'"{name}":{value}' for name, value in pairs) + "}"
        whole: bytes = packed([*rest, (key, text)])
        return whole

    for name, own in fields.items():
        others = [(other, value) for other, value in fields.items() if other != name]
        yield Mutant(message, name, "absent", key, told(others))
        yield Mutant(message, name, "repeated", key, told([*fields.items(), (name, own)]))
        for odd in ODD:
            yield Mutant(message, name, "type", f"{key}: {odd}", told([*others, (name, odd)]))
        for odd in EXTREMES[name]:
            what = f"{key}: {odd[:20]}"
            yield Mutant(message, name, "extreme", what, told([*others, (name, odd)]))


def _of_data(made: Any, head: bytes, entries: dict[str, Any], data: bytes) -> Iterator[Mutant]:
    yield made("data", "absent", "not there", head)
    yield made("data", "repeated", "twice", head + data + data)
    yield made("data", "type", "letters", head + (b"null" * len(data))[: len(data)])
    begin, end = next(
        entry["data_offsets"]
        for entry in entries.values()
        if entry.get("dtype") == "F32" and entry["data_offsets"][0] < entry["data_offsets"][1]
    )
    for odd in (np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-45, 0.0, 1e30):
        values = np.full((end - begin) // 4, odd, "<f4").tobytes()
        yield made("data", "extreme", str(odd), head + data[:begin] + values + data[end:])
