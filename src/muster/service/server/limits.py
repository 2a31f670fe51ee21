# SPDX-License-Identifier: Apache-2.0
"""How often one identity may ask, and how large what it has compressed may become."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from muster.extras import require
from muster.service.refusal import Reason, Refused

if TYPE_CHECKING:
    import zstandard
else:
    zstandard = require("zstandard", extra="service")

__all__ = ["Limits", "bounded"]

PIECE = 1 << 19  # octets that are unpacked in one step
WINDOW = 8 << 20  # octets of memory that a compressed body may ask for


class Limits:
    """How many requests each identity may make: `rate` a second, and `burst` at once.

    At most `names` identities are remembered: the one that was silent for longest is forgotten,
    which forgives it at most one burst. `clock` is monotonic, in seconds.

    >>> now = [0.0]
    >>> limits = Limits(rate=1.0, burst=2.0, clock=lambda: now[0])
    >>> [limits.take("lyon") for _ in range(3)]
    [0.0, 0.0, 1.0]
    """

    def __init__(
        self, rate: float = 100.0, burst: float = 200.0, names: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
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
            raise Refused(Reason.TOO_OFTEN, f"{said}; wait {math.ceil(seconds)} s")


class _Sink:
    """A file in the eyes of zstandard."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self.write = write


def bounded(put: Callable[[Any], None]) -> Callable[[bytearray], None]:
    """Feed zstd to the result and `put` gets what it holds, half a megabyte at a time.

    So whoever is given the octets can refuse them long before a bomb has become large.

    >>> found = []
    >>> bounded(found.append)(bytearray(zstandard.compress(b"a" * 1000)))
    >>> b"".join(found) == b"a" * 1000
    True
    """
    reader = zstandard.ZstdDecompressor(max_window_size=WINDOW)
    stream = reader.stream_writer(_Sink(put), write_size=PIECE, closefd=False)  # type: ignore[arg-type]

    def feed(data: bytearray) -> None:
        try:
            stream.write(data)
        except zstandard.ZstdError as error:
            raise Refused(Reason.MALFORMED, f"the body is no zstd: {error}"[:200]) from None

    return feed
