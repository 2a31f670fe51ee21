# SPDX-License-Identifier: Apache-2.0
"""Signatures with the key of an identity, and whether one was made by the member it names.

What a server hands out is not believed: a certificate counts when the authority made it, for a
site of that name, and it is valid and not revoked at that moment. Signatures are ECDSA with
SHA-256 on P-256, the key of `identity.pem`; whoever signs begins with words of its own, so that
one purpose's signature is none for another.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muster.errors import IdentityError
from muster.extras import require
from muster.service.identity import IDENTITY, admit, certificate, holder, parsed
from muster.service.pki.authority import AUTHORITY, revoked
from muster.service.pki.certificate import check_issued
from muster.service.pki.keyfile import private, read

if TYPE_CHECKING:
    from cryptography import exceptions
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
else:
    exceptions = require("cryptography.exceptions", extra="service")
    hashes = require("cryptography.hazmat.primitives.hashes", extra="service")
    serialization = require("cryptography.hazmat.primitives.serialization", extra="service")
    ec = require("cryptography.hazmat.primitives.asymmetric.ec", extra="service")

__all__ = ["Notary"]

ECDSA = ec.ECDSA(hashes.SHA256())
END = b"-----END PRIVATE KEY-----\n"
NOW = partial(datetime.now, UTC)


class Notary:
    """Signs as the member whose identity a folder holds, and vouches for others of its authority.

    What is revoked is read once: see `look`. Raises `IdentityError` for a folder without an
    identity.
    """

    def __init__(self, folder: Path, now: Callable[[], datetime] = NOW) -> None:
        pem = private(folder / IDENTITY)
        self.name = holder(pem).name
        self._key = parsed(_private, pem[: pem.index(END) + len(END)], "the key")
        self._authority, self._folder, self._now = read(folder / AUTHORITY), folder, now
        self.look()

    def look(self) -> None:
        """Look anew at who is revoked, and at every certificate."""
        self._revoked = revoked(self._folder)
        self._known: dict[tuple[str, str], Any] = {}

    def sign(self, data: bytes) -> bytes:
        """This member's signature, at most 72 bytes."""
        return bytes(self._key.sign(data, ECDSA))

    def vouch(self, name: str, pem: str, data: bytes, signature: bytes) -> bool:
        """Whether the site of this name, with this certificate, signed these bytes."""
        try:
            self._public(name, pem).verify(signature, data, ECDSA)
        except (IdentityError, exceptions.InvalidSignature):
            return False
        return True

    def _public(self, name: str, pem: str) -> Any:
        """The key of a certificate that counts. Raises `IdentityError`."""
        found = self._known.get((name, pem))
        if found is None:
            now, data = self._now(), pem.encode()
            check_issued(data, self._authority, now)
            who = admit(holder(data), "site", self._revoked, now)
            if who.name != name:
                raise IdentityError(f"the certificate is that of {who.name!r}, not of {name!r}")
            found = certificate(data).public_key()
            if not isinstance(found, ec.EllipticCurvePublicKey):
                raise IdentityError(f"{name!r} signs with another kind of key than EC P-256")
            self._known[name, pem] = found
        return found


def _private(pem: bytes) -> Any:
    return serialization.load_pem_private_key(pem, None)
