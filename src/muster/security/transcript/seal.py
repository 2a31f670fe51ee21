# SPDX-License-Identifier: Apache-2.0
"""A document that a member signed: canonical JSON, with the certificates to check it by.

The file is the JSON of an object with sorted names and nothing superfluous, so that one document
has one form in bytes, and a digest of the file means the document. The signature covers
everything but itself, and begins with the document's kind: what was signed as one kind counts as
no other.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from muster.errors import AuditError, IdentityError
from muster.security.identity import Identity, holder
from muster.security.pki.certificate import check_issued, check_signature, fingerprint
from muster.security.pki.revocation import RevocationList
from muster.security.refusal import Refused, parse

__all__ = ["LARGEST", "Sealed", "Signer", "canonical", "seal", "unseal"]

FORMAT = 1
LARGEST = 1 << 24  # bytes of a document
DEPTH = 8
FIELDS = {"format", "kind", "body", "certificate", "authority", "signature"}


class Signer(Protocol):
    """A member that signs: `muster.security.pki.Notary` is one."""

    name: str
    certificate: str
    authority: bytes

    def sign(self, data: bytes) -> bytes:
        """Return the member's signature."""


@dataclass(frozen=True)
class Sealed:
    """A document whose signature fits its certificate: its body, who signed, under whom.

    `authority` is the fingerprint of the authority whose certificate lies in the document;
    whether that is the right one is for the reader to say.
    """

    body: Any
    who: Identity
    certificate: bytes
    authority_pem: bytes
    authority: str

    def check(self, when: datetime, listed: RevocationList | None = None) -> None:
        """Raise `AuditError` unless the certificate counted at that time.

        By a revocation list, if one is given, a certificate does not count from its revocation on,
        and not at all where its key was compromised: whoever has the key can write any date.
        """
        try:
            check_issued(self.certificate, self.authority_pem, when)
        except IdentityError as error:
            raise AuditError(f"its certificate does not count: {error}") from None
        for one in listed.revoked if listed is not None else ():
            if one.serial == self.who.serial and (one.reason == "compromised" or one.when <= when):
                raise AuditError(
                    f"it was signed with the certificate {one.serial:x}, which was revoked on "
                    f"{one.when:%F %H:%M} UTC ({one.reason})"
                )


def seal(kind: str, body: Any, signer: Signer) -> bytes:
    """Write a document and sign it."""
    said = {
        "format": FORMAT,
        "kind": kind,
        "body": body,
        "certificate": signer.certificate,
        "authority": signer.authority.decode("ascii"),
    }
    mark = base64.b64encode(signer.sign(_statement(said))).decode()
    return canonical(said | {"signature": mark})


def unseal(kind: str, data: bytes) -> Sealed:
    """Read a document of a kind, when its signature fits; `AuditError` for any other bytes."""
    try:
        said = parse(data, LARGEST, DEPTH)
    except Refused as refused:
        raise AuditError(f"it cannot be read ({refused.text})") from None
    if not isinstance(said, dict) or set(said) != FIELDS or canonical(said) != data:
        raise AuditError("it was altered: it is not what muster writes")
    if (said["format"], said["kind"]) != (FORMAT, kind):
        raise AuditError(
            f"it is a {said['kind']!r:.60} of format {said['format']!r:.20}; a {kind!r} of format "
            f"{FORMAT} belongs here"
        )
    pems = [said[name] for name in ("certificate", "authority", "signature")]
    if not all(isinstance(pem, str) and pem.isascii() for pem in pems):
        raise AuditError("it was altered: its certificates are none")
    certificate, authority = pems[0].encode(), pems[1].encode()
    try:
        mark = base64.b64decode(pems[2], validate=True)
        del said["signature"]
        if base64.b64encode(mark).decode() != pems[2]:  # its last bits may stand for nothing
            raise binascii.Error("its signature is not in its one form")
        check_signature(certificate, mark, _statement(said))
        who, above = holder(certificate), fingerprint(authority)
        if who.role != "site":
            raise IdentityError(f"{who.name!r}, who signed it, is a {who.role} and no site")
    except (IdentityError, binascii.Error) as error:
        raise AuditError(f"it was altered: {error}") from None
    return Sealed(said["body"], who, certificate, authority, above)


def canonical(value: Any) -> bytes:
    """Write a value of JSON in its one form, and end the line."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode() + b"\n"


def _statement(said: dict[str, Any]) -> bytes:
    """Return the bytes to sign; a bundle or a message of a session begins with other words."""
    return b"muster document\n" + canonical(said)
