# SPDX-License-Identifier: Apache-2.0
"""The folder of a site, or of a server: its own key and certificate, and whom it trusts.

    identity.pem     the private key and its certificate in one file (0600), replaced as one
    pending.key      a private key (0600) whose certificate has not come yet
    authority.pem    the authority's certificate
    revoked.pem      the authority's revocation list, the newest that came; see `highwater`
    federation.json  the server's address

A key is made here and never leaves. A kill at any instant leaves the old identity or the new one;
accepting a bundle a second time does no harm.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from muster.errors import IdentityError
from muster.security.identity import IDENTITY, Identity, admit, holder
from muster.security.pki import certificate as certificates
from muster.security.pki.bundle import Bundle, fits, unseal
from muster.security.pki.highwater import store
from muster.security.pki.keyfile import AUTHORITY, has, private, read, write
from muster.security.pki.revocation import read_list

__all__ = ["FEDERATION", "Membership", "PENDING", "accept", "ask", "member", "renew"]

PENDING, FEDERATION = "pending.key", "federation.json"
END = b"-----END PRIVATE KEY-----\n"


@dataclass(frozen=True)
class Membership:
    """The membership of a folder: who it is, and in which federation.

    `authority` is its authority's fingerprint, `key` that of its own key.
    """

    who: Identity
    server: str
    authority: str
    key: str


def ask(folder: Path, name: str, organisation: str = "") -> tuple[Path, str]:
    """Make a key, and a request to send to the authority; return it and the key's fingerprint.

    `organisation` is the one that the holder speaks for; without one it speaks for itself.
    """
    if has(folder / IDENTITY):
        raise IdentityError(f"{folder} already holds an identity; use muster pki renew {folder}")
    return _ask(folder, name, organisation, "request")


def renew(folder: Path) -> tuple[Path, str]:
    """Make a new key and a request for it; the old identity serves until the bundle is accepted."""
    who = holder(_own(folder))
    return _ask(folder, who.name, who.organisation, "renewal")


def accept(bundle: Path, folder: Path, now: datetime, authority: str = "") -> Membership:
    """Take a bundle into the folder whose key it was made for.

    `authority` is the fingerprint that the bundle's authority must have, or its first digits. Of
    the bundle's revocation list and the folder's the newer one holds; a certificate that it revokes
    is not taken.
    """
    held = unseal(read(bundle))
    above = certificates.fingerprint(held.authority.encode())
    wanted = authority.replace(":", "").lower()
    if not above.startswith(wanted):
        raise IdentityError(
            f"the bundle comes from the authority {above[:16]}, not {wanted[:16]}; ask for the "
            f"right one, and do not trust this one"
        )
    known = folder / AUTHORITY
    if has(known) and read(known) != held.authority.encode():
        raise IdentityError(
            f"{folder} belongs to another authority than the bundle; use another folder"
        )
    key, pending = _key(folder, held)
    who, trusted = fits(held, key, now), held.authority.encode()
    listed = store(folder, read_list(held.revoked.encode(), trusted), trusted)
    admit(who, who.role, listed.serials, now)  # the folder's may know what the bundle's did not
    write(known, trusted)
    write(folder / FEDERATION, (json.dumps({"server": held.server}) + "\n").encode())
    write(folder / IDENTITY, key + held.certificate.encode(), 0o600)
    if pending:
        (folder / PENDING).unlink(missing_ok=True)
    return Membership(who, held.server, above, certificates.fingerprint(key))


def member(folder: Path) -> Membership:
    """Return the membership of this folder: who it is, and where its server is."""
    who = holder(_own(folder))
    try:
        server = str(json.loads(read(folder / FEDERATION))["server"])
    except (ValueError, TypeError, KeyError):
        raise IdentityError(f"{folder / FEDERATION} is damaged; accept the bundle again") from None
    above = certificates.fingerprint(read(folder / AUTHORITY))
    return Membership(who, server, above, certificates.fingerprint(_own(folder)))


def _ask(folder: Path, name: str, organisation: str, kind: str) -> tuple[Path, str]:
    key = certificates.new_key()
    asked = "" if organisation == name else organisation
    request, place = certificates.request(name, key, asked), folder / f"{name}.{kind}.pem"
    waiting = folder / PENDING
    if has(waiting):
        raise IdentityError(
            f"{waiting} waits for its bundle: accept that, or delete the file to ask anew"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise IdentityError(f"{folder}: {error.strerror}") from None
    write(waiting, key, 0o600, fresh=True)
    write(place, request)
    return place, certificates.fingerprint(request)


def _own(folder: Path) -> bytes:
    if not has(folder / IDENTITY):
        raise IdentityError(f"{folder} holds no identity yet; see muster pki request and accept")
    return private(folder / IDENTITY)


def _key(folder: Path, held: Bundle) -> tuple[bytes, bool]:
    """Return the private key that the bundle was made for, and whether it waited for it."""
    for name in (PENDING, IDENTITY):
        if has(folder / name):
            key = private(folder / name)
            key = key[: key.index(END) + len(END)] if END in key else key
            certificate = held.certificate.encode()
            if certificates.fingerprint(key) == certificates.fingerprint(certificate):
                return key, name == PENDING
    raise IdentityError(
        f"{folder} holds no key that fits the bundle for {held.name!r}; accept it in the folder "
        f"where its request was made"
    )
