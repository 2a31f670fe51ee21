# SPDX-License-Identifier: Apache-2.0
"""Making identities: an authority's folder, a site's folder, and what goes between them.

certificate.py   keys, requests, certificates: pure functions over PEM
revocation.py    the signed list of what is revoked, and which of two holds: pure
bundle.py        what an authority sends back, signed as a whole
keyfile.py       files written whole, with their modes
highwater.py     the newest list that a folder has seen, which no older one replaces
credentials.py   what a server hands a member about its peers
authority.py     the authority's folder: init, approve, revoke, entries
membership.py    the site's folder: ask, accept, renew, member
notary.py        signatures with a member's key, who made one, and who a peer is
server_trust.py  TLS for a site, with no server that is revoked
"""

from muster.security.identity import Grant
from muster.security.pki.authority import (
    Approval,
    CertificateEntry,
    approve,
    entries,
    init,
    revoke,
    revoked,
    unconfirmed,
)
from muster.security.pki.certificate import fingerprint
from muster.security.pki.highwater import Revocations
from muster.security.pki.membership import Membership, accept, ask, member, renew
from muster.security.pki.notary import Notary
from muster.security.pki.revocation import REASONS
from muster.security.pki.server_trust import client_context

__all__ = [
    "Approval",
    "CertificateEntry",
    "Grant",
    "Membership",
    "Notary",
    "REASONS",
    "Revocations",
    "accept",
    "approve",
    "ask",
    "client_context",
    "entries",
    "fingerprint",
    "init",
    "member",
    "renew",
    "revoke",
    "revoked",
    "unconfirmed",
]
