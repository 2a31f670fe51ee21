# SPDX-License-Identifier: Apache-2.0
"""Waiters are woken by a ring of any thread, by name or all, or by the time."""

import asyncio

from muster.federation.coordinator.notifier import Notifier


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
