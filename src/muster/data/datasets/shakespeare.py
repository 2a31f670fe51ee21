# SPDX-License-Identifier: Apache-2.0
"""Shakespeare by speaking role: predict the next character."""

from __future__ import annotations

import gzip
import json
import string

import numpy as np
from numpy.typing import NDArray

from muster.data.datasets.federation import Federation, federated
from muster.data.datasets.fetch import Remote, locate
from muster.data.rows import ClientId, Pair
from muster.errors import DataError

__all__ = ["VOCABULARY", "shakespeare"]

VOCABULARY = "\n !$&',-.3:;?" + string.ascii_uppercase + string.ascii_lowercase
"""The 65 symbols of the text; a symbol's number is its place here."""

_FILE = Remote(
    "shakespeare_by_role.jsonl.gz",
    "7a8e6a9f81f362f1c43b090284165f6782b48cc65ceae9b0e3fe06b75ed6cf56",
    "the data folder of the muster project (text of karpathy/char-rnn, public domain)",
)


def shakespeare(window: int = 80, minimum: int = 1) -> Federation:
    """Return one client per role of "tiny Shakespeare" (243 of 268 roles have a window), by name.

    x int64 `(n, window)` are consecutive windows that do not overlap; y int64 `(n, window)` are
    the characters one further, so each place predicts the next. A tail shorter than a window is
    dropped (LEAF takes every offset and predicts the last character only). The first 80 % of a
    role's lines train, the rest test; roles with fewer than `minimum` training windows are left
    out, as are the test rows of a role whose test lines are too short.

    Raises `DatasetError` when the file is not there, `DataError` when no role has enough text.
    """
    if window < 1 or minimum < 1:
        raise DataError(
            f"shakespeare(window={window}, minimum={minimum}) was asked for, both must be 1 or "
            "more; try window=80"
        )
    train: dict[ClientId, Pair] = {}
    test: dict[ClientId, Pair] = {}
    with gzip.open(locate(_FILE), "rt", encoding="utf-8") as lines:
        for record in map(json.loads, lines):
            pair = _windows(record["train"], window)
            if len(pair[0]) >= minimum:
                train[record["role"]] = pair
                test[record["role"]] = _windows(record["test"], window)
    if not any(len(x) for x, _ in test.values()):
        raise DataError(
            f"no role has {minimum} windows of {window} characters and a test window, one is "
            "required; lower window or minimum"
        )
    return federated(train, test)


def _windows(text: str, window: int) -> Pair:
    codes = _codes(text)
    count = max(0, (len(codes) - 1) // window)
    rows = codes[: count * window].reshape(count, window)
    return rows, codes[1 : count * window + 1].reshape(count, window) if count else rows


def _codes(text: str) -> NDArray[np.int64]:
    table = np.full(128, -1, np.int64)
    table[np.frombuffer(VOCABULARY.encode("ascii"), np.uint8)] = np.arange(len(VOCABULARY))
    codes: NDArray[np.int64] = table[np.frombuffer(text.encode("ascii"), np.uint8)]
    return codes
