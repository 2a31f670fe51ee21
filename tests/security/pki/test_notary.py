# SPDX-License-Identifier: Apache-2.0
"""A signature counts when a member of the same authority made it, under its own name, and today."""

from datetime import UTC, datetime, timedelta

import pytest

pytest.importorskip("cryptography")

from muster.errors import IdentityError
from muster.security import pki
from muster.security.identity import IDENTITY

NOW = datetime.now(UTC)


@pytest.fixture
def home(tmp_path):
    return made(tmp_path, "ann", "bob")


def made(home, *names, role="site", days=365):
    """An authority, if there is none, and the folders of some members."""
    authority = home / "authority"
    if not authority.exists():
        pki.init(authority, "notaries", NOW)
    for name in names:
        request, _ = pki.ask(home / name, name)
        grant = pki.Grant("https://hub:8443", role=role, days=days)
        pki.accept(pki.approve(authority, request, grant, NOW).bundle, home / name, NOW)
    return home


def shown(home, name):
    pem = (home / name / IDENTITY).read_text()
    return pem[pem.index("-----BEGIN CERTIFICATE") :]


def test_a_member_vouches_for_another(home):
    ann, bob = pki.Notary(home / "ann"), pki.Notary(home / "bob")
    mark = bob.sign(b"words")
    assert bob.name == "bob" and len(mark) <= 72
    assert ann.vouch("bob", shown(home, "bob"), b"words", mark)
    assert not ann.vouch("bob", shown(home, "bob"), b"other words", mark)
    assert not ann.vouch("bob", shown(home, "bob"), b"words", mark[:-1])
    assert not ann.vouch("ann", shown(home, "bob"), b"words", mark)  # another name
    assert not ann.vouch("bob", shown(home, "ann"), b"words", mark)
    assert not ann.vouch("bob", "", b"words", mark) and not ann.vouch("bob", "x", b"", b"")


def test_what_was_signed_stays_signed_whatever_becomes_of_its_member(home):
    """A record reads the same at every time."""
    hub, bob = pki.Notary(home / "ann", now=lambda: NOW + timedelta(days=9999)), home / "bob"
    mark = pki.Notary(bob).sign(b"words")
    pki.revoke(home / "authority", "bob", "left", NOW)
    (home / "ann" / "revoked.pem").write_bytes((home / "authority" / "revoked.pem").read_bytes())
    assert hub.attest("bob", shown(home, "bob"), b"words", mark)
    assert not hub.vouch("bob", shown(home, "bob"), b"words", mark)
    assert not hub.attest("bob", shown(home, "bob"), b"other words", mark)
    assert not hub.attest("ann", shown(home, "bob"), b"words", mark)
    assert not hub.attest("bob", shown(home, "ann"), b"words", mark)
    assert not hub.attest("bob", "", b"words", mark) and not hub.attest("bob", "x", b"", b"")


def test_another_authority_is_nobody(home, tmp_path):
    strange = made(tmp_path / "other", "bob")
    mark = pki.Notary(strange / "bob").sign(b"words")
    assert not pki.Notary(home / "ann").vouch("bob", shown(strange, "bob"), b"words", mark)


def test_a_server_is_no_site(home):
    made(home, "hub", role="server")
    mark = pki.Notary(home / "hub").sign(b"words")
    assert not pki.Notary(home / "ann").vouch("hub", shown(home, "hub"), b"words", mark)


def test_a_certificate_has_its_days(home):
    made(home, "eve", days=1)
    mark = pki.Notary(home / "eve").sign(b"words")
    for days, valid in ((0, True), (2, False)):
        ann = pki.Notary(home / "ann", now=lambda days=days: NOW + timedelta(days=days))
        assert ann.vouch("eve", shown(home, "eve"), b"words", mark) == valid


def test_who_is_revoked_counts_until_one_looks(home):
    ann, mark = pki.Notary(home / "ann"), pki.Notary(home / "bob").sign(b"words")
    assert ann.vouch("bob", shown(home, "bob"), b"words", mark)
    pki.revoke(home / "authority", "bob", "left", NOW)
    (home / "ann" / "revoked.pem").write_bytes((home / "authority" / "revoked.pem").read_bytes())
    ann.look()
    assert not ann.vouch("bob", shown(home, "bob"), b"words", mark)


def test_a_folder_without_an_identity(tmp_path):
    with pytest.raises(IdentityError):
        pki.Notary(tmp_path)


def test_a_peer_is_known_by_name_organisation_serial_and_key(home):
    request, mark = pki.ask(home / "zoe", "zoe", "Inserm")
    grant = pki.Grant("https://hub:8443", organisation="Inserm")
    approval = pki.approve(home / "authority", request, grant, NOW)
    pki.accept(approval.bundle, home / "zoe", NOW)
    ann, zoe = pki.Notary(home / "ann"), pki.Notary(home / "zoe")
    found = ann.peer("zoe", shown(home, "zoe"))
    assert (found.name, found.organisation) == ("zoe", "Inserm")
    assert (found.serial, found.key) == (approval.entry.serial, mark)
    assert found == zoe.me and zoe.certificate == shown(home, "zoe")
    assert ann.me.organisation == "ann"


def test_no_peer_is_known_by_a_certificate_that_does_not_count(home, tmp_path):
    strange = made(tmp_path / "other", "bob")
    ann = pki.Notary(home / "ann")
    for name, pem in (
        ("ann", shown(home, "bob")),  # another's
        ("bob", shown(strange, "bob")),  # another authority's
        ("bob", ""),
        ("bob", "é"),
    ):
        with pytest.raises(IdentityError):
            ann.peer(name, pem)


def test_a_certificate_that_ends_meanwhile_counts_no_more(home):
    """It was looked at before, and is looked at again: whoever runs for weeks is not deceived."""
    made(home, "eve", days=1)
    clock = [NOW]
    ann, mark = pki.Notary(home / "ann", now=lambda: clock[0]), pki.Notary(home / "eve").sign(b"x")
    assert ann.vouch("eve", shown(home, "eve"), b"x", mark)
    clock[0] = NOW + timedelta(days=2)
    assert not ann.vouch("eve", shown(home, "eve"), b"x", mark)


def test_a_room_is_known_as_a_whole_or_not_at_all(home):
    made(home, "eve")
    ann, certificates = pki.Notary(home / "ann"), {n: shown(home, n) for n in ("eve", "bob")}
    assert [one.name for one in ann.room(certificates)] == ["bob", "eve"] and ann.room({}) == ()
    pki.revoke(home / "authority", "eve", "left", NOW)
    ann.heard((home / "authority/revoked.pem").read_text())
    with pytest.raises(IdentityError, match="of 'eve' is revoked"):
        ann.room(certificates)
