# SPDX-License-Identifier: Apache-2.0
"""Making identities: an authority's folder, a site's folder, and what goes between them.

certificate.py   keys, requests, certificates, revocation lists: pure functions over PEM
bundle.py        what an authority sends back, signed as a whole
keyfile.py       files written whole, with their modes
authority.py     the authority's folder: init, approve, revoke, entries
membership.py    the site's folder: ask, accept, renew, member
notary.py        signatures with a member's key, and who made one
"""

from muster.service.identity import Grant
from muster.service.pki.authority import Approval, Entry, approve, entries, init, revoke, revoked
from muster.service.pki.certificate import REASONS, fingerprint
from muster.service.pki.membership import Membership, accept, ask, member, renew
from muster.service.pki.notary import Notary

__all__ = [
    "Approval",
    "Entry",
    "Grant",
    "Membership",
    "Notary",
    "REASONS",
    "accept",
    "approve",
    "ask",
    "entries",
    "fingerprint",
    "init",
    "member",
    "renew",
    "revoke",
    "revoked",
]
