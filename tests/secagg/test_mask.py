# SPDX-License-Identifier: Apache-2.0
"""Masks are AES-256 in counter mode, whatever the chunks, and no linear generator."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

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
