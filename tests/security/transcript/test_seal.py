# SPDX-License-Identifier: Apache-2.0
"""A document that one byte was changed in is none, and no other signature stands for it."""

import json
import string
from datetime import timedelta

import pytest

pytest.importorskip("cryptography")

from tests.security.transcript.scene import NOW, identity

from muster.errors import AuditError
from muster.security import pki
from muster.security.pki.revocation import read_list
from muster.security.transcript.seal import LARGEST, canonical, seal, unseal

# A changed byte may make a serial negative, at which cryptography warns before it is refused.
pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number which wasn't positive")
BODY = {"b": [1, "é"], "a": {"x": None}}


@pytest.fixture
def ann(tmp_path):
    return identity(tmp_path)


def test_a_document_says_who_signed_it_and_under_whom(ann):
    found = unseal("thing", seal("thing", BODY, ann))
    assert found.body == BODY and found.who.name == "ann"
    assert found.authority == pki.fingerprint(ann.authority)
    found.check(NOW)


def test_a_document_in_which_any_byte_was_changed_is_refused(ann):
    good = seal("thing", BODY, ann)
    for place in range(len(good)):
        for bit in (1, 32):
            with pytest.raises(AuditError):
                unseal("thing", good[:place] + bytes([good[place] ^ bit]) + good[place + 1 :])
    for place in range(0, len(good), 7):
        with pytest.raises(AuditError):
            unseal("thing", good[:place])
    for bad in (good + b"\n", b" " + good, good + good, b"", b"\xff", b"[" * 99):
        with pytest.raises(AuditError):
            unseal("thing", bad)
    with pytest.raises(AuditError, match="cannot be read"):
        unseal("thing", b" " * (LARGEST + 1))


def test_a_signature_has_one_form(ann):
    """The last letter of base64 holds bits that stand for nothing: another one is another file."""
    good = json.loads(seal("thing", BODY, ann))
    while not good["signature"].endswith("="):  # one in three signatures fills its last letter
        good = json.loads(seal("thing", BODY, ann))
    text = good["signature"].rstrip("=")
    alphabet = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
    twin = text[:-1] + alphabet[alphabet.index(text[-1]) ^ 1]
    good["signature"] = twin + "=" * (len(good["signature"]) - len(text))
    with pytest.raises(AuditError, match="one form"):
        unseal("thing", canonical(good))


def test_every_field_is_signed(ann, tmp_path):
    bob = identity(tmp_path, "bob")
    said = json.loads(seal("thing", BODY, ann))
    other = json.loads(seal("thing", BODY, bob))
    for name, value in {
        "body": {"b": [2, "é"], "a": {"x": None}},
        "kind": "other",
        "format": 2,
        "certificate": other["certificate"],
        "signature": other["signature"],
    }.items():
        with pytest.raises(AuditError):
            unseal("thing", canonical(said | {name: value}))


def test_one_kind_counts_as_no_other_though_it_is_signed(ann):
    with pytest.raises(AuditError, match="a 'thing' of format 1 belongs here"):
        unseal("thing", seal("other", BODY, ann))


def test_a_signature_made_for_something_else_is_none_here(ann):
    """The key signs sessions, too: a server must not be able to have a transcript signed."""
    said = {
        "format": 1,
        "kind": "thing",
        "body": BODY,
        "certificate": ann.certificate,
        "authority": ann.authority.decode(),
    }
    bare = canonical(said)

    class Tricked:
        name, certificate, authority = ann.name, ann.certificate, ann.authority

        def sign(self, data):
            return ann.sign(bare)  # without the words that a document begins with

    with pytest.raises(AuditError, match="does not fit"):
        unseal("thing", seal("thing", BODY, Tricked()))


def test_a_server_signs_no_document_of_a_site(tmp_path):
    identity(tmp_path)
    request, _ = pki.ask(tmp_path / "hub", "hub")
    grant = pki.Grant("https://hub:8443", "server")
    bundle = pki.approve(tmp_path / "authority", request, grant, NOW).bundle
    pki.accept(bundle, tmp_path / "hub", NOW)
    with pytest.raises(AuditError, match="'hub', who signed it, is a server and no site"):
        unseal("thing", seal("thing", BODY, pki.Notary(tmp_path / "hub")))


def test_a_certificate_counts_from_its_first_day_to_its_last(ann):
    found = unseal("thing", seal("thing", BODY, ann))
    for when in (NOW - timedelta(days=1), NOW + timedelta(days=366)):
        with pytest.raises(AuditError, match="certificate does not count"):
            found.check(when)


def test_a_certificate_of_another_authority_does_not_count_under_this_one(ann, tmp_path):
    other = identity(tmp_path / "other", "ann")

    class Mixed:
        name, certificate, authority = ann.name, ann.certificate, other.authority
        sign = ann.sign

    with pytest.raises(AuditError, match="does not come from this authority"):
        unseal("thing", seal("thing", BODY, Mixed())).check(NOW)


@pytest.mark.parametrize(
    ("reason", "days", "counts"),
    [("left", 1, True), ("left", -1, False), ("replaced", 1, True), ("compromised", 1, False)],
)
def test_what_was_signed_before_a_revocation_counts_unless_the_key_was_stolen(
    ann, tmp_path, reason, days, counts
):
    found = unseal("thing", seal("thing", BODY, ann))
    hq = tmp_path / "authority"
    pki.revoke(hq, "ann", reason, NOW + timedelta(days=days))
    listed = read_list((hq / "revoked.pem").read_bytes(), (hq / "authority.pem").read_bytes())
    if counts:
        found.check(NOW, listed)
    else:
        with pytest.raises(AuditError, match=rf"which was revoked on .*\({reason}\)"):
            found.check(NOW, listed)
