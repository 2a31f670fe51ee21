# SPDX-License-Identifier: Apache-2.0
"""Limits on how often one identity may ask."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from muster.federation.protocol.limits import BURST, NAMES, RATE
from muster.security.refusal import RefusalReason, Refused

__all__ = ["Limits"]


class Limits:
    """Limits on the requests of each identity: `rate` a second, and `burst` at once.

    At most `names` identities are remembered: the one that was silent for longest is forgotten,
    which forgives it at most one burst. `clock` is monotonic, in seconds.

    >>> now = [0.0]
    >>> limits = Limits(rate=1.0, burst=2.0, clock=lambda: now[0])
    >>> [limits.take("lyon") for _ in range(3)]
    [0.0, 0.0, 1.0]
    """

    def __init__(
        self,
        rate: float = RATE,
        burst: float = BURST,
        names: int = NAMES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rate, self.burst, self.names, self.clock = rate, burst, names, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str) -> float:
        """Let one request through and return 0, or return the seconds to wait."""
        now = self.clock()
        left, then = self._left.get(name, (self.burst, now))
        left = min(self.burst, left + (now - then) * self.rate)
        allowed = left >= 1.0
        self._left[name] = (left - 1.0 if allowed else left, now)
        self._left.move_to_end(name)
        if len(self._left) > self.names:
            self._left.popitem(last=False)
        return 0.0 if allowed else (1.0 - left) / self.rate

    def check(self, name: str) -> None:
        """Raise `Refused` when this identity asks too often."""
        seconds = self.take(name)
        if seconds:
            said = f"{name} asks more than {self.rate:g} times a second"
            raise Refused(RefusalReason.TOO_OFTEN, f"{said}; wait {math.ceil(seconds)} s")
