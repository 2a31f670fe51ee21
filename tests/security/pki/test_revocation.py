# SPDX-License-Identifier: Apache-2.0
"""A list is the authority's own, whole, and numbered; of two, one rule says which one holds."""

import base64
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

pytest.importorskip("cryptography")

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from muster.errors import IdentityError
from muster.security.pki.certificate import new_authority
from muster.security.pki.revocation import (
    LARGEST_LIST,
    REASONS,
    ListMark,
    Revoked,
    overtakes,
    read_list,
    sign_list,
)

ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")  # RFC 5758, 3.2
NOW = datetime(2026, 5, 4, 12, 30, 15, tzinfo=UTC)
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256's group


@pytest.fixture(scope="module")
def authority():
    return new_authority("Heart study", NOW - timedelta(days=9))


GONE = [
    Revoked(900 + place, reason, NOW + timedelta(days=place))
    for place, reason in enumerate(REASONS)
]


def test_what_is_signed_is_read(authority):
    made = sign_list(authority, GONE, 7)
    found = read_list(made.pem, authority.certificate)
    assert found == made and found.number == 7
    assert found.revoked == tuple(GONE) and found.serials == {900, 901, 902, 903}
    outside = x509.load_pem_x509_crl(made.pem)  # as another library reads it
    assert outside.get_revoked_certificate_by_serial_number(901).revocation_date_utc == GONE[1].when
    assert outside.get_revoked_certificate_by_serial_number(899) is None
    empty = sign_list(authority, [], 0)
    assert (empty.number, empty.serials) == (0, frozenset())


def test_the_same_certificates_under_one_number_are_the_same_list_whenever_it_is_signed(authority):
    first, again = (sign_list(authority, gone, 3) for gone in (GONE, GONE[::-1]))
    assert first.mark == again.mark and first.pem != again.pem  # ECDSA draws a number
    for other in (
        sign_list(authority, GONE, 4),
        sign_list(authority, GONE[1:], 3),
        sign_list(authority, [replace(GONE[0], reason="left"), *GONE[1:]], 3),
        sign_list(authority, [replace(GONE[0], when=NOW - timedelta(1)), *GONE[1:]], 3),
    ):
        assert other.mark != first.mark


def test_a_signature_that_anybody_can_turn_makes_no_other_list(authority):
    """(r, s) and (r, n - s) sign the same: a stranger can make the second from the first."""
    made = sign_list(authority, GONE, 3)
    outside = x509.load_pem_x509_crl(made.pem)
    r, s = decode_dss_signature(outside.signature)
    turned = der(0x03, b"\0" + encode_dss_signature(r, ORDER - s))
    twin = base64.encodebytes(der(0x30, outside.tbs_certlist_bytes + ECDSA_SHA256 + turned))
    found = read_list(
        b"-----BEGIN X509 CRL-----\n%b-----END X509 CRL-----\n" % twin, authority.certificate
    )
    assert found.pem != made.pem and found.mark == made.mark
    assert not overtakes(made.mark, found.mark, "it")


def der(tag, body):
    """A value in DER (X.690, 8.1)."""
    size = len(body)
    long = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag]) + (bytes([size]) if size < 128 else bytes([128 + len(long)]) + long) + body


def test_white_space_and_words_around_a_list_are_not_kept(authority):
    made = sign_list(authority, GONE, 3)
    found = read_list(b"words\n" + made.pem + b"\n\nmore words\n", authority.certificate)
    assert found.pem == made.pem


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"-----BEGIN X509 CRL-----\n-----END X509 CRL-----\n"]
)
def test_what_is_no_list(authority, data):
    with pytest.raises(IdentityError, match="the revocation list cannot be read"):
        read_list(data, authority.certificate)


def test_every_cut_and_every_changed_byte_is_refused(authority):
    made = sign_list(authority, GONE[:1], 3)
    raw = base64.b64decode(b"".join(made.pem.splitlines()[1:-1]))
    for place in range(len(raw)):
        for bad in (raw[:place], raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]):
            text = base64.encodebytes(bad)
            try:
                found = read_list(
                    b"-----BEGIN X509 CRL-----\n%b-----END X509 CRL-----\n" % text,
                    authority.certificate,
                )
            except IdentityError:
                continue
            assert found.mark == made.mark, place  # the count of unused bits after the signature


def test_a_list_of_another_authority_of_the_same_name_is_refused(authority):
    other = new_authority("Heart study", NOW)
    with pytest.raises(IdentityError, match="not signed by this authority"):
        read_list(sign_list(other, [], 9).pem, authority.certificate)


def test_a_list_that_is_too_large_is_not_read(authority):
    with pytest.raises(IdentityError, match=f"at most {LARGEST_LIST} are read"):
        read_list(b" " * (LARGEST_LIST + 1), authority.certificate)


def signed_by_hand(authority, *extensions):
    """A list by the authority's key with any extensions."""
    above = x509.load_pem_x509_certificate(authority.certificate)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(above.subject)
        .last_update(NOW)
        .next_update(NOW + timedelta(days=1))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    key = serialization.load_pem_private_key(authority.key, None)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize(
    "extensions",
    [
        [],  # no number
        [(x509.CRLNumber(1 << 64), False)],
        [(x509.CRLNumber(5), False), (x509.DeltaCRLIndicator(4), True)],  # changes only
        [
            (x509.CRLNumber(5), False),
            (
                x509.IssuingDistributionPoint(
                    full_name=None,
                    relative_name=None,
                    only_contains_user_certs=False,
                    only_contains_ca_certs=True,
                    only_some_reasons=None,
                    indirect_crl=False,
                    only_contains_attribute_certs=False,
                ),
                True,
            ),
        ],
    ],
)
def test_a_list_that_is_a_part_or_has_no_number_is_none_though_it_is_signed(authority, extensions):
    with pytest.raises(IdentityError, match="cannot be read"):
        read_list(signed_by_hand(authority, *extensions), authority.certificate)


def test_the_higher_number_holds():
    low, high = ListMark(3, "aa"), ListMark(12, "bb")
    assert overtakes(low, high, "it") and not overtakes(low, low, "it")
    with pytest.raises(IdentityError, match=r"it is the .* number 3, and number 12 is known here"):
        overtakes(high, low, "it")
    with pytest.raises(IdentityError, match="copy the authority's newest"):
        overtakes(high, low, "it")
    with pytest.raises(IdentityError, match=r"two lists have the number 3.*cc and aa"):
        overtakes(low, ListMark(3, "cc"), "it")
