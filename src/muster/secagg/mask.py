# SPDX-License-Identifier: Apache-2.0
"""Masks: the keystream of AES-256-CTR, added to a vector of words in place.

Bonawitz et al. 2017 ("Practical Secure Aggregation", CCS, section 4) ask for a pseudorandom
generator; here it is AES-256 in counter mode from zero. A key serves once, for all coordinates,
so that no part of the stream is ever used twice. Words wrap, which is addition modulo 2^32 or
2^64 and, as 2^b divides them, modulo 2^b.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from muster.extras import require
from muster.secagg.ring import Words

if TYPE_CHECKING:
    from cryptography.hazmat.primitives import ciphers
    from cryptography.hazmat.primitives.ciphers import algorithms, modes
else:
    ciphers = require("cryptography.hazmat.primitives.ciphers", extra="site")
    algorithms = require("cryptography.hazmat.primitives.ciphers.algorithms", extra="site")
    modes = require("cryptography.hazmat.primitives.ciphers.modes", extra="site")

__all__ = ["blend"]

CHUNK = 1 << 18  # bytes: zeros, keystream and the vector's piece stay in the second-level cache
OPEN = 256  # ciphers kept open at a time, about a kilobyte each
ZEROS = bytes(CHUNK)
START = bytes(16)


def blend(vector: Words, plus: Sequence[bytes] = (), minus: Sequence[bytes] = ()) -> None:
    """Add the masks of some keys (32 bytes each) to a vector, subtract those of others, in place.

    The vector is walked once in pieces and every mask is applied to a piece while it is in cache;
    one buffer holds the keystream, whatever the number of masks.

    >>> vector = np.zeros(3, "<u4")
    >>> blend(vector, plus=[bytes(32)])
    >>> vector
    array([2025887196, 2307473570,  346179757], dtype=uint32)
    >>> blend(vector, minus=[bytes(32)])
    >>> vector
    array([0, 0, 0], dtype=uint32)
    """
    signed = [(key, np.add) for key in plus] + [(key, np.subtract) for key in minus]
    room = bytearray(CHUNK + 16)  # a block more than is used: older ciphers ask for it
    words = np.frombuffer(room, vector.dtype, CHUNK // vector.dtype.itemsize)
    step = CHUNK // vector.dtype.itemsize
    for first in range(0, len(signed), OPEN):
        some = [(_cipher(key), change) for key, change in signed[first : first + OPEN]]
        for start in range(0, len(vector), step):
            piece = vector[start : start + step]
            zeros = memoryview(ZEROS)[: piece.nbytes]
            mask = words[: len(piece)]
            for cipher, change in some:
                cipher.update_into(zeros, room)
                change(piece, mask, out=piece)


def _cipher(key: bytes) -> ciphers.CipherContext:
    return ciphers.Cipher(algorithms.AES(key), modes.CTR(START)).encryptor()
