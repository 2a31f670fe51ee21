# SPDX-License-Identifier: Apache-2.0
"""The signed list of what is revoked, and which of two lists holds: pure functions over PEM.

A list (RFC 5280, section 5) is numbered, and the numbers of an authority only rise: of two lists
the one with the higher number holds. So an older list, put back, revokes nobody less: whoever
knows a number takes no list below it (see `highwater`). Two lists of one number that say different
things are a fault of the authority's folder, and neither is believed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from muster.errors import IdentityError
from muster.extras import require
from muster.security.identity import certificate, parsed
from muster.security.pki.certificate import (
    PEM,
    SHA256,
    SKEW,
    Authority,
    issuer_key,
    private_key,
    public_key,
)

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.x509 import oid
else:
    x509 = require("cryptography.x509", extra="site")
    oid = require("cryptography.x509.oid", extra="site")

__all__ = [
    "LARGEST_LIST",
    "ListMark",
    "REASONS",
    "RevocationList",
    "Revoked",
    "overtakes",
    "read_list",
    "sign_list",
]

REASONS = {
    "compromised": x509.ReasonFlags.key_compromise,
    "left": x509.ReasonFlags.cessation_of_operation,
    "replaced": x509.ReasonFlags.superseded,
    "other": x509.ReasonFlags.unspecified,
}
LARGEST_LIST = 1 << 22  # bytes of a list that is taken: some 60,000 certificates
HIGHEST = (1 << 63) - 1  # a number that is read
EXTENSIONS = {  # of a list that is whole: one that tells changes only, or a part, is none
    oid.ExtensionOID.CRL_NUMBER,
    oid.ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
}


@dataclass(frozen=True)
class Revoked:
    """One certificate that is revoked: its serial number, one of `REASONS`, and when."""

    serial: int
    reason: str
    when: datetime


@dataclass(frozen=True)
class ListMark:
    """The mark of a list: its number, and the SHA-256 of what was signed (in hex)."""

    number: int
    content: str


@dataclass(frozen=True)
class RevocationList:
    """A list whose signature was checked: its mark, what it revokes, and itself (PEM)."""

    mark: ListMark
    revoked: tuple[Revoked, ...]
    pem: bytes = field(repr=False)

    @property
    def number(self) -> int:
        """The number that only rises."""
        return self.mark.number

    @cached_property
    def serials(self) -> frozenset[int]:
        """The serial numbers of what is revoked."""
        return frozenset(one.serial for one in self.revoked)


def sign_list(authority: Authority, revoked: Iterable[Revoked], number: int) -> RevocationList:
    """Sign the list of what is revoked.

    The same certificates under the same number give the same list, whenever it is signed: its date
    is that of its newest entry. A list holds until the authority ends: it is replaced when
    something changes, and never because it is old.
    """
    above = certificate(authority.certificate)
    gone = tuple(sorted(revoked, key=lambda one: one.serial))
    made = max((one.when for one in gone), default=above.not_valid_before_utc + SKEW)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(above.subject)
        .last_update(min(made.astimezone(UTC), above.not_valid_after_utc - SKEW))
        .next_update(above.not_valid_after_utc)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(issuer_key(above.public_key()), critical=False)
    )
    for one in gone:
        entry = x509.RevokedCertificateBuilder().serial_number(one.serial)
        entry = entry.revocation_date(one.when.astimezone(UTC))
        if one.reason != "other":  # RFC 5280, 5.3.1: an unspecified reason is left out
            entry = entry.add_extension(x509.CRLReason(REASONS[one.reason]), critical=False)
        builder = builder.add_revoked_certificate(entry.build())
    made_list = builder.sign(private_key(authority.key), SHA256)
    return read_list(made_list.public_bytes(PEM), authority.certificate)


def read_list(pem: bytes, authority: bytes) -> RevocationList:
    """Read a list (PEM) that the authority (PEM) signed. Raises `IdentityError` for any other."""
    if len(pem) > LARGEST_LIST:
        raise IdentityError(
            f"the revocation list has {len(pem)} bytes; at most {LARGEST_LIST} are read: fetch "
            f"the authority's own"
        )
    found: RevocationList
    listed, found = parsed(_facts, pem, "the revocation list")
    if not listed.is_signature_valid(public_key(authority)):
        raise IdentityError("the revocation list is not signed by this authority; fetch its own")
    return found


def overtakes(known: ListMark, found: ListMark, where: object) -> bool:
    """Return whether a list that was found `where` takes the place of the one that is known.

    False for the same list. Raises `IdentityError` for an older one, and for another list of the
    same number.

    >>> overtakes(ListMark(2, "a"), ListMark(3, "b"), "revoked.pem")
    True
    """
    if found.number < known.number:
        raise IdentityError(
            f"{where} is the revocation list number {found.number}, and number {known.number} is "
            f"known here: an older one was put back; copy the authority's newest revoked.pem there"
        )
    if found.number == known.number and found.content != known.content:
        raise IdentityError(
            f"two lists have the number {found.number}: {where} and the one that is known here "
            f"({found.content[:12]} and {known.content[:12]}); ask the authority which one is its "
            f"own, and for one with a higher number"
        )
    return found.number > known.number


def _facts(pem: bytes) -> tuple[x509.CertificateRevocationList, RevocationList]:
    found = x509.load_pem_x509_crl(pem)
    number = found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    odd = {part.oid for part in found.extensions} - EXTENSIONS
    if odd or not 0 <= number <= HIGHEST:
        raise ValueError("it is no whole list with a number from 0 up")
    mark = ListMark(number, sha256(found.tbs_certlist_bytes).hexdigest())
    revoked = tuple(
        Revoked(one.serial_number, _reason(one), one.revocation_date_utc) for one in found
    )
    return found, RevocationList(mark, revoked, found.public_bytes(PEM))


def _reason(one: Any) -> str:
    try:
        said = one.extensions.get_extension_for_class(x509.CRLReason).value.reason
    except x509.ExtensionNotFound:
        return "other"
    return next((name for name, flag in REASONS.items() if flag is said), "other")
