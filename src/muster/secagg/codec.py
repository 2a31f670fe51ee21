# SPDX-License-Identifier: Apache-2.0
"""Codecs of the fields of a message: of fixed size, behind its length, text, lists.

Reading is strict: a length beyond the message and a text that is none are `Malformed`, before
anything is allocated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from muster.errors import MusterError
from muster.secagg.agreement import framed

__all__ = ["ByteReader", "FieldCodec", "Malformed", "blob", "many", "number", "raw", "text"]


class Malformed(MusterError, ValueError):
    """Bytes that are no message of this protocol, or fields that make none."""


class ByteReader:
    """Bytes taken from the front; never past the end."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = memoryview(data), 0

    def take(self, count: int) -> bytes:
        """Return the next bytes, or `Malformed` where there are too few."""
        if count > len(self.data) - self.at:
            raise Malformed(
                f"a message of {len(self.data)} bytes ends where {count} more are required from "
                f"{self.at}; send it again"
            )
        self.at += count
        return bytes(self.data[self.at - count : self.at])

    def blob(self, most: int) -> bytes:
        """Return the bytes behind a length of four bytes."""
        count = int.from_bytes(self.take(4), "big")
        if count > most:
            raise Malformed(f"a field of {count} bytes; at most {most} are allowed: refuse it")
        return self.take(count)


@dataclass(frozen=True)
class FieldCodec:
    """The codec of one field: how it is written and read."""

    write: Callable[[Any], bytes]
    read: Callable[[ByteReader], Any]


def raw(size: int) -> FieldCodec:
    """Return the codec of so many bytes, as they are.

    >>> raw(2).write(b"ab")
    b'ab'
    """
    return FieldCodec(lambda value: _sized(value, size, size), lambda source: source.take(size))


def number(size: int) -> FieldCodec:
    """Return the codec of a whole number from 0 up in so many bytes, the highest first.

    >>> number(2).write(258).hex()
    '0102'
    """
    return FieldCodec(
        lambda value: int(value).to_bytes(size, "big"),
        lambda source: int.from_bytes(source.take(size), "big"),
    )


def blob(most: int = (1 << 32) - 1) -> FieldCodec:
    """Return the codec of bytes behind their length.

    >>> blob().read(ByteReader(blob().write(b"ab")))
    b'ab'
    """
    return FieldCodec(
        lambda value: framed(_sized(value, 0, most)), lambda source: source.blob(most)
    )


def text(most: int) -> FieldCodec:
    """Return the codec of a text in UTF-8 of 1 to `most` bytes, behind its length.

    >>> text(9).write("ab").hex()
    '000000026162'
    """
    return FieldCodec(
        lambda value: framed(_sized(value.encode(), 1, most)),
        lambda source: _decoded(_sized(source.blob(most), 1, most)),
    )


def many(form: FieldCodec) -> FieldCodec:
    """Return the codec of a list, its number of items before it.

    >>> many(raw(1)).write((b"a", b"b")).hex()
    '000000026162'
    """

    def write(values: tuple[Any, ...]) -> bytes:
        return len(values).to_bytes(4, "big") + b"".join(map(form.write, values))

    def read(source: ByteReader) -> tuple[Any, ...]:
        count = int.from_bytes(source.take(4), "big")
        if count > len(source.data) - source.at:  # every item has a byte at least
            raise Malformed(f"a list of {count} items in {len(source.data)} bytes; send it again")
        return tuple(form.read(source) for _ in range(count))

    return FieldCodec(write, read)


def _sized(value: bytes, least: int, most: int) -> bytes:
    if not least <= len(value) <= most:
        raise Malformed(f"a field of {len(value)} bytes; {least} to {most} are required")
    return value


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Malformed(f"a text of {data[:40]!r}; UTF-8 is required: send it again") from None
