# SPDX-License-Identifier: Apache-2.0
"""Processor seconds by whose turn it is, where many parties take turns in one process."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable

__all__ = ["Meter"]


class Meter:
    """Charges the seconds since the last turn to whoever had it; nobody is the empty name."""

    def __init__(self, clock: Callable[[], float] = time.process_time) -> None:
        self.spent: defaultdict[str, float] = defaultdict(float)
        self._clock, self._who, self._since = clock, "", clock()

    def turn(self, who: str = "") -> None:
        """Begin the turn of this one."""
        now = self._clock()
        self.spent[self._who] += now - self._since
        self._who, self._since = who, now
