# SPDX-License-Identifier: Apache-2.0
"""Identities in a federation: what a certificate says, what it allows, and TLS on both sides.

A certificate names its holder as the URI `urn:muster:site:NAME` or `urn:muster:server:NAME`; a
site's serves clients only and a server's servers only, so neither can play the other. Its subject
says for which organisation the holder speaks. How they are made: `muster.security.pki`. The clock
is an argument, with its time zone.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from muster.errors import IdentityError
from muster.extras import require
from muster.security.organisation import check_organisation

if TYPE_CHECKING:
    from cryptography import exceptions, x509
    from cryptography.x509 import oid
else:
    exceptions = require("cryptography.exceptions", extra="site")
    x509 = require("cryptography.x509", extra="site")
    oid = require("cryptography.x509.oid", extra="site")

__all__ = [
    "Grant",
    "IDENTITY",
    "Identity",
    "LONGEST",
    "NAME",
    "ORGANISATION",
    "ROLES",
    "UNREADABLE",
    "admit",
    "certificate",
    "check_name",
    "client_context",
    "general_name",
    "holder",
    "organisations",
    "parsed",
    "peer_identity",
    "server_context",
]

ROLES = {
    "site": oid.ExtendedKeyUsageOID.CLIENT_AUTH,
    "server": oid.ExtendedKeyUsageOID.SERVER_AUTH,
}
ORGANISATION = oid.NameOID.ORGANIZATION_NAME
IDENTITY = "identity.pem"  # in a folder: the private key and its certificate, replaced as one
LONGEST = 3652  # days: an authority's ten years
NAME = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
UNREADABLE = (
    ValueError,
    TypeError,
    KeyError,
    exceptions.UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
HOST = r"(?=.{1,253}$)(NAME\.)*NAME".replace("NAME", NAME)


@dataclass(frozen=True)
class Identity:
    """The identity that a certificate speaks for.

    Fields: `name`, `serial` number, `role` ("site" or "server"), its last day `not_after`, and the
    `organisation` that the holder speaks for, which is the name where the certificate has none.

    >>> Identity("lyon", 7, "site", datetime(2030, 1, 1)).organisation
    'lyon'
    """

    name: str
    serial: int
    role: str
    not_after: datetime
    organisation: str = ""

    def __post_init__(self) -> None:
        if not self.organisation:
            object.__setattr__(self, "organisation", self.name)


@dataclass(frozen=True)
class Grant:
    """A grant of an authority.

    Fields: `server`, the federation's https address; `role`; `days` of validity; `hosts`, the
    DNS names and IP addresses of a server (by default the host of `server`), none for a site;
    `organisation`, for which the holder speaks by the authority's word ("": see `approve`).
    """

    server: str
    role: str = "site"
    days: int = 365
    hosts: tuple[str, ...] = ()
    organisation: str = ""

    def __post_init__(self) -> None:
        if self.organisation:
            object.__setattr__(self, "organisation", check_organisation(self.organisation))
        host = _address(self.server)
        if self.role not in ROLES:
            raise IdentityError(f"role {self.role!r} is unknown; use {' or '.join(ROLES)}")
        if not 1 <= self.days <= LONGEST:
            raise IdentityError(f"days={self.days}: use 1 to {LONGEST} days")
        if self.role == "site" and self.hosts:
            raise IdentityError("a site has no host: it only dials out; leave host out")
        if self.role == "server" and not self.hosts:
            object.__setattr__(self, "hosts", (host,))
        for name in self.hosts:
            general_name(name)


def check_name(name: str) -> str:
    """Return the name, when it may stand in a certificate.

    >>> check_name("st-mary")
    'st-mary'
    """
    if not re.fullmatch(NAME, name):
        raise IdentityError(
            f"the name {name!r} is not allowed; use 1 to 63 of a-z, 0-9 and -, no - at either end"
        )
    return name


def holder(pem: bytes) -> Identity:
    """Return the identity that a certificate (PEM) speaks for; its signature is not looked at."""
    return _identity(pem, x509.load_pem_x509_certificate)


def peer_identity(der: bytes) -> Identity:
    """Return the identity at a connection's other end, by `ssl_object.getpeercert(True)`.

    TLS has checked signature, chain and dates; whether it is revoked is for `admit`.
    """
    return _identity(der, x509.load_der_x509_certificate)


def admit(who: Identity, role: str, revoked: frozenset[int], now: datetime) -> Identity:
    """Return the identity, when it may be served now; checked on every request.

    Raises `IdentityError` when it has another role, is revoked, or has expired meanwhile.
    """
    if who.role != role:
        raise IdentityError(f"{who.name!r} is a {who.role}; a {role} is required here")
    if who.serial in revoked:
        raise IdentityError(f"the certificate {who.serial:x} of {who.name!r} is revoked")
    if now > who.not_after:
        raise IdentityError(
            f"the certificate of {who.name!r} expired on {who.not_after:%d %b %Y}; renew it"
        )
    return who


def server_context(folder: Path, ca: Path) -> ssl.SSLContext:
    """Return TLS for the server whose identity a folder holds; `ca`: its authority's certificate.

    TLS 1.3 or nothing, and every client shows a certificate of the authority for clients. To
    renew without a restart: `context.load_cert_chain(folder / IDENTITY)`.
    """
    return _context(ssl.PROTOCOL_TLS_SERVER, folder, ca)


def client_context(folder: Path, ca: Path) -> ssl.SSLContext:
    """Return TLS for the site whose identity a folder holds; the server's name is checked."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, folder, ca)


def _context(protocol: Any, folder: Path, ca: Path) -> ssl.SSLContext:
    role = "server" if protocol == ssl.PROTOCOL_TLS_SERVER else "site"
    try:
        who, authority = holder((folder / IDENTITY).read_bytes()), ca.read_text("ascii")
        if who.role != role:
            raise IdentityError(f"{folder} is the {who.role} {who.name!r}; a {role} is required")
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.hostname_checks_common_name = False
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_verify_locations(cadata=authority)
        context.load_cert_chain(folder / IDENTITY)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise IdentityError(
            f"{folder} holds no identity that TLS can use ({error}); see muster pki accept"
        ) from None
    return context


def _identity(data: bytes, load: Callable[[bytes], x509.Certificate]) -> Identity:
    found = parsed(lambda raw: _facts(load(raw)), data, "the certificate")
    uris, usage, serial, until, stated = found
    said = [re.fullmatch(rf"urn:muster:(site|server):({NAME})", uri) for uri in uris]
    if len(said) != 1 or said[0] is None or usage != [ROLES[said[0][1]]]:
        raise IdentityError(
            f"the certificate names no one site or server of muster ({ascii(uris)[:200]}); use one "
            f"made by muster pki"
        )
    if len(stated) > 1:
        raise IdentityError(
            f"the certificate of {said[0][2]!r} names {len(stated)} organisations; use one made by "
            f"muster pki"
        )
    organisation = check_organisation(stated[0]) if stated else ""
    return Identity(said[0][2], serial, said[0][1], until, organisation)


def organisations(subject: x509.Name) -> list[Any]:
    """Return the organisations that a subject names, as they stand in it."""
    return [part.value for part in subject.get_attributes_for_oid(ORGANISATION)]


def _facts(found: x509.Certificate) -> tuple[list[str], list[Any], int, datetime, list[Any]]:
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    usage = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    if found.serial_number < 1:
        raise ValueError("its serial number is below 1")
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    stated = organisations(found.subject)
    return uris, list(usage), found.serial_number, found.not_valid_after_utc, stated


def parsed(parse: Callable[[bytes], Any], data: bytes, what: str) -> Any:
    """Return the object that some bytes hold; an `IdentityError` when they cannot be read."""
    try:
        return parse(data)
    except UNREADABLE as error:
        raise IdentityError(f"{what} cannot be read ({error}); fetch it again") from None


def certificate(pem: bytes) -> x509.Certificate:
    """Return the certificate in some PEM."""
    found: x509.Certificate = parsed(x509.load_pem_x509_certificate, pem, "the certificate")
    return found


def general_name(host: str) -> x509.GeneralName:
    """Return a DNS name or IP address, as a certificate has it."""
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if not re.fullmatch(HOST, host):
            raise IdentityError(
                f"the host {host!r} is no DNS name (in small letters) or IP address"
            ) from None
    return x509.DNSName(host)


def _address(server: str) -> str:
    """Return the host of an https address."""
    try:
        host, _ = urlsplit(server).hostname, urlsplit(server).port
    except ValueError:
        host = None
    if not host or not server.isascii() or not re.fullmatch(r"https://[^/@?#\s]+/?", server):
        raise IdentityError(f"the server {server!r} is no address; write https://host:8443")
    return host
