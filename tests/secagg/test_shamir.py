# SPDX-License-Identifier: Apache-2.0
"""Any t shares give the secret, and any t - 1 fit every secret."""

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.secagg.shamir import (
    LIMBS,
    PRIME,
    combine,
    cut,
    evaluated,
    joined,
    polynomials,
    uniform,
    weights,
)


def draws(seed):
    return np.random.default_rng(seed).bytes


def words(*values):
    """Entropy that is these words, then zeros."""
    data = np.array(values, "<u2").tobytes()
    calls = []

    def entropy(count):
        calls.append(count)
        return (data if len(calls) == 1 else b"").ljust(count, b"\0")[:count]

    return entropy


def split(secrets, points, threshold, entropy, prime=PRIME):
    return evaluated(polynomials(secrets, threshold, entropy, prime), points, prime)


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=5))
def test_cut_and_joined(secrets):
    limbs = cut(secrets)
    assert limbs.shape == (len(secrets), LIMBS) and limbs.max() < 1 << 15
    assert joined(limbs) == secrets


@given(st.integers(1, 6), st.integers(0, 5), st.integers(0, 2**32))
def test_any_t_shares_give_the_secret(threshold, more, seed):
    secrets = [draws(seed)(32) for _ in range(3)]
    points = np.sort(np.random.default_rng(seed).permutation(65520)[: threshold + more]) + 1
    shares = split(cut(secrets).reshape(-1), points, threshold, draws(seed + 1))
    for chosen in list(combinations(range(len(points)), threshold))[:40]:
        row = weights(points[list(chosen)][None])[0]
        assert joined(combine(shares.T[list(chosen)], row).reshape(3, LIMBS)) == secrets


def test_a_large_cohort():
    points, secret = np.arange(1, 1001), bytes(range(32))
    shares = split(cut([secret])[0], points, 667, draws(0))
    for seed in range(3):
        chosen = np.sort(np.random.default_rng(seed).permutation(1000)[:667])
        row = weights(points[chosen][None])[0]
        assert joined(combine(shares.T[chosen], row)[None]) == [secret]


@pytest.mark.parametrize(("prime", "threshold"), [(5, 2), (7, 2), (7, 3), (5, 4)])
def test_fewer_shares_fit_every_secret_equally(prime, threshold):
    """Exhaustive: over all polynomials, t - 1 shares are as likely under one secret as another."""
    points = np.arange(1, prime)
    seen = {}
    for secret, *coefficients in product(range(prime), repeat=threshold):
        shares = split(np.array([secret]), points, threshold, words(*coefficients), prime)[0]
        for chosen in combinations(range(prime - 1), threshold - 1):
            key = chosen, tuple(shares[list(chosen)].tolist())
            seen.setdefault(key, []).append(secret)
    for secrets in seen.values():
        assert np.unique(np.bincount(secrets, minlength=prime)).size == 1


@pytest.mark.parametrize(("prime", "threshold"), [(7, 2), (7, 3), (11, 4)])
def test_any_t_shares_agree_in_a_small_field(prime, threshold):
    points = np.arange(1, prime)
    for secret in range(prime):
        shares = split(np.array([secret]), points, threshold, draws(secret), prime)
        for chosen in combinations(range(prime - 1), threshold):
            row = weights(points[list(chosen)][None], prime=prime)[0]
            assert combine(shares.T[list(chosen)], row, prime).tolist() == [secret]


def test_words_above_the_prime_are_thrown_away():
    entropy = words(65535, 65521, 65520, 3)
    shares = split(np.array([7]), np.array([1]), 3, entropy)
    assert shares.tolist() == [[(7 + 65520 + 3) % PRIME]]


def test_draws_are_uniform():
    counts = np.bincount(uniform(20000, draws(4)) * 64 // PRIME, minlength=64)
    assert ((counts - 312.5) ** 2 / 312.5).sum() < 110  # 63 degrees of freedom: p < 0.001


def test_weights_elsewhere_extrapolate():
    points = np.array([3, 9, 40])
    values = 5 + 2 * points + 11 * points**2
    row = weights(points[None], at=100)[0]
    assert combine(values[:, None], row).tolist() == [(5 + 200 + 110000) % PRIME]
