# SPDX-License-Identifier: Apache-2.0
"""One thread for the work of all clients of a process, so that the event loop can go on talking."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, TypeVar

__all__ = ["TrainingThread"]

T = TypeVar("T")


class TrainingThread:
    """Does one thing after the other, in its own thread, inside `around` (such as one_thread).

    >>> async def two():
    ...     async with TrainingThread() as hand:
    ...         return await hand.do(max, 1, 2)
    >>> asyncio.run(two())
    2
    """

    def __init__(self, around: Callable[[], AbstractContextManager[Any]] = nullcontext) -> None:
        self._stack, self._around = ExitStack(), around
        self._thread = ThreadPoolExecutor(1, "muster-hand", self._begin)

    async def __aenter__(self) -> TrainingThread:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.do(self._stack.close)
        self._thread.shutdown()

    def _begin(self) -> None:
        self._stack.enter_context(self._around())  # settings of some libraries are a thread's own

    def do(self, deed: Callable[..., T], *given: Any) -> asyncio.Future[T]:
        """Return the future of what a function returns, once its turn has come."""
        return asyncio.get_running_loop().run_in_executor(self._thread, deed, *given)
