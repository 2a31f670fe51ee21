# SPDX-License-Identifier: Apache-2.0
"""The making of certificates: authority, requests and issue, as pure functions.

An *authority* is a key and its own certificate. A site makes a key, which never leaves it, and
a *request*; the authority answers with a certificate, in a *bundle*. Everything is PEM in bytes;
files are `authority`'s and `membership`'s business, lists of what is revoked `revocation`'s. The
clock is an argument, with its time zone.

Keys are EC P-256, signatures ECDSA with SHA-256 (RFC 5280, RFC 2986).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from muster.errors import IdentityError
from muster.extras import require
from muster.security.identity import (
    LONGEST,
    ORGANISATION,
    ROLES,
    UNREADABLE,
    Grant,
    certificate,
    check_name,
    general_name,
    organisations,
    parsed,
)
from muster.security.organisation import check_organisation

if TYPE_CHECKING:
    from cryptography import exceptions, x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509 import oid
else:
    exceptions = require("cryptography.exceptions", extra="site")
    x509 = require("cryptography.x509", extra="site")
    oid = require("cryptography.x509.oid", extra="site")
    hashes = require("cryptography.hazmat.primitives.hashes", extra="site")
    serialization = require("cryptography.hazmat.primitives.serialization", extra="site")
    ec = require("cryptography.hazmat.primitives.asymmetric.ec", extra="site")

__all__ = [
    "Authority",
    "ECDSA",
    "PEM",
    "SHA256",
    "SKEW",
    "SigningRequest",
    "check_issued",
    "check_signature",
    "fingerprint",
    "issue",
    "issuer_key",
    "new_authority",
    "new_key",
    "private_key",
    "public_key",
    "read_request",
    "request",
    "sign",
]

SKEW = timedelta(minutes=5)  # a certificate is valid this long before it is made
LIFE = timedelta(days=LONGEST)  # of an authority
PEM = serialization.Encoding.PEM
SHA256 = hashes.SHA256()
ECDSA = ec.ECDSA(SHA256)


@dataclass(frozen=True)
class Authority:
    """The authority's own certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True)
class SigningRequest:
    """A signing request that was checked.

    Fields: the `name` and the `organisation` asked for (the latter "" where it asks for none), and
    the fingerprint of its `key`.
    """

    name: str
    organisation: str
    key: str
    public: ec.EllipticCurvePublicKey = field(repr=False)


def new_key() -> bytes:
    """Return a new private key, PEM."""
    return _key_bytes(ec.generate_private_key(ec.SECP256R1()))


def fingerprint(pem: bytes) -> str:
    """Return the SHA-256 of the public key of a private key, request or certificate (all PEM).

    It is the same for a key, its request and its certificate: what two people compare by phone.
    """
    if b"PRIVATE KEY" in pem:
        return _print_of(private_key(pem).public_key())
    if b"CERTIFICATE REQUEST" in pem:
        return read_request(pem).key
    return _print_of(_key_of(certificate(pem)))


def new_authority(title: str, now: datetime) -> Authority:
    """Return a new authority: a key, and a certificate that it signs itself."""
    if not title.strip() or not title.isprintable() or len(title.encode()) > 64:
        raise IdentityError(f"the title {title!r} is not allowed; use 1 to 64 printable letters")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _named(title)
    builder = _builder(subject, subject, key.public_key(), key.public_key())
    made = (
        builder.not_valid_before(now.astimezone(UTC) - SKEW)
        .not_valid_after(now.astimezone(UTC) + LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .sign(key, SHA256)
    )
    return Authority(made.public_bytes(PEM), _key_bytes(key))


def request(name: str, key: bytes, organisation: str = "") -> bytes:
    """Return a signing request (PEM) for a name, by the holder of a key; it holds no secret.

    `organisation` is what the holder asks to speak for; the authority decides.
    """
    asked = check_organisation(organisation) if organisation else ""
    builder = x509.CertificateSigningRequestBuilder(_named(check_name(name), asked))
    return bytes(builder.sign(private_key(key), SHA256).public_bytes(PEM))


def read_request(pem: bytes) -> SigningRequest:
    """Check a request: its signature, its subject, its kind of key; whatever else it asks is void.

    A subject has one name, at most one organisation, and nothing else.
    """
    genuine, public, subject = parsed(_request_facts, pem, "the request")
    if not genuine:
        raise IdentityError("the request's signature does not fit its key; ask for it again")
    stated = organisations(subject)
    names = [part.value for part in subject if part.oid != ORGANISATION]
    if len(names) != 1 or len(stated) > 1 or not isinstance(names[0], str):
        raise IdentityError(
            f"the request has {len(names)} names and {len(stated)} organisations; it must have "
            f"one name, and one organisation or none"
        )
    organisation = check_organisation(stated[0]) if stated else ""
    return SigningRequest(check_name(names[0]), organisation, _print_of(public), _p256(public))


def issue(authority: Authority, asked: SigningRequest, grant: Grant, now: datetime) -> bytes:
    """Return a certificate (PEM) for whoever made a request.

    Its holder speaks for the organisation of the grant or, where that names none, for itself: what
    a request asks for is not looked at.
    """
    above = certificate(authority.certificate)
    ends, last = now.astimezone(UTC) + timedelta(days=grant.days), above.not_valid_after_utc
    if ends > last:
        raise IdentityError(
            f"days={grant.days} reaches beyond the authority, which ends on {last:%d %b %Y}; "
            f"use at most {max((last - now).days, 0)}"
        )
    uri = x509.UniformResourceIdentifier(f"urn:muster:{grant.role}:{asked.name}")
    others = x509.SubjectAlternativeName([uri, *map(general_name, grant.hosts)])
    subject = _named(asked.name, grant.organisation or asked.name)
    builder = _builder(subject, above.subject, asked.public, above.public_key())
    made = (
        builder.not_valid_before(now.astimezone(UTC) - SKEW)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ROLES[grant.role]]), critical=False)
        .add_extension(others, critical=False)
        .sign(private_key(authority.key), SHA256)
    )
    return bytes(made.public_bytes(PEM))


def check_issued(issued: bytes, authority: bytes, now: datetime) -> None:
    """Raise unless the authority (PEM) issued the certificate (PEM) and both are valid now."""
    below, above = certificate(issued), certificate(authority)
    try:
        basic = above.extensions.get_extension_for_class(x509.BasicConstraints).value
        above.verify_directly_issued_by(above)
        below.verify_directly_issued_by(above)
    except (*UNREADABLE, exceptions.InvalidSignature):
        raise IdentityError("the certificate does not come from this authority") from None
    if not basic.ca:
        raise IdentityError("the certificate above is not an authority's; ask for it again")
    for found in (below, above):
        if not found.not_valid_before_utc <= now <= found.not_valid_after_utc:
            since, until = found.not_valid_before_utc, found.not_valid_after_utc
            raise IdentityError(
                f"the certificate is valid from {since:%d %b %Y %H:%M} to {until:%d %b %Y %H:%M} "
                f"UTC, and the clock says {now:%d %b %Y %H:%M}; check the clock, or renew it"
            )


def sign(authority: Authority, data: bytes) -> bytes:
    """Return the authority's signature over some bytes."""
    return bytes(private_key(authority.key).sign(data, ECDSA))


def check_signature(authority: bytes, signature: bytes, data: bytes) -> None:
    """Raise unless the authority (a certificate, PEM) signed these bytes."""
    try:
        public_key(authority).verify(signature, data, ECDSA)
    except exceptions.InvalidSignature:
        raise IdentityError(
            "the signature does not fit: it was changed on the way, or another authority made it"
        ) from None


def public_key(pem: bytes) -> ec.EllipticCurvePublicKey:
    """Return the public key in a certificate (PEM).

    Raises `IdentityError` for another kind of key.
    """
    return _p256(_key_of(certificate(pem)))


def private_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Return the private key in some PEM. Raises `IdentityError` for another kind of key."""
    key = parsed(lambda data: serialization.load_pem_private_key(data, None), pem, "the key")
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise IdentityError(f"the key is a {type(key).__name__}; an EC P-256 key is required")
    return key


def issuer_key(signer: Any) -> x509.AuthorityKeyIdentifier:
    """Return the key that signed, as certificates and lists say it."""
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(signer)


def _key_of(found: x509.Certificate) -> Any:
    return parsed(lambda _: found.public_key(), b"", "the certificate's key")


def _request_facts(pem: bytes) -> tuple[bool, Any, x509.Name]:
    found = x509.load_pem_x509_csr(pem)
    return found.is_signature_valid, found.public_key(), found.subject


def _p256(public: Any) -> ec.EllipticCurvePublicKey:
    if isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, ec.SECP256R1):
        return public
    raise IdentityError(f"the key is a {type(public).__name__}; an EC P-256 key is required")


def _key_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    plain = serialization.NoEncryption()
    return bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, plain))


def _print_of(public: Any) -> str:
    kind = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(public.public_bytes(serialization.Encoding.DER, kind)).hexdigest()


def _named(name: str, organisation: str = "") -> x509.Name:
    parts = [x509.NameAttribute(oid.NameOID.COMMON_NAME, name)]
    if organisation:
        parts.append(x509.NameAttribute(ORGANISATION, organisation))
    return x509.Name(parts)


def _builder(name: x509.Name, above: x509.Name, key: Any, signer: Any) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder(above, name, key, x509.random_serial_number())
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(issuer_key(signer), critical=False)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
