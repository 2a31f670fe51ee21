# SPDX-License-Identifier: Apache-2.0
"""Signals that end a command which runs for weeks: once gently, the second time at once."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

__all__ = ["INTERRUPTED", "graceful", "gracefully"]

INTERRUPTED = 130  # the exit status of what a signal has ended
SIGNALS = (signal.SIGINT, signal.SIGTERM)
ECHO = 1.0  # seconds: `timeout` and some shells send a signal twice in one moment


class Event(Protocol):
    """An event to wait for, in a thread or in an event loop."""

    def set(self) -> None:
        """Have the command end."""

    def is_set(self) -> bool:
        """Return whether it is to end."""


class _Ear:
    """Hears signals: the first sets the event, a later Ctrl-C raises `KeyboardInterrupt`."""

    def __init__(self, stop: Event, clock: Callable[[], float]) -> None:
        self._stop, self._clock, self._since = stop, clock, 0.0

    def __call__(self, number: int, *_: Any) -> None:
        if not self._stop.is_set():
            self._since = self._clock()
            self._stop.set()
        elif number == signal.SIGINT and self._clock() - self._since > ECHO:
            raise KeyboardInterrupt


@contextmanager
def graceful(clock: Callable[[], float] = time.monotonic) -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C and SIGTERM set."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # where none can be caught
        yield stop
        return
    ear = _Ear(stop, clock)
    before = {number: signal.signal(number, ear) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def gracefully(clock: Callable[[], float] = time.monotonic) -> Iterator[asyncio.Event]:
    """Yield the same in an event loop."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    ear = _Ear(stop, clock)
    for number in SIGNALS:
        loop.add_signal_handler(number, ear, number)
    try:
        yield stop
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)
