# SPDX-License-Identifier: Apache-2.0
"""Waiters are woken by a ring of any thread, by name or all, or by the time."""

import asyncio
import threading

from muster.federation.coordinator.notifier import EngineNews, Notifier


def test_a_ring_wakes_those_who_are_meant():
    async def scene():
        notifier = Notifier()
        await notifier.wait("a", 60.0)  # the first look is at once: nothing may be missed before it
        first, second = (asyncio.create_task(notifier.wait(name, 60.0)) for name in "ab")
        await asyncio.sleep(0)
        assert notifier.waiting == 2
        await asyncio.to_thread(notifier.ring, ["a", "nobody"])
        await first
        assert not second.done() and notifier.waiting == 1
        await asyncio.to_thread(notifier.ring, None)
        await second
        return notifier

    notifier = asyncio.run(scene())
    assert notifier.waiting == 0
    notifier.ring(None)  # the loop is closed: nobody is there


def test_time_passes_and_a_wait_that_is_given_up_leaves_nothing():
    async def scene():
        notifier = Notifier()
        await notifier.wait("a", 60.0)
        await notifier.wait("a", 0.0)
        given_up = asyncio.create_task(notifier.wait("a", 60.0))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.wait([given_up])
        return notifier.waiting

    assert asyncio.run(scene()) == 0


def test_who_counts_before_it_looks_misses_nothing():
    news = EngineNews()
    seen = news.count
    news.ring()  # between the look and the wait
    news.wait(seen, 60.0)
    ringing = threading.Thread(target=news.ring)
    seen = news.count
    ringing.start()
    news.wait(seen, 60.0)
    ringing.join()
    assert news.count == 2
    news.wait(news.count, 0.0)
