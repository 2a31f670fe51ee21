# SPDX-License-Identifier: Apache-2.0
"""How a command that runs for weeks is told to end: once gently, the second time at once."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["INTERRUPTED", "graceful", "gracefully"]

INTERRUPTED = 130  # the exit status of what a signal has ended
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def graceful() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set; after that they act as usual again."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # where none can be caught
        yield stop
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        for number in SIGNALS:
            signal.signal(number, before[number])

    def heard(*_: Any) -> None:
        restore()
        stop.set()

    for number in SIGNALS:
        signal.signal(number, heard)
    try:
        yield stop
    finally:
        restore()


@contextmanager
def gracefully() -> Iterator[asyncio.Event]:
    """The same in an event loop."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def restore() -> None:
        for number in SIGNALS:
            loop.remove_signal_handler(number)

    def heard() -> None:
        restore()
        stop.set()

    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            loop.add_signal_handler(number, heard)
    try:
        yield stop
    finally:
        restore()
