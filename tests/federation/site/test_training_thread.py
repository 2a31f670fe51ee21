# SPDX-License-Identifier: Apache-2.0
"""One thing after the other, in one thread, inside what it was given."""

import asyncio
import threading
from contextlib import contextmanager

from muster.federation.site.training_thread import TrainingThread


def test_everything_is_done_in_one_thread_that_was_prepared_and_cleaned():
    seen = []

    @contextmanager
    def around():
        seen.append(("begin", threading.current_thread()))
        yield
        seen.append(("end", threading.current_thread()))

    async def life():
        async with TrainingThread(around) as hand:
            return await asyncio.gather(*(hand.do(threading.current_thread) for _ in range(5)))

    (thread,) = set(asyncio.run(life()))
    assert seen == [("begin", thread), ("end", thread)] and not thread.is_alive()
