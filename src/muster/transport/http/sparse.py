# SPDX-License-Identifier: Apache-2.0
"""A log that members and strangers make a server write: so many lines a minute of each kind."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

from muster.federation.protocol.limits import LINES

__all__ = ["Sparse", "sparse"]

LOGGERS = ("muster.server", "uvicorn.error", "asyncio")
MINUTE = 60.0


class Sparse(logging.Filter):
    """Lets `most` records of each message and logger through a minute; the next says what was left.

    What is counted are messages as they stand in the code, before anything is put into them, so
    that there are few. `clock` is monotonic, in seconds.

    >>> sparse = Sparse(1, clock=lambda: 0.0)
    >>> line = logging.LogRecord("muster.server", 40, "", 0, "%s failed", ("PUT",), None)
    >>> sparse.filter(line), sparse.filter(line)
    (True, False)
    """

    def __init__(self, most: int = LINES, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.most, self.clock = most, clock
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}  # since when, and how many

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is written."""
        key, now = (record.name, str(record.msg)), self.clock()
        since, count = self._seen.get(key, (now, 0))
        if now - since >= MINUTE:
            left, since, count = count - self.most, now, 0
            if left > 0:
                record.msg, record.args = f"{record.getMessage()} ({left} more like it)", None
        self._seen[key] = since, count + 1
        return count < self.most


@contextlib.contextmanager
def sparse() -> Iterator[None]:
    """Keep the logs of a server sparse while it serves."""
    found = Sparse()
    loggers = [logging.getLogger(name) for name in LOGGERS]
    for logger in loggers:
        logger.addFilter(found)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(found)
