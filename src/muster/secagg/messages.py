# SPDX-License-Identifier: Apache-2.0
"""The messages of the protocol as frozen records, each with one form in bytes.

Five bytes of head (magic, version, kind), then the fields in order: those of fixed size as they
are, all others behind their length in four bytes, big-endian. Reading is strict: a length beyond
the message, a byte too many, a name that is no text, all are `Malformed`, before anything is
allocated. Sets of clients are bitmaps over the roster; what goes to or comes from the holders of
a client's secrets lies in the order of their indices, so no index is on the wire.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any, ClassVar, Self, cast

from muster.errors import MusterError
from muster.secagg.agreement import framed

__all__ = [
    "Advert",
    "Consent",
    "Delivery",
    "Ended",
    "Entry",
    "KINDS",
    "Malformed",
    "Masked",
    "Message",
    "Quit",
    "Quorum",
    "Revealed",
    "Roster",
    "Shares",
    "Survivors",
    "read",
]

HEAD = b"msa\x01"
SIGNATURE = 256  # bytes, at most
NAME = 255


class Malformed(MusterError, ValueError):
    """Bytes that are no message of this protocol, or fields that make none."""


class _Source:
    """Bytes taken from the front; never past the end."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = memoryview(data), 0

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise Malformed(
                f"a message of {len(self.data)} bytes ends where {count} more are required from "
                f"{self.at}; send it again"
            )
        self.at += count
        return bytes(self.data[self.at - count : self.at])

    def blob(self, most: int) -> bytes:
        count = int.from_bytes(self.take(4), "big")
        if count > most:
            raise Malformed(f"a field of {count} bytes; at most {most} are allowed: refuse it")
        return self.take(count)


@dataclass(frozen=True)
class _Form:
    """How one field is written and read."""

    write: Callable[[Any], bytes]
    read: Callable[[_Source], Any]


def _raw(size: int) -> _Form:
    return _Form(lambda value: _sized(value, size, size), lambda source: source.take(size))


def _blob(most: int = (1 << 32) - 1) -> _Form:
    return _Form(lambda value: framed(_sized(value, 0, most)), lambda source: source.blob(most))


def _text(most: int) -> _Form:
    return _Form(
        lambda value: framed(_sized(value.encode(), 1, most)),
        lambda source: _decoded(source.blob(most)),
    )


def _many(form: _Form) -> _Form:
    def write(values: tuple[Any, ...]) -> bytes:
        return len(values).to_bytes(4, "big") + b"".join(form.write(value) for value in values)

    def read(source: _Source) -> tuple[Any, ...]:
        count = int.from_bytes(source.take(4), "big")
        if count > len(source.data) - source.at:  # every item has a byte at least
            raise Malformed(f"a list of {count} items in {len(source.data)} bytes; send it again")
        return tuple(form.read(source) for _ in range(count))

    return _Form(write, read)


def _sized(value: bytes, least: int, most: int) -> bytes:
    if not least <= len(value) <= most:
        raise Malformed(f"a field of {len(value)} bytes; {least} to {most} are required")
    return value


def _decoded(data: bytes) -> str:
    try:
        return _sized(data, 1, NAME).decode()
    except UnicodeDecodeError:
        raise Malformed(f"a text of {data[:40]!r}; UTF-8 is required: send it again") from None


class Message:
    """What all messages can: `to_bytes` and `from_bytes`; `kind` tells them apart on the wire."""

    kind: ClassVar[int]
    form: ClassVar[tuple[_Form, ...]]

    def __init_subclass__(cls, kind: int, form: tuple[_Form, ...]) -> None:
        cls.kind, cls.form = kind, form
        KINDS[kind] = cls

    def to_bytes(self) -> bytes:
        """The message as it travels; `Malformed` where a field does not fit."""
        fields = zip(self.form, vars(self).values(), strict=True)
        return b"".join((HEAD, bytes([self.kind]), *(form.write(value) for form, value in fields)))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The message in some bytes; `Malformed` where they are anything else."""
        message = read(data)
        if not isinstance(message, cls):
            raise Malformed(f"a {type(message).__name__}; {cls.__name__} is required here")
        return message


KINDS: dict[int, type[Message]] = {}  # by the number on the wire


@dataclass(frozen=True)
class Entry:
    """A client's public keys: S_i, E_i, the hash of b_i, and its signature over them.

    >>> Entry("ann", bytes(32), bytes(32), bytes(32), b"").statement(bytes(32)) == bytes(32)
    False
    """

    name: str
    mask_key: bytes
    channel_key: bytes
    commitment: bytes
    signature: bytes

    @cached_property
    def keys(self) -> bytes:
        """Its name and keys, as they are signed and hashed."""
        return framed(self.name.encode(), self.mask_key, self.channel_key, self.commitment)

    @cached_property
    def data(self) -> bytes:
        """The entry as it travels."""
        values = (self.name, self.mask_key, self.channel_key, self.commitment, self.signature)
        return b"".join(form.write(value) for form, value in zip(_KEYS, values, strict=True))

    def statement(self, context: bytes) -> bytes:
        """What the client signs: its keys together with the digest of the terms."""
        return framed(b"muster secagg keys", context, self.keys)


_KEYS = (_text(NAME), _raw(32), _raw(32), _raw(32), _blob(SIGNATURE))
_ENTRY = _Form(lambda e: cast("bytes", e.data), lambda s: Entry(*(f.read(s) for f in _KEYS)))


@dataclass(frozen=True)
class Advert(Message, kind=1, form=(_raw(32), _ENTRY)):
    """Client: my keys. `context` is the digest of my terms, so that a difference has a name."""

    context: bytes
    entry: Entry


@dataclass(frozen=True)
class Roster(Message, kind=2, form=(_raw(32), _many(_ENTRY))):
    """Server: all clients' keys, sorted by name; an index below is a place in this list."""

    context: bytes
    entries: tuple[Entry, ...]

    def session(self, run: str, round: int) -> bytes:
        """The session's id: SHA-256 over run, round and every client's name and keys."""
        head = (b"muster secagg session", run.encode(), str(round).encode())
        return sha256(framed(*head, *(entry.keys for entry in self.entries))).digest()


@dataclass(frozen=True)
class Shares(Message, kind=3, form=(_raw(32), _blob())):
    """Client: shares of my two secrets, sealed for each holder but myself, 88 bytes each."""

    session: bytes
    sealed: bytes


@dataclass(frozen=True)
class Delivery(Message, kind=4, form=(_raw(32), _blob(8190), _blob())):
    """Server: who shared (a bitmap), and what those whose holder you are sealed for you."""

    session: bytes
    alive: bytes
    sealed: bytes


@dataclass(frozen=True)
class Masked(Message, kind=5, form=(_raw(32), _blob())):
    """Client: my masked vector, packed."""

    session: bytes
    vector: bytes


@dataclass(frozen=True)
class Survivors(Message, kind=6, form=(_raw(32), _blob(8190))):
    """Server: whose masked vectors came in time (a bitmap)."""

    session: bytes
    alive: bytes


@dataclass(frozen=True)
class Consent(Message, kind=7, form=(_raw(32), _blob(SIGNATURE))):
    """Client: my signature under the survivors I was told of."""

    session: bytes
    signature: bytes


@dataclass(frozen=True)
class Quorum(Message, kind=8, form=(_raw(32), _blob(8190), _many(_blob(SIGNATURE)))):
    """Server: who signed (a bitmap), and the signatures of the holders of your secrets."""

    session: bytes
    alive: bytes
    signatures: tuple[bytes, ...]


@dataclass(frozen=True)
class Revealed(Message, kind=9, form=(_raw(32), _blob())):
    """Client: one share, 36 bytes, of each client whose shares I hold.

    Of its seed if it survived, of its mask key if not, 65535s where none came to me. There is no
    place for a second share of the same client.
    """

    session: bytes
    shares: bytes


@dataclass(frozen=True)
class Quit(Message, kind=10, form=(_text(64),)):
    """Client: I left, and why (the name of a `Reason`)."""

    reason: str


@dataclass(frozen=True)
class Ended(Message, kind=11, form=(_text(64),)):
    """Server: it is over for you; forget what you kept (the name of a `Reason`).

    >>> Ended.from_bytes(Ended("DONE").to_bytes())
    Ended(reason='DONE')
    """

    reason: str


def read(data: bytes) -> Message:
    """The message in some bytes, whatever its kind; `Malformed` where there is none.

    >>> read(Quit("STOPPED").to_bytes())
    Quit(reason='STOPPED')
    """
    source = _Source(data)
    if source.take(len(HEAD)) != HEAD:
        raise Malformed(f"bytes that begin with {data[:4]!r}; a message begins with {HEAD!r}")
    kind = KINDS.get(source.take(1)[0])
    if kind is None:
        raise Malformed(f"a message of kind {data[4]}; kinds are 1 to {len(KINDS)}")
    fields = [form.read(source) for form in kind.form]
    if source.at != len(source.data):
        raise Malformed(f"{len(source.data) - source.at} bytes after the end of a message")
    return cast("Callable[..., Message]", kind)(*fields)
