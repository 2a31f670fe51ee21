# SPDX-License-Identifier: Apache-2.0
"""TLS for a site that speaks to no server whose certificate the authority has revoked.

TLS itself knows no list. A server's key that was stolen, and revoked, opens every site for as long
as its certificate lasts, unless each handshake asks the newest list that the site's folder has
seen: before a word is said.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from muster.errors import IdentityError
from muster.security import identity
from muster.security.pki.highwater import Revocations
from muster.security.pki.keyfile import AUTHORITY

__all__ = ["client_context"]


def client_context(folder: Path) -> ssl.SSLContext:
    """Return TLS for the site whose identity and revocation list a folder holds.

    A list that is put there later holds from the next connection on. Raises `IdentityError` for a
    folder without an identity that TLS can use, or without a list that holds; a handshake with a
    server that is revoked raises `ssl.SSLCertVerificationError`.
    """
    context, known = identity.client_context(folder, folder / AUTHORITY), Revocations(folder)

    class Asked(ssl.SSLObject):
        """One connection, whose server is looked for in the list once it has shown who it is."""

        def do_handshake(self) -> None:
            super().do_handshake()
            _check(known, self.getpeercert(binary_form=True))

    class AskedSocket(ssl.SSLSocket):
        """The same of a socket that blocks."""

        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            _check(known, self.getpeercert(binary_form=True))

    context.sslobject_class, context.sslsocket_class = Asked, AskedSocket
    return context


def _check(known: Revocations, certificate: bytes | None) -> None:
    with suppress(IdentityError):  # a list that was put back is refused: the newest one holds
        known.look()
    try:
        server = identity.peer_identity(certificate or b"")
        identity.admit(server, "server", known.current.serials, datetime.now(UTC))
    except IdentityError as error:
        refusal: Any = ssl.SSLCertVerificationError(str(error))
        refusal.verify_message = str(error)  # as OpenSSL tells it
        raise refusal from None
