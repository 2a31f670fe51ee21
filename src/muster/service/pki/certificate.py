# SPDX-License-Identifier: Apache-2.0
"""How certificates are made: authority, requests, issue and revocation, as pure functions.

An *authority* is a key and its own certificate. A site makes a key, which never leaves it, and
a *request*; the authority answers with a certificate, in a *bundle*. Everything is PEM in bytes;
files are `authority`'s and `membership`'s business. The clock is an argument, with its time zone.

Keys are EC P-256, signatures ECDSA with SHA-256 (RFC 5280, RFC 2986).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from muster.errors import IdentityError
from muster.extras import require
from muster.service.identity import (
    LONGEST,
    ROLES,
    UNREADABLE,
    Grant,
    certificate,
    check_name,
    general_name,
    parsed,
)

if TYPE_CHECKING:
    from cryptography import exceptions, x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509 import oid
else:
    exceptions = require("cryptography.exceptions", extra="service")
    x509 = require("cryptography.x509", extra="service")
    oid = require("cryptography.x509.oid", extra="service")
    hashes = require("cryptography.hazmat.primitives.hashes", extra="service")
    serialization = require("cryptography.hazmat.primitives.serialization", extra="service")
    ec = require("cryptography.hazmat.primitives.asymmetric.ec", extra="service")

__all__ = [
    "Authority",
    "REASONS",
    "Request",
    "check_issued",
    "check_signature",
    "fingerprint",
    "issue",
    "new_authority",
    "new_key",
    "read_request",
    "request",
    "revocation_list",
    "revoked_serials",
    "sign",
]

REASONS = {
    "compromised": x509.ReasonFlags.key_compromise,
    "left": x509.ReasonFlags.cessation_of_operation,
    "replaced": x509.ReasonFlags.superseded,
    "other": x509.ReasonFlags.unspecified,
}
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
class Request:
    """A signing request that was checked: the name asked for, and the key's fingerprint."""

    name: str
    key: str
    public: ec.EllipticCurvePublicKey = field(repr=False)


def new_key() -> bytes:
    """A new private key, PEM."""
    return _key_bytes(ec.generate_private_key(ec.SECP256R1()))


def fingerprint(pem: bytes) -> str:
    """SHA-256 of the public key of a private key, a request or a certificate (all PEM).

    It is the same for a key, its request and its certificate: what two people compare by phone.
    """
    if b"PRIVATE KEY" in pem:
        return _print_of(_private(pem).public_key())
    if b"CERTIFICATE REQUEST" in pem:
        return read_request(pem).key
    return _print_of(_key_of(certificate(pem)))


def new_authority(title: str, now: datetime) -> Authority:
    """A new authority: a key, and a certificate that it signs itself."""
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


def request(name: str, key: bytes) -> bytes:
    """A signing request (PEM) for a name, by the holder of a key; it holds no secret."""
    builder = x509.CertificateSigningRequestBuilder(_named(check_name(name)))
    return bytes(builder.sign(_private(key), SHA256).public_bytes(PEM))


def read_request(pem: bytes) -> Request:
    """Check a request: its signature, its name, its kind of key; whatever else it asks is void."""
    genuine, public, names = parsed(_request_facts, pem, "the request")
    if not genuine:
        raise IdentityError("the request's signature does not fit its key; ask for it again")
    if len(names) != 1:
        raise IdentityError(f"the request has {len(names)} names; it must have one")
    return Request(check_name(names[0]), _print_of(public), _p256(public))


def issue(authority: Authority, asked: Request, grant: Grant, now: datetime) -> bytes:
    """A certificate (PEM) for whoever made a request."""
    above = certificate(authority.certificate)
    ends, last = now.astimezone(UTC) + timedelta(days=grant.days), above.not_valid_after_utc
    if ends > last:
        raise IdentityError(
            f"days={grant.days} reaches beyond the authority, which ends on {last:%d %b %Y}; "
            f"use at most {max((last - now).days, 0)}"
        )
    uri = x509.UniformResourceIdentifier(f"urn:muster:{grant.role}:{asked.name}")
    others = x509.SubjectAlternativeName([uri, *map(general_name, grant.hosts)])
    builder = _builder(_named(asked.name), above.subject, asked.public, above.public_key())
    made = (
        builder.not_valid_before(now.astimezone(UTC) - SKEW)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ROLES[grant.role]]), critical=False)
        .add_extension(others, critical=False)
        .sign(_private(authority.key), SHA256)
    )
    return bytes(made.public_bytes(PEM))


def revocation_list(
    authority: Authority, gone: Iterable[tuple[int, str, datetime]], number: int, now: datetime
) -> bytes:
    """The signed list (PEM) of what is revoked: serial, one of `REASONS`, and when.

    `number` grows with every list. A list holds until the authority ends: it is replaced when
    something changes, and never because it is old.
    """
    above = certificate(authority.certificate)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(above.subject)
        .last_update(now.astimezone(UTC))
        .next_update(above.not_valid_after_utc)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(_above(above.public_key()), critical=False)
    )
    for serial, reason, when in gone:
        entry = x509.RevokedCertificateBuilder().serial_number(serial)
        entry = entry.revocation_date(when.astimezone(UTC))
        if reason != "other":  # RFC 5280, 5.3.1: an unspecified reason is left out
            entry = entry.add_extension(x509.CRLReason(REASONS[reason]), critical=False)
        builder = builder.add_revoked_certificate(entry.build())
    return bytes(builder.sign(_private(authority.key), SHA256).public_bytes(PEM))


def revoked_serials(listed: bytes, authority: bytes) -> tuple[int, frozenset[int]]:
    """The number and the serials of a list (PEM) that the authority (PEM) signed."""
    found, number, serials = parsed(_list_facts, listed, "the revocation list")
    if not found.is_signature_valid(_p256(_key_of(certificate(authority)))):
        raise IdentityError("the revocation list is not signed by this authority; fetch its own")
    return number, serials


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
    """The authority's signature over some bytes."""
    return bytes(_private(authority.key).sign(data, ECDSA))


def check_signature(authority: bytes, signature: bytes, data: bytes) -> None:
    """Raise unless the authority (a certificate, PEM) signed these bytes."""
    try:
        _p256(_key_of(certificate(authority))).verify(signature, data, ECDSA)
    except exceptions.InvalidSignature:
        raise IdentityError(
            "the signature does not fit: it was changed on the way, or another authority made it"
        ) from None


def _key_of(found: x509.Certificate) -> Any:
    return parsed(lambda _: found.public_key(), b"", "the certificate's key")


def _request_facts(pem: bytes) -> tuple[bool, Any, list[str]]:
    found = x509.load_pem_x509_csr(pem)
    names = [str(part.value) for part in found.subject]
    return found.is_signature_valid, found.public_key(), names


def _list_facts(pem: bytes) -> tuple[x509.CertificateRevocationList, int, frozenset[int]]:
    found = x509.load_pem_x509_crl(pem)
    number = found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    return found, number, frozenset(entry.serial_number for entry in found)


def _private(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = parsed(lambda data: serialization.load_pem_private_key(data, None), pem, "the key")
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise IdentityError(f"the key is a {type(key).__name__}; an EC P-256 key is required")
    return key


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


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid.NameOID.COMMON_NAME, name)])


def _builder(name: x509.Name, above: x509.Name, key: Any, signer: Any) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder(above, name, key, x509.random_serial_number())
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(_above(signer), critical=False)
    )


def _above(signer: Any) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(signer)


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, key_cert_sign=authority, crl_sign=authority,
        content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
