# SPDX-License-Identifier: Apache-2.0
"""Certificates as folders hold them: renewed beside one that is still valid, and joined anew."""

import shutil
from datetime import UTC, datetime

from muster.security import pki
from muster.security.identity import Grant


def joined(authority, home, name, grant):
    """A folder in which a member has its identity."""
    asked, _ = pki.ask(home, name)
    now = datetime.now(UTC)
    pki.accept(pki.approve(authority, asked, grant, now).bundle, home, now)
    return home


def renewal(authority, home, grant):
    """The bundle that renews a folder's identity; nobody has taken it yet."""
    asked, _ = pki.renew(home)
    return pki.approve(authority, asked, grant, datetime.now(UTC), renewal=True).bundle


def renewed(home, name):
    """A copy of a member's folder below `home`, renewed there: both identities are valid."""
    again = home / "again"
    shutil.copytree(home / name, again)
    bundle = renewal(home / "authority", again, Grant("https://hub:8443", "site"))
    pki.accept(bundle, again, datetime.now(UTC))
    return again
