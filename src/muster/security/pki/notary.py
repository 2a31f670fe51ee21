# SPDX-License-Identifier: Apache-2.0
"""Signatures with the key of an identity, and whether one was made by the member it names.

What a server hands out is not believed: a certificate counts when the authority made it, for a
site of that name, and it is valid and not revoked at that moment. Signatures are ECDSA with
SHA-256 on P-256, the key of `identity.pem`; whoever signs begins with words of its own, so that
one purpose's signature is none for another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from muster.errors import IdentityError
from muster.extras import require
from muster.security.identity import IDENTITY, Identity, admit, holder
from muster.security.pki.certificate import (
    ECDSA,
    check_issued,
    fingerprint,
    private_key,
    public_key,
)
from muster.security.pki.highwater import Revocations
from muster.security.pki.keyfile import AUTHORITY, private, read

if TYPE_CHECKING:
    from cryptography import exceptions
    from cryptography.hazmat.primitives.asymmetric import ec
else:
    exceptions = require("cryptography.exceptions", extra="site")
    ec = require("cryptography.hazmat.primitives.asymmetric.ec", extra="site")

__all__ = ["Notary", "Peer"]

END = b"-----END PRIVATE KEY-----\n"
NOW = partial(datetime.now, UTC)


@dataclass(frozen=True)
class Peer:
    """A member as its certificate names it.

    Fields: its `name` and `organisation`; the `serial` number of the certificate, in hexadecimal,
    and the fingerprint of its `key` (SHA-256, as `muster pki` shows it).
    """

    name: str
    organisation: str
    serial: str
    key: str


class Notary:
    """Signs as the member whose identity a folder holds, and vouches for others of its authority.

    Who is revoked is known by the newest list that the folder has seen (`revocations`); a newer one
    that is put there holds from the next signature on. Raises `IdentityError` for a folder without
    an identity, or without a list that holds. Methods may be called from any thread.
    """

    def __init__(self, folder: Path, now: Callable[[], datetime] = NOW) -> None:
        pem = private(folder / IDENTITY)
        end = pem.index(END) + len(END)
        self.certificate, self.authority = pem[end:].decode("ascii"), read(folder / AUTHORITY)
        who = holder(pem[end:])
        self.name, self.me = who.name, _peer(who, fingerprint(pem[end:]))
        self.revocations = Revocations(folder)
        self._key, self._now = private_key(pem[:end]), now
        self._known: dict[tuple[str, str], tuple[Identity, ec.EllipticCurvePublicKey]] = {}
        self._keys: dict[tuple[str, str], tuple[str, ec.EllipticCurvePublicKey]] = {}

    def look(self) -> None:
        """Look anew at who is revoked.

        Raises `IdentityError` where the list in the folder is refused: an older one was put back,
        or it is damaged. The newest that was read goes on holding.
        """
        self.revocations.look()

    def heard(self, listed: str) -> bool:
        """Keep a server's revocation list (PEM), when it is newer; return whether it was.

        Raises `IdentityError` for a list that is older than this member's, or not the authority's:
        with that server no sum is made.
        """
        return self.revocations.heard(listed.encode())

    def listed(self) -> str:
        """Return the newest revocation list (PEM) that this member has seen, for others."""
        with suppress(IdentityError):  # one that was put back is refused: the newest one holds
            self.revocations.look()
        return self.revocations.current.pem.decode("ascii")

    def sign(self, data: bytes) -> bytes:
        """Sign with this member's key; the signature has at most 72 bytes."""
        return bytes(self._key.sign(data, ECDSA))

    def vouch(self, name: str, pem: str, data: bytes, signature: bytes) -> bool:
        """Return whether the site of this name, with this certificate, signed these bytes."""
        try:
            return self.verified(name, pem, data, signature)
        except IdentityError:
            return False

    def verified(self, name: str, pem: str, data: bytes, signature: bytes) -> bool:
        """Return whether the site signed; `IdentityError` for a certificate that does not count."""
        _, key = self._counts(name, pem)
        try:
            key.verify(signature, data, ECDSA)
        except exceptions.InvalidSignature:
            return False
        return True

    def attest(self, name: str, pem: str, data: bytes, signature: bytes) -> bool:
        """Return whether the key of the name's certificate signed these bytes.

        Whatever has become of it since: for a record of what was said when it counted, which must
        read the same at every time. Whether its holder may speak now is asked where it speaks.
        """
        try:
            if (name, pem) not in self._keys:
                self._keys[name, pem] = holder(pem.encode()).name, public_key(pem.encode())
            whose, key = self._keys[name, pem]
            key.verify(signature, data, ECDSA)
        except (IdentityError, exceptions.InvalidSignature):
            return False
        return whose == name

    def peer(self, name: str, pem: str) -> Peer:
        """Return the peer of this name, by a certificate that counts; or `IdentityError`."""
        return _peer(self._counts(name, pem)[0], fingerprint(pem.encode()))

    def room(self, certificates: Mapping[str, str]) -> tuple[Peer, ...]:
        """Return these sites as peers, sorted by name, by certificates that all count now.

        Raises `IdentityError` for the first that does not.
        """
        return tuple(self.peer(name, pem) for name, pem in sorted(certificates.items()))

    def _counts(self, name: str, pem: str) -> tuple[Identity, ec.EllipticCurvePublicKey]:
        """Return the holder of that certificate and its key, if it counts; else `IdentityError`."""
        with suppress(IdentityError):  # a list that was put back is refused: the newest one holds
            self.revocations.look()
        now, found = self._now(), self._known.get((name, pem))
        if found is None:
            data = pem.encode()
            check_issued(data, self.authority, now)
            found = holder(data), public_key(data)
        who = admit(found[0], "site", self.revocations.current.serials, now)
        if who.name != name:
            raise IdentityError(f"the certificate is that of {who.name!r}, not of {name!r}")
        self._known[name, pem] = found
        return found


def _peer(who: Identity, key: str) -> Peer:
    return Peer(who.name, who.organisation, f"{who.serial:x}", key)
