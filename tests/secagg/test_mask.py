# SPDX-License-Identifier: Apache-2.0
"""Masks are AES-256 in counter mode, whatever the chunks, no linear generator,
and all a curious server sees of a vector."""

from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from tests.secagg.scene import Scene, named, terms

from muster.secagg.mask import CHUNK, OPEN, blend


def stream(key, count):
    return Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(count))


def keys(count, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.bytes(32) for _ in range(count)]


@pytest.mark.parametrize("dtype", ["<u4", "<u8"])
@pytest.mark.parametrize("nbytes", [8, CHUNK - 8, CHUNK, CHUNK + 8, 3 * CHUNK + 64])
def test_the_mask_is_the_keystream(dtype, nbytes):
    (key,) = keys(1)
    vector = np.zeros(nbytes // np.dtype(dtype).itemsize, dtype)
    blend(vector, plus=[key])
    assert vector.tobytes() == stream(key, nbytes)


@pytest.mark.parametrize("dtype", ["<u4", "<u8"])
def test_many_masks_add_and_subtract_modulo_the_word(dtype):
    plus, minus = keys(OPEN, 1), keys(7, 2)
    size = CHUNK // np.dtype(dtype).itemsize + 5
    start = np.random.default_rng(3).integers(0, 1 << 31, size).astype(dtype)
    vector = start.copy()
    blend(vector, plus, minus)
    wanted = start.copy()
    for key in plus:
        wanted += np.frombuffer(stream(key, wanted.nbytes), dtype)
    for key in minus:
        wanted -= np.frombuffer(stream(key, wanted.nbytes), dtype)
    assert np.array_equal(vector, wanted)
    blend(vector, minus, plus)
    assert np.array_equal(vector, start)


def complexity(bits):
    """Berlekamp and Massey over GF(2): the length of the shortest register that gives the bits."""
    c, b, length, since, window = 1, 1, 0, 1, 0
    for i, bit in enumerate(bits):
        window = window << 1 | bit
        if (c & window).bit_count() & 1:
            before, c = c, c ^ b << since
            if 2 * length <= i:
                length, b, since = i + 1 - length, before, 0
        since += 1
    return length


def test_the_low_bit_of_a_sum_of_masks_is_no_linear_recurrence():
    register = [1, 0, 0, 1, 0]
    for _ in range(400):
        register.append(register[-5] ^ register[-3])
    assert complexity(register) == 5  # the instrument works
    vector = np.zeros(3000, "<u4")
    blend(vector, keys(5, 9))
    assert abs(complexity((vector & 1).tolist()) - 1500) < 10


SIZE = 40_000


def seen(scene):
    """The masked vectors as the server sees them."""
    scene.run()
    ring = scene.terms.ring
    return {name: ring.unpack(m.vector, SIZE) for name, m in scene.masked.items()}


def chi_square(vector, bits):
    counts = np.bincount(vector >> np.uint32(bits - 6), minlength=64)
    return ((counts - len(vector) / 64) ** 2 / (len(vector) / 64)).sum()


@pytest.mark.parametrize("count", [3, 6])
def test_a_masked_vector_is_uniform(count):
    own = terms(count, size=SIZE, most=1)
    wide = replace(own, most=(1 << 12) - 1)
    for asked in (own, wide):
        bits = asked.ring.bits
        rows = {name: np.zeros(SIZE, "<u4") for name in named(count)}
        for masked in seen(Scene(asked, rows)).values():
            if bits >= 6:
                assert chi_square(masked, bits) < 110  # 63 degrees of freedom: p < 0.001
            for bit in range(bits):  # every bit plane is half ones, and no copy of its neighbour
                plane = masked >> np.uint32(bit) & 1
                assert abs(plane.mean() - 0.5) < 0.015
                assert abs((plane[1:] ^ plane[:-1]).mean() - 0.5) < 0.015


def test_swapping_two_inputs_changes_nothing_the_server_can_see():
    own = terms(4, size=SIZE, most=(1 << 12) - 1)
    low, high = np.zeros(SIZE, "<u4"), np.full(SIZE, own.most, "<u4")
    one = seen(Scene(own, dict(zip(named(4), (low, high, low, low), strict=True)), seed=1))
    two = seen(Scene(own, dict(zip(named(4), (high, low, low, low), strict=True)), seed=2))
    for name in named(4):
        a, b = (np.bincount(v[name] >> np.uint32(8), minlength=64) for v in (one, two))
        assert ((a - b) ** 2 / (a + b)).sum() < 110


def test_a_known_vector_says_nothing_of_another_mask():
    own = terms(4, size=SIZE, most=1)
    rows = {name: np.zeros(SIZE, "<u4") for name in named(4)}  # all known: what is seen is mask
    masks = seen(Scene(own, rows))
    for bit in range(own.ring.bits):
        planes = [masks[name] >> np.uint32(bit) & 1 for name in named(4)]
        for other in planes[1:]:
            assert abs((planes[0] ^ other).mean() - 0.5) < 0.015


def test_two_sessions_share_no_mask():
    own = terms(3, size=SIZE, most=(1 << 12) - 1)
    rows = {name: np.zeros(SIZE, "<u4") for name in named(3)}
    one, two = (seen(Scene(own, rows, seed=seed)) for seed in (1, 2))
    again = seen(Scene(replace(own, round=2), rows, seed=1))  # the same draws in another round
    for other in (two, again):
        assert (one["c0000"] == other["c0000"]).mean() < 0.002
