# SPDX-License-Identifier: Apache-2.0
"""The news: clients wait for it in the event loop, the engine in its thread; any may ring."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Sequence

from muster.types import ClientId

__all__ = ["EngineNews", "Notifier"]


class Notifier:
    """A notifier of those who wait, by client; `waiting` is how many do.

    >>> asyncio.run(Notifier().wait("a", 0.0))
    """

    def __init__(self) -> None:
        self.waiting = 0
        self._futures: dict[ClientId, set[asyncio.Future[None]]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    async def wait(self, client: ClientId, seconds: float) -> None:
        """Wait until something may have changed for this client, or so long."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            return  # what was told before there was a loop was heard by nobody: look again
        future = self._loop.create_future()
        self._futures.setdefault(client, set()).add(future)
        self.waiting += 1
        try:
            await asyncio.wait([future], timeout=seconds)
        finally:
            self.waiting -= 1
            left = self._futures.get(client, set())
            left.discard(future)
            if not left:
                self._futures.pop(client, None)

    def ring(self, clients: Iterable[ClientId] | None) -> None:
        """Wake these clients, or all, to look again; from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            known = None if clients is None else list(clients)
            self._loop.call_soon_threadsafe(self._ring, known)

    def _ring(self, clients: Sequence[ClientId] | None) -> None:
        for client in list(self._futures) if clients is None else clients:
            for future in self._futures.get(client, ()):
                if not future.done():
                    future.set_result(None)


class EngineNews:
    """The news that the engine waits for: `count` grows when something may have changed.

    Whoever reads the count first, then looks, then waits for another count, misses nothing.

    >>> news = EngineNews()
    >>> news.ring()
    >>> news.wait(0, 60.0), news.count
    (None, 1)
    """

    def __init__(self) -> None:
        self.count = 0
        self._changed = threading.Condition()

    def ring(self) -> None:
        """Wake whoever waits; from any thread."""
        with self._changed:
            self.count += 1
            self._changed.notify_all()

    def wait(self, seen: int, seconds: float) -> None:
        """Wait until the count is another than was seen, or so long."""
        with self._changed:
            self._changed.wait_for(lambda: self.count != seen, max(0.0, seconds))
