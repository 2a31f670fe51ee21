# SPDX-License-Identifier: Apache-2.0
"""Credentials of a member's peers from the server: their certificates, the revocation list.

One JSON object, `{"format": 2, "certificates": {NAME: PEM, …}, "revoked": PEM}`. The list travels
with the certificates that it judges, so a site need not be told by anybody who was revoked, and a
server that lags is found out (see `Notary.heard`). Nothing in it is believed: this door looks at
shape and size alone, the notary at signatures.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from muster.security.identity import NAME
from muster.security.pki.revocation import LARGEST_LIST
from muster.security.refusal import malformed, parse

__all__ = ["Credentials", "read_credentials"]

FORMAT = 2  # 1 was an object of certificates by name, without a list
LARGEST = 1 << 26  # bytes of all of it
LARGEST_CERTIFICATE = 1 << 13  # bytes


@dataclass(frozen=True)
class Credentials:
    """Certificates by the name of their holder, and the revocation list; all PEM.

    >>> said = Credentials({"lyon": "a certificate"}, "a list")
    >>> read_credentials(said.to_json()) == said
    True
    """

    certificates: Mapping[str, str]
    revoked: str

    def to_json(self) -> bytes:
        """Return the message as it travels."""
        said = {"format": FORMAT, "certificates": dict(self.certificates), "revoked": self.revoked}
        return json.dumps(said, separators=(",", ":")).encode()


def read_credentials(data: bytes) -> Credentials:
    """Read what a server handed out. Raises `Refused`, and nothing else, whatever the bytes."""
    said = parse(data, LARGEST, 2)
    if not isinstance(said, dict) or set(said) != {"format", "certificates", "revoked"}:
        malformed("what was handed out", said, "an object of format, certificates and revoked")
    if said["format"] != FORMAT or isinstance(said["format"], bool):
        malformed("its format", said["format"], f"{FORMAT}; update the older side")
    found = said["certificates"]
    if not isinstance(found, dict):
        malformed("certificates", found, "an object of certificates by name")
    for name, pem in found.items():
        if not re.fullmatch(NAME, name):
            malformed("the name of a certificate", name, "the name of a member")
        if not _pem(pem, LARGEST_CERTIFICATE):
            malformed(
                f"the certificate of {name}", pem, f"PEM of at most {LARGEST_CERTIFICATE} bytes"
            )
    if not _pem(said["revoked"], LARGEST_LIST):
        malformed("the revocation list", said["revoked"], f"PEM of at most {LARGEST_LIST} bytes")
    return Credentials(found, said["revoked"])


def _pem(value: Any, most: int) -> bool:
    return isinstance(value, str) and value.isascii() and 0 < len(value) <= most
