# SPDX-License-Identifier: Apache-2.0
"""The identity of a thing, wherever it lies: its values, the state it holds, the code it needs."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from muster.identity.contents import Contents

__all__ = ["Contents", "mark"]


def mark(thing: Any) -> str:
    """Return the SHA-256 over all that a thing holds and needs. Raises `PlanError` if untold.

    >>> mark([1, 2]) == mark((1, 2)), mark(1) == mark(1.0)
    (True, False)
    """
    contents = Contents()
    value = [contents.read(thing), contents.code.finish()]
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
