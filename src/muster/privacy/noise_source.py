# SPDX-License-Identifier: Apache-2.0
"""The source of the noise of one sum, bound to that sum.

A secret that is drawn once for a round protects one sum. If the round is ever played again with
that secret (a folder put back to an older copy, a copy that a second server serves), and other
replies are added up, the same noise on both sums would show their difference to whoever has both
models. So the noise is not a function of the secret alone, but of the secret and of all that it
is added to: an equal sum gets equal noise, which a resumed round needs for its bits and which
tells nothing new; any other sum gets noise that is independent of the first.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from muster.keys import RandomSource
from muster.types import Reply
from muster.vectors import leaves

__all__ = ["noise_source"]


def noise_source(source: RandomSource, total: Reply) -> RandomSource:
    """Return the source below `source` that belongs to this sum: clients, weight, every number.

    252 bits of a SHA-256 digest name it, so that nobody who chooses replies finds two sums of one
    source.

    >>> from muster.keys import key
    >>> one, same, other = (Reply((1, 2), {"x": np.full(2, v)}, 2.0) for v in (0.5, 0.5, 0.25))
    >>> noise_source(key(0), one) == noise_source(key(0), same)
    True
    >>> noise_source(key(0), one) == noise_source(key(0), other)
    False
    """
    found = hashlib.sha256()
    _add(found, total)
    words = np.frombuffer(found.digest(), "<u8") >> np.uint64(1)
    bound: RandomSource = source.at(*map(int, words))
    return bound


def _add(found: Any, total: Reply) -> None:
    """Hash all of a sum that noise could be added to, in one unambiguous order."""
    content = {"payload": total.payload, "buffers": total.buffers}
    arrays = [(name, np.ascontiguousarray(array)) for name, array in leaves(content)]
    clients = sorted(map(repr, total.clients))
    shapes = [(name, array.dtype.str, array.shape) for name, array in arrays]
    head = repr((clients, float(total.weight), shapes, len(total.parts))).encode()
    found.update(len(head).to_bytes(8, "little") + head)
    for _, array in arrays:
        found.update(array.data.cast("B") if array.size else b"")
    for part in total.parts:
        _add(found, part)
