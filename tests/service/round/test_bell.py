# SPDX-License-Identifier: Apache-2.0
"""Whoever waits is woken by a ring of any thread, by name or all, or by the time."""

import asyncio

from muster.service.round.bell import Bell


def test_a_ring_wakes_those_who_are_meant():
    async def scene():
        bell = Bell()
        await bell.wait("a", 60.0)  # the first look is at once: nothing may be missed before it
        first, second = (asyncio.create_task(bell.wait(name, 60.0)) for name in "ab")
        await asyncio.sleep(0)
        assert bell.waiting == 2
        await asyncio.to_thread(bell.ring, ["a", "nobody"])
        await first
        assert not second.done() and bell.waiting == 1
        await asyncio.to_thread(bell.ring, None)
        await second
        return bell

    bell = asyncio.run(scene())
    assert bell.waiting == 0
    bell.ring(None)  # the loop is closed: nobody is there


def test_time_passes_and_a_wait_that_is_given_up_leaves_nothing():
    async def scene():
        bell = Bell()
        await bell.wait("a", 60.0)
        await bell.wait("a", 0.0)
        given_up = asyncio.create_task(bell.wait("a", 60.0))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.wait([given_up])
        return bell.waiting

    assert asyncio.run(scene()) == 0
