# SPDX-License-Identifier: Apache-2.0
"""The bundle that an authority sends back to a site: one JSON file that its key has signed.

No secret is in it. The signature covers every field, so that the server's address cannot be
changed on the way either; who replaces a whole bundle by their own, with their own authority,
is found out by the authority's fingerprint, which `muster pki accept` shows and can require.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

from muster.errors import IdentityError
from muster.security.identity import Identity, admit, holder
from muster.security.pki.certificate import (
    Authority,
    check_issued,
    check_signature,
    fingerprint,
    sign,
)
from muster.security.pki.revocation import read_list

__all__ = ["Bundle", "fits", "seal", "unseal"]

FORMAT = 1
LARGEST = 1 << 24  # bytes worth parsing
SEALED = b"muster bundle\n"  # what the signature begins over, so that it fits nothing else


@dataclass(frozen=True)
class Bundle:
    """A certificate, its authority's and the revocation list (PEM), and whom they are for.

    Fields: `name` and `role` of the holder; `server`, the federation's https address;
    `certificate`, `authority`, `revoked`.
    """

    name: str
    role: str
    server: str
    certificate: str
    authority: str
    revoked: str


def seal(bundle: Bundle, authority: Authority) -> bytes:
    """Return the bundle as JSON, signed by the authority."""
    body = {"format": FORMAT} | asdict(bundle)
    mark = base64.b64encode(sign(authority, _canonical(body))).decode()
    return (json.dumps(body | {"signature": mark}, indent=1) + "\n").encode()


def unseal(data: bytes) -> Bundle:
    """Return the bundle, when its format is known and the authority named in it has signed it."""
    body = _object(data)
    if body.get("format") != FORMAT:
        raise IdentityError(
            f"the bundle has format {body.get('format')!r}; this muster reads {FORMAT}: "
            f"update muster, or ask for a bundle of that format"
        )
    mark = body.pop("signature", None)
    names = {part.name for part in fields(Bundle)}
    if set(body) != names | {"format"} or not all(_text(body[name]) for name in names):
        raise IdentityError("the bundle has other fields than it must have; ask for it again")
    try:
        signature = base64.b64decode(str(mark), validate=True)
    except binascii.Error:
        signature = b""
    check_signature(body["authority"].encode(), signature, _canonical(body))
    del body["format"]
    return Bundle(**body)


def fits(bundle: Bundle, key: bytes, now: datetime) -> Identity:
    """Return the identity that the bundle gives the holder of a private key (PEM).

    Raises `IdentityError` when the certificate belongs to another key or another name, does not
    come from the authority, is revoked, or is not valid now.
    """
    certificate, authority = bundle.certificate.encode(), bundle.authority.encode()
    who = holder(certificate)
    if fingerprint(certificate) != fingerprint(key):
        raise IdentityError(
            f"the certificate of {who.name!r} belongs to another key than the one here; "
            f"accept the bundle where its request was made"
        )
    if (who.name, who.role) != (bundle.name, bundle.role):
        raise IdentityError(
            f"the bundle is for the {bundle.role} {bundle.name!r}, its certificate for the "
            f"{who.role} {who.name!r}; ask for it again"
        )
    check_issued(certificate, authority, now)
    listed = read_list(bundle.revoked.encode(), authority)
    return admit(who, bundle.role, listed.serials, now)


def _text(value: Any) -> bool:
    return isinstance(value, str) and value.isascii()


def _canonical(body: dict[str, Any]) -> bytes:
    return SEALED + json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


def _object(data: bytes) -> dict[str, Any]:
    try:
        body = json.loads(data) if len(data) <= LARGEST else None
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise IdentityError("this is no bundle of muster; a bundle is the JSON file of an approval")
    return body
