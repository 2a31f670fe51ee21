# SPDX-License-Identifier: Apache-2.0
"""Noise comes from one place, and a secret is drawn from AES and never shown."""

import hmac

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from muster import sampling
from muster.errors import MusterError
from muster.keys import Keys, key
from muster.privacy.discrete import skellam
from muster.privacy.gaussian import gaussian
from muster.privacy.randomness import Secret, clients_of, normal, words
from muster.types import Roster

SECRET = Secret(bytes(range(32)))
TEN = Roster(tuple("abcdefghij"), lambda: np.ones(10, int))


def test_words_are_a_function_of_seed_and_path():
    assert words(SECRET.at("a", 1), 4).tolist() == words(SECRET.at("a").at(1), 4).tolist()
    others = [SECRET, SECRET.at("a"), SECRET.at("a", 2), Secret(bytes(32)).at("a", 1)]
    drawn = {tuple(words(s, 2).tolist()) for s in [*others, SECRET.at("a", 1)]}
    assert len(drawn) == 5
    assert words(SECRET, 9)[:4].tolist() == words(SECRET, 4).tolist()


def test_words_are_aes_in_counter_mode():
    """Block i is AES of the counter i under the path's key."""
    block = Cipher(algorithms.AES(hmac.digest(SECRET.seed, b"", "sha256")), modes.ECB()).encryptor()
    wanted = b"".join(block.update(i.to_bytes(16, "big")) for i in range(3))
    assert words(SECRET, 6).tobytes() == wanted


def test_the_seed_is_never_printed():
    text = repr(SECRET.at("decode", 3))
    assert text.startswith("Secret(path=(")
    assert "seed" not in text
    assert not hasattr(SECRET, "generator")  # nothing falls back on a generator that is no cipher


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_seed_has_32_bytes(size):
    with pytest.raises(MusterError, match=f"Secret of {size} bytes: 32 are needed; draw them"):
        Secret(bytes(size))


@pytest.mark.parametrize("source", [SECRET, key(4)])
def test_normals_are_normal(source):
    drawn = np.sort(normal(source, 100_001))
    assert len(drawn) == 100_001
    assert abs(drawn.mean()) < 0.015
    assert drawn.std() == pytest.approx(1, abs=0.01)
    for level, quantile in ((0.5, 0.0), (0.841345, 1.0), (0.97725, 2.0), (0.00135, -3.0)):
        assert drawn[int(level * 100_001)] == pytest.approx(quantile, abs=0.08)
    assert np.isfinite(drawn).all()


def test_uniform_numbers_and_integers_of_a_secret():
    drawn = SECRET.uniform(10_000)
    assert drawn.dtype == np.float64
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert drawn.mean() == pytest.approx(0.5, abs=0.02)
    assert 0 <= SECRET.integer() < 1 << 63


def test_a_secret_stands_where_a_key_stands():
    """Clients draw by themselves as in company, from a secret as from a key."""
    for root in (key(1), SECRET):
        rows = Keys(root.at("encode"), ("a", "b")).at(3).uniform(2)
        assert rows.shape == (2, 2)
        many = [gaussian(s, 3, 1.0).tolist() for s in clients_of(Keys(root, ("a", "b")), 0)]
        (alone,) = [gaussian(s, 3, 1.0).tolist() for s in clients_of(Keys(root, ("b",)), 0)]
        assert many[1] == alone
        assert many[0] != alone
        assert skellam(root.at(9), 4, 5.0).dtype == np.int64


def test_uniform_and_poisson_draw_from_secrets():
    secret = Secret(bytes(32)).at("sample", 1)
    for one in (sampling.Uniform(count=4), sampling.Poisson(0.5), sampling.All()):
        cohort, _ = one.sample(TEN, None, 1, secret, None)
        again, _ = one.sample(TEN, None, 1, secret, None)
        other, _ = one.sample(TEN, None, 1, secret.at(2), None)
        assert cohort == again
        assert list(cohort.clients) == sorted(set(cohort.clients))
        assert cohort != other or isinstance(one, sampling.All)
    counts = np.zeros(10)
    for i in range(3000):
        counts[secret.at(i).choice(10, 4)] += 1
    assert (abs(counts / 3000 - 0.4) < 0.05).all()
    assert key(0).choice(10, 4).tolist() == sorted(set(key(0).choice(10, 4).tolist()))
