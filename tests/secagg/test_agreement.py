# SPDX-License-Identifier: Apache-2.0
"""Both ends derive the same key, and a key is bound to all that it must be bound to."""

import numpy as np
import pytest

from muster.secagg.agreement import (
    Binding,
    Pairs,
    PrivateKey,
    Secrets,
    canonical,
    commitment,
    framed,
    usable,
)
from muster.secagg.mask import blend

ONE, OTHER = PrivateKey(bytes(range(32))), PrivateKey(bytes(range(1, 33)))
SHARED = ONE.agree(OTHER.public)
BINDING = Binding(b"s" * 32, b"c" * 32)


def test_rfc_7748():
    scalar = "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4"
    point = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    result = "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"
    assert PrivateKey(bytes.fromhex(scalar)).agree(point).hex() == result


def test_both_ends_agree():
    assert OTHER.agree(ONE.public) == SHARED
    assert BINDING.mask(SHARED, 3, 9) == BINDING.mask(SHARED, 9, 3)


@pytest.mark.parametrize(
    "other",
    [
        Binding(b"t" * 32, b"c" * 32).mask(SHARED, 3, 9),
        Binding(b"s" * 32, b"d" * 32).mask(SHARED, 3, 9),
        BINDING.mask(SHARED, 3, 8),
        BINDING.mask(ONE.agree(ONE.public), 3, 9),
        BINDING.own(SHARED),
    ],
    ids=["session", "model", "pair", "secret", "purpose"],
)
def test_a_mask_is_bound(other):
    assert other != BINDING.mask(SHARED, 3, 9)


def test_clients_with_different_models_hold_masks_that_do_not_cancel():
    vector = np.zeros(50_000, "<u4")
    good, bad = BINDING, Binding(BINDING.session, b"another model".ljust(32))
    blend(vector, plus=[good.mask(SHARED, 0, 1)], minus=[good.mask(SHARED, 0, 1)])
    assert not vector.any()
    blend(vector, plus=[good.mask(SHARED, 0, 1)], minus=[bad.mask(SHARED, 0, 1)])
    counts = np.bincount(vector >> 26, minlength=64)
    assert ((counts - 781.25) ** 2 / 781.25).sum() < 110  # noise: chi-square, p < 0.001


def test_sealed_shares_open_for_their_receiver_only():
    sealed = BINDING.seal(SHARED, 1, 2, b"shares")
    assert len(sealed) == 6 + 16
    assert BINDING.unseal(SHARED, 1, 2, sealed) == b"shares"
    for wrong in [
        BINDING.unseal(SHARED, 2, 1, sealed),
        BINDING.unseal(SHARED, 1, 3, sealed),
        BINDING.unseal(bytes(32), 1, 2, sealed),
        Binding(b"t" * 32, b"c" * 32).unseal(SHARED, 1, 2, sealed),
        Binding(b"s" * 32, b"d" * 32).unseal(SHARED, 1, 2, sealed),
        BINDING.unseal(SHARED, 1, 2, sealed[:-1] + bytes([sealed[-1] ^ 1])),
        BINDING.unseal(SHARED, 1, 2, b""),
    ]:
        assert wrong is None


def test_secrets_are_kept_and_read():
    drawn = Secrets.drawn(np.random.default_rng(0).bytes)
    read = Secrets.read(drawn.data)
    assert len(drawn.data) == 96 and read.data == drawn.data
    assert len({read.mask.data, read.channel.data, read.seed}) == 3


def test_secrets_do_not_print():
    drawn = Secrets.read(b"\x5a" * 96)
    assert "ZZZ" not in repr(drawn) + repr(drawn.mask) and "5a5a" not in repr(drawn)


def test_a_commitment_is_to_one_seed():
    assert commitment(bytes(32)) != commitment(b"\1" + bytes(31))


def test_points_of_low_order_are_no_keys():
    assert usable(ONE.public)
    for point in (bytes(32), b"\1" + bytes(31)):
        assert not usable(point)
        with pytest.raises(ValueError, match=r".*"):
            ONE.agree(point)


def test_a_key_has_one_form():
    """X25519 takes a twin for the same key; here it is none."""
    high = bytearray(ONE.public)
    high[31] |= 128
    small = (5).to_bytes(32, "little")
    large = (5 + 2**255 - 19).to_bytes(32, "little")
    for key, twin in ((ONE.public, bytes(high)), (small, large)):
        assert OTHER.agree(key) == OTHER.agree(twin)
        assert canonical(key) and usable(key) and not canonical(twin) and not usable(twin)


def test_what_a_dealer_signs_covers_leaves_and_proof():
    said = {BINDING.dealing(a, b) for a in (b"\1", b"\2") for b in (b"\1", b"\2")}
    assert len(said) == 4


def test_what_a_holder_signs_covers_the_pair_and_the_piece():
    said = {BINDING.complaint(*pair, d) for pair in ((1, 2), (2, 1)) for d in (b"\1", b"\2")}
    assert len(said) == 4


def test_framed_is_one_to_one():
    assert framed(b"a", b"") != framed(b"", b"a") != framed(b"a")


def test_a_consent_is_to_both_sets():
    assert len({BINDING.consent(a, b) for a in (b"\1", b"\3") for b in (b"\1", b"\3")}) == 4


def test_a_pair_in_one_process_agrees_on_what_two_processes_would():
    pairs, third = Pairs(), PrivateKey(bytes(range(2, 34)))
    found = [pairs.agree(ONE, OTHER.public), pairs.agree(ONE, third.public)]
    found += [pairs.agree(OTHER, ONE.public), pairs.agree(third, ONE.public)]
    assert found == 2 * [SHARED, ONE.agree(third.public)]
    assert not pairs.waiting  # nothing is left of a pair that agreed


def test_a_pair_with_a_point_of_low_order_agrees_on_nothing():
    pairs = Pairs()
    for _ in range(2):
        with pytest.raises(ValueError):
            pairs.agree(ONE, bytes(32))
    assert not pairs.waiting
