# SPDX-License-Identifier: Apache-2.0
"""A share fits its leaf and lies on its dealer's polynomial; nothing else does."""

import numpy as np
import pytest

from muster.secagg.agreement import Binding
from muster.secagg.commitments import (
    KINDS,
    LEAVES,
    ROWS,
    VALUES,
    challenge,
    deal,
    expected,
    leaf,
    lies_on,
    proof_size,
    root,
)
from muster.secagg.shamir import LIMBS, PRIME, combine, joined, vandermonde, weights

BINDING = Binding(b"s" * 32, b"c" * 32)
SECRETS = (bytes(range(32)), bytes(range(1, 33)))
HOLDERS, THRESHOLD, DEALER = np.array([0, 2, 3, 5, 7, 8, 9]), 4, 3


def dealt(seed=0, threshold=THRESHOLD):
    entropy = np.random.default_rng(seed).bytes
    return deal(BINDING, DEALER, SECRETS, HOLDERS, threshold, entropy)


def values(made, threshold=THRESHOLD):
    """Return the values of the proof at each holder's point."""
    proof = np.frombuffer(made.proof, "<u2")[None]
    return expected(proof, vandermonde(HOLDERS + 1, threshold))[0]


def checked(made, place, share, threshold=THRESHOLD):
    rho = challenge(BINDING, DEALER, root(made.leaves))
    return lies_on(share, rho, values(made, threshold)[place].tobytes())


def test_every_share_fits_its_leaf_and_its_polynomial():
    made = dealt()
    assert made.shares.shape == (len(HOLDERS), KINDS, ROWS)
    assert len(made.leaves) == LEAVES * len(HOLDERS) and len(made.proof) == proof_size(THRESHOLD)
    assert values(made).shape == (len(HOLDERS), VALUES // 2)
    for place, holder in enumerate(HOLDERS.tolist()):
        mine = made.leaves[LEAVES * place : LEAVES * (place + 1)]
        hashes = [leaf(BINDING, DEALER, holder, k, made.shares[place, k].tobytes()) for k in (0, 1)]
        assert b"".join(hashes) == mine and checked(made, place, made.shares[place])


def test_the_secrets_come_back_from_any_t_shares():
    made = dealt()
    for chosen in ([0, 1, 2, 3], [3, 4, 5, 6], [0, 2, 4, 6]):
        row = weights(HOLDERS[chosen][None] + 1)[0]
        for kind, secret in enumerate(SECRETS):
            shares = made.shares[chosen, kind, :LIMBS].astype(np.int64)
            assert joined(combine(shares, row)[None]) == [secret]


@pytest.mark.parametrize("kind", range(KINDS))
@pytest.mark.parametrize("limb", [0, 17, 18, 21])
def test_a_share_with_one_wrong_number_lies_on_no_polynomial(kind, limb):
    made = dealt()
    share = made.shares[2].copy()
    share[kind, limb] = (int(share[kind, limb]) + 1) % PRIME
    assert not checked(made, 2, share)


def test_shares_on_a_polynomial_of_a_higher_degree_are_noticed_by_somebody():
    """A dealer whose proof pretends a lower degree: no holder beyond t of them finds it right."""
    made = dealt(threshold=THRESHOLD + 2)
    proof = np.frombuffer(made.proof, "<u2").reshape(8, THRESHOLD + 2)[:, :THRESHOLD]
    cheap = expected(proof.reshape(1, -1), vandermonde(HOLDERS + 1, THRESHOLD))[0]
    rho = challenge(BINDING, DEALER, root(made.leaves))
    found = [
        lies_on(made.shares[place], rho, cheap[place].tobytes()) for place in range(len(HOLDERS))
    ]
    assert not any(found)


def test_the_proof_says_nothing_about_the_secrets():
    """Its numbers are as uniform under one secret as under another: chi-square over dealings."""
    for secrets in (SECRETS, (bytes(32), bytes(32))):
        proofs = [
            np.frombuffer(
                deal(BINDING, DEALER, secrets, HOLDERS, 2, np.random.default_rng(i).bytes).proof,
                "<u2",
            )
            for i in range(300)
        ]
        counts = np.bincount(np.concatenate(proofs).astype(np.int64) * 32 // PRIME, minlength=32)
        mean = counts.sum() / 32
        assert ((counts - mean) ** 2 / mean).sum() < 62  # 31 degrees of freedom: p < 0.001


def test_a_leaf_is_of_one_place():
    share = dealt().shares[0, 0].tobytes()
    places = {
        leaf(binding, dealer, holder, kind, share)
        for binding in (BINDING, Binding(b"t" * 32, b"c" * 32), Binding(b"s" * 32, b"d" * 32))
        for dealer, holder, kind in ((3, 0, 0), (0, 3, 0), (3, 0, 1))
    }
    assert len(places) == 9


def test_a_challenge_is_of_one_dealer_and_its_leaves():
    roots = (root(dealt(0).leaves), root(dealt(1).leaves))
    found = {challenge(BINDING, dealer, one).tobytes() for dealer in (3, 4) for one in roots}
    assert len(found) == 4
    rho = challenge(BINDING, 3, roots[0])
    assert rho.shape == (2, 4, 18) and rho.min() >= 0 and rho.max() < PRIME
