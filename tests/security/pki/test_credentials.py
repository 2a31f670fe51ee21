# SPDX-License-Identifier: Apache-2.0
"""Credentials of peers from a server are read strictly, and the list in them is learned from."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("cryptography")

from tests.security.pki.test_notary import NOW, made, shown

from muster.errors import IdentityError
from muster.security import pki
from muster.security.pki.credentials import Credentials, read_credentials
from muster.security.refusal import RefusalReason, Refused

GOOD = {"format": 2, "certificates": {"lyon": "pem", "oslo": "pem"}, "revoked": "pem"}


def test_what_is_handed_out_is_read():
    said = Credentials({"lyon": "a\nb\n", "paris-2": "c"}, "list\n")
    assert read_credentials(said.to_json()) == said
    assert read_credentials(Credentials({}, "list").to_json()) == Credentials({}, "list")
    assert read_credentials(json.dumps(GOOD).encode()).certificates == GOOD["certificates"]


@pytest.mark.parametrize(
    "change",
    [
        {"format": 1},
        {"format": 3},
        {"format": True},
        {"format": "2"},
        {"more": 1},
        {"certificates": []},
        {"certificates": None},
        {"certificates": {"lyon": 7}},
        {"certificates": {"lyon": ""}},
        {"certificates": {"lyon": {"a": "b"}}},
        {"certificates": {"Lyon": "pem"}},
        {"certificates": {"": "pem"}},
        {"certificates": {"lyon": "é"}},
        {"certificates": {"lyon": "x" * 8193}},
        {"revoked": ""},
        {"revoked": None},
        {"revoked": ["pem"]},
        {"revoked": "x" * ((1 << 22) + 1)},
    ],
)
def test_another_shape_is_malformed(change):
    with pytest.raises(Refused) as caught:
        read_credentials(json.dumps(GOOD | change).encode())
    assert caught.value.reason is RefusalReason.MALFORMED and len(caught.value.text) < 300


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"7",
        b'"x"',
        b"{}",
        b"\xff",
        b"[" * 99,
        b'{"lyon":"pem"}',
        b'{"format":2,"format":2,"certificates":{},"revoked":"x"}',
        b'{"format":2,"certificates":{"a":"x","a":"y"},"revoked":"x"}',
    ],
)  # as of an earlier muster, and worse
def test_what_is_no_such_message_is_refused(data):
    with pytest.raises(Refused):
        read_credentials(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_a_reason_or_read(data):
    try:
        read_credentials(data)
    except Refused as refused:
        assert refused.text


def test_too_much_is_too_large():
    with pytest.raises(Refused) as caught:
        read_credentials(b" " * ((1 << 26) + 1))
    assert caught.value.reason is RefusalReason.TOO_LARGE


@pytest.fixture
def home(tmp_path):
    return made(tmp_path, "ann", "bob", "eve")


def handed(home, listed):
    """Return the credentials an honest server of this federation would hand out."""
    certificates = {name: shown(home, name) for name in ("bob", "eve")}
    return read_credentials(Credentials(certificates, listed).to_json())


def test_a_site_learns_from_the_list_that_comes_with_the_roster(home):
    ann, mark = pki.Notary(home / "ann"), pki.Notary(home / "eve").sign(b"words")
    pki.revoke(home / "authority", "eve", "compromised", NOW)
    came = handed(home, (home / "authority/revoked.pem").read_text())
    assert ann.vouch("eve", came.certificates["eve"], b"words", mark)
    assert ann.heard(came.revoked) and not ann.heard(came.revoked)
    assert not ann.vouch("eve", came.certificates["eve"], b"words", mark)
    with pytest.raises(IdentityError, match="is revoked"):
        ann.peer("eve", came.certificates["eve"])
    assert ann.peer("bob", came.certificates["bob"]).name == "bob"
    again = pki.Notary(home / "ann")  # a restart remembers
    assert not again.vouch("eve", came.certificates["eve"], b"words", mark)


def test_a_site_makes_no_sum_with_a_server_whose_list_is_older_than_its_own(home):
    old = (home / "authority/revoked.pem").read_text()
    pki.revoke(home / "authority", "eve", "compromised", NOW)
    ann = pki.Notary(home / "ann")
    assert ann.heard((home / "authority/revoked.pem").read_text())
    with pytest.raises(IdentityError, match=r"server's .* number 0, and this site knows number 1"):
        ann.heard(handed(home, old).revoked)


def test_a_server_cannot_pass_off_a_list_of_its_own(home, tmp_path):
    strange = made(tmp_path / "other", "bob")
    pki.revoke(strange / "authority", "bob", "left", NOW)
    ann = pki.Notary(home / "ann")
    with pytest.raises(IdentityError, match="not signed by this authority"):
        ann.heard((strange / "authority/revoked.pem").read_text())
    for text in ("x", "é", "-----BEGIN X509 CRL-----\n-----END X509 CRL-----\n"):
        with pytest.raises(IdentityError):
            ann.heard(text)
    assert ann.revocations.current.number == 0
