# SPDX-License-Identifier: Apache-2.0
"""The messages of the protocol as frozen records, each with one form in bytes.

In order, what a client (C) and the server (S) say: C `Advert`, S `KeyRoster`, C `Shares`, S
`Delivery`, C `Compared`, where somebody complained S `Complaints` and C `OpenedShares`, S
`Members`, C `MaskedVector`, S `Survivors`, C `Consent`, S `Quorum`, C `Revealed`, S `SessionEnded`.
A client may say `Quit` at any time.

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
from itertools import pairwise
from operator import attrgetter
from typing import ClassVar, Self, cast

from muster.secagg.agreement import canonical, framed
from muster.secagg.codec import ByteReader, FieldCodec, Malformed, blob, many, number, raw, text

__all__ = [
    "Advert",
    "CLIENT_KINDS",
    "Compared",
    "Complaint",
    "Complaints",
    "Consent",
    "Delivery",
    "KINDS",
    "KeyRoster",
    "Malformed",
    "MaskedVector",
    "Members",
    "OpenedShares",
    "PublicKeys",
    "Quit",
    "Quorum",
    "Revealed",
    "SecAggMessage",
    "SessionEnded",
    "Shares",
    "Survivors",
    "read",
]

HEAD = b"msa\x02"
SIGNATURE = 256  # bytes, at most
NAME = 255


class SecAggMessage:
    """A message: `to_bytes` and `from_bytes`; `kind` tells messages apart on the wire."""

    kind: ClassVar[int]
    form: ClassVar[tuple[FieldCodec, ...]]

    def __init_subclass__(cls, kind: int, form: tuple[FieldCodec, ...]) -> None:
        cls.kind, cls.form = kind, form
        KINDS[kind] = cls

    def to_bytes(self) -> bytes:
        """Return the message as it travels; `Malformed` where a field does not fit."""
        # fields come first among the attributes; what a property worked out once lies after them
        fields = zip(self.form, vars(self).values(), strict=False)
        return b"".join((HEAD, bytes([self.kind]), *(form.write(value) for form, value in fields)))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Return the message in some bytes; `Malformed` where they are anything else."""
        message = read(data)
        if not isinstance(message, cls):
            raise Malformed(f"a {type(message).__name__}; {cls.__name__} is required here")
        return message


KINDS: dict[int, type[SecAggMessage]] = {}  # by the number on the wire


@dataclass(frozen=True)
class PublicKeys:
    """A client's public keys: S_i, E_i, the hash of b_i, and its signature over them.

    >>> PublicKeys("ann", bytes(32), bytes(32), bytes(32), b"").statement(bytes(32)) == bytes(32)
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
        """Return the bytes that the client signs: its keys with the digest of the terms."""
        return framed(b"muster secagg keys", context, self.keys)


_KEYS = (text(NAME), raw(32), raw(32), raw(32), blob(SIGNATURE))
_ENTRY = FieldCodec(
    attrgetter("data"), lambda source: PublicKeys(*(form.read(source) for form in _KEYS))
)


@dataclass(frozen=True)
class Complaint:
    """A pair whose share does not fit: indices of dealer and holder, and the holder's signature.

    What is signed covers the piece that the holder was given, so that a dealer opens nothing for
    a piece that was changed on its way.
    """

    dealer: int
    holder: int
    signature: bytes


_COMPLAINT = FieldCodec(
    lambda c: (
        number(4).write(c.dealer) + number(4).write(c.holder) + blob(SIGNATURE).write(c.signature)
    ),
    lambda source: Complaint(
        number(4).read(source), number(4).read(source), blob(SIGNATURE).read(source)
    ),
)


@dataclass(frozen=True)
class Advert(SecAggMessage, kind=1, form=(raw(32), _ENTRY)):
    """Client: my keys. `context` is the digest of my terms, so that a difference has a name."""

    context: bytes
    entry: PublicKeys


@dataclass(frozen=True)
class KeyRoster(SecAggMessage, kind=2, form=(raw(32), many(_ENTRY))):
    """Server: all clients' keys, sorted by name; an index below is a place in this list.

    What follows from a roster alone is worked out once for the object: a client that read it from
    a network is alone with it, the clients of a simulation hold one and the same.
    """

    context: bytes
    entries: tuple[PublicKeys, ...]

    @cached_property
    def places(self) -> dict[str, int]:
        """The index of each name."""
        return {entry.name: i for i, entry in enumerate(self.entries)}

    @cached_property
    def ordered(self) -> bool:
        """Return whether it is sorted by name, and names nobody twice."""
        return all(a.name < b.name for a, b in pairwise(self.entries))

    @cached_property
    def distinct(self) -> bool:
        """Return whether no two keys in it are the same."""
        keys = {key for e in self.entries for key in (e.mask_key, e.channel_key, e.commitment)}
        return len(keys) == 3 * len(self.entries)

    @cached_property
    def odd(self) -> tuple[str, ...]:
        """The names whose keys are not in their canonical form."""
        return tuple(
            e.name for e in self.entries if not (canonical(e.mask_key) and canonical(e.channel_key))
        )

    @cached_property
    def signed(self) -> tuple[tuple[str, bytes, bytes], ...]:
        """The signers, what each signed, and the signature, for each client to verify."""
        return tuple((e.name, e.statement(self.context), e.signature) for e in self.entries)

    def session(self, *about: str) -> bytes:
        """Return the session's id: a SHA-256 over what it is about, all clients' names and keys."""
        head = framed(b"muster secagg session", *(part.encode() for part in about))
        return sha256(head + self._keys).digest()

    @cached_property
    def _keys(self) -> bytes:
        return framed(*(entry.keys for entry in self.entries))


@dataclass(frozen=True)
class Shares(SecAggMessage, kind=3, form=(raw(32), blob(), blob(), blob(), blob(SIGNATURE))):
    """Client: shares of my two secrets, and what I am bound to by them.

    `sealed` is 104 bytes for each holder but myself; `leaves` 64 for each holder; `proof` that of
    the degree; the signature is under the root of the leaves and the proof.
    """

    session: bytes
    sealed: bytes
    leaves: bytes
    proof: bytes
    signature: bytes


@dataclass(frozen=True)
class Delivery(SecAggMessage, kind=4, form=(raw(32), blob(8190), blob())):
    """Server: who shared (a bitmap), and a piece from each whose holder you are, 216 bytes.

    A piece is the sealed shares, the root of the dealer's leaves, the two leaves that are yours,
    and the values that the dealer's proof takes at your point.
    """

    session: bytes
    alive: bytes
    pieces: bytes


@dataclass(frozen=True)
class Compared(SecAggMessage, kind=5, form=(raw(32), many(_COMPLAINT))):
    """Client: I have compared all shares; those of whom I complain, and under which signature."""

    session: bytes
    complaints: tuple[Complaint, ...]


@dataclass(frozen=True)
class Complaints(SecAggMessage, kind=6, form=(raw(32), many(_COMPLAINT))):
    """Server: these holders complain about your shares; open what you sent them."""

    session: bytes
    complaints: tuple[Complaint, ...]


@dataclass(frozen=True)
class OpenedShares(SecAggMessage, kind=7, form=(raw(32), blob())):
    """Client: the shares, 88 bytes each, that I sent to those who complain, in their order."""

    session: bytes
    shares: bytes


@dataclass(frozen=True)
class Members(SecAggMessage, kind=8, form=(raw(32), blob(8190))):
    """Server: whose vectors will be in the sum (a bitmap): who shared, without those who lied."""

    session: bytes
    alive: bytes


@dataclass(frozen=True)
class MaskedVector(SecAggMessage, kind=9, form=(raw(32), blob())):
    """Client: my masked vector, packed."""

    session: bytes
    vector: bytes


@dataclass(frozen=True)
class Survivors(SecAggMessage, kind=10, form=(raw(32), blob(8190))):
    """Server: whose masked vectors came in time (a bitmap)."""

    session: bytes
    alive: bytes


@dataclass(frozen=True)
class Consent(SecAggMessage, kind=11, form=(raw(32), blob(SIGNATURE))):
    """Client: my signature under the survivors I was told of."""

    session: bytes
    signature: bytes


@dataclass(frozen=True)
class Quorum(SecAggMessage, kind=12, form=(raw(32), blob(8190), many(blob(SIGNATURE)))):
    """Server: who signed (a bitmap), and the signatures of the holders of your secrets."""

    session: bytes
    alive: bytes
    signatures: tuple[bytes, ...]


@dataclass(frozen=True)
class Revealed(SecAggMessage, kind=13, form=(raw(32), blob())):
    """Client: one share, 44 bytes, of each member whose shares I hold.

    Of its seed if it survived, of its mask key if not, 65535s where none came to me. There is no
    place for a second share of the same client.
    """

    session: bytes
    shares: bytes


@dataclass(frozen=True)
class Quit(SecAggMessage, kind=14, form=(text(64),)):
    """Client: I left, and why (the name of a `Reason`)."""

    reason: str


@dataclass(frozen=True)
class SessionEnded(SecAggMessage, kind=15, form=(text(64),)):
    """Server: it is over for you; forget what you kept (the name of a `Reason`).

    >>> SessionEnded.from_bytes(SessionEnded("DONE").to_bytes())
    SessionEnded(reason='DONE')
    """

    reason: str


CLIENT_KINDS = frozenset(
    kind.kind
    for kind in (Advert, Shares, Compared, OpenedShares, MaskedVector, Consent, Revealed, Quit)
)


def read(data: bytes) -> SecAggMessage:
    """Return the message in some bytes, whatever its kind; `Malformed` where there is none.

    >>> read(Quit("STOPPED").to_bytes())
    Quit(reason='STOPPED')
    """
    source = ByteReader(data)
    if source.take(len(HEAD)) != HEAD:
        raise Malformed(f"bytes that begin with {data[:4]!r}; a message begins with {HEAD!r}")
    kind = KINDS.get(source.take(1)[0])
    if kind is None:
        raise Malformed(f"a message of kind {data[4]}; kinds are 1 to {len(KINDS)}")
    fields = [form.read(source) for form in kind.form]
    if source.at != len(source.data):
        raise Malformed(f"{len(source.data) - source.at} bytes after the end of a message")
    return cast("Callable[..., SecAggMessage]", kind)(*fields)
