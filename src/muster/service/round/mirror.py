# SPDX-License-Identifier: Apache-2.0
"""Several servers behind one address: what one of them hears, all of them know within a tick.

The ledger is what they share. Every server looks whether it has grown; the one that leads takes
up the seats that were decided at the others, and they take up what it has opened. Progress is
told in numbers that only grow, so that no server needs another's clock.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any, Protocol

from muster.service.round.hall import Hall
from muster.store.records import Member, Opened, Seat
from muster.types import ClientId

__all__ = ["Shared", "mirror"]


class Shared(Protocol):
    """What a mirror reads and writes of a ledger (see `store.ledger.Ledger`)."""

    def version(self) -> int:
        """Grows with every write."""

    def members(self) -> dict[str, Member]:
        """Who is enrolled."""

    def opened(self) -> tuple[Opened, dict[ClientId, Seat]] | None:
        """What is open."""

    def wanted(self) -> str:
        """What the operator wants."""

    def latest_round(self) -> int:
        """The last committed round."""

    def beat(self, progress: Mapping[ClientId, int]) -> None:
        """Tell the other servers what moved here."""

    def progress(self) -> dict[ClientId, int]:
        """What moved anywhere."""


async def mirror(ledger: Shared, hall: Hall, leads: asyncio.Event, tick: float) -> None:
    """Keep a hall and the ledger together, until cancelled; `tick` in seconds."""
    seen, moved, told = -1, Counter[ClientId](), Counter[ClientId]()
    while True:
        fresh = {c: n for c, n in hall.moved.items() if n > told[c]}
        version, heard = await asyncio.to_thread(_look, ledger, fresh)
        told.update(Counter({c: n - told[c] for c, n in fresh.items()}))
        for client, count in heard.items():
            if count > moved[client]:
                moved[client] = count
                hall.echo(client)
        if version != seen:
            seen = version
            found = await asyncio.to_thread(_read, ledger)
            _take(hall, found, leads=leads.is_set())
        await asyncio.sleep(tick)


def _look(ledger: Shared, fresh: Mapping[ClientId, int]) -> tuple[int, dict[ClientId, int]]:
    if fresh:
        ledger.beat(fresh)
    return ledger.version(), ledger.progress()


def _read(ledger: Shared) -> tuple[Any, dict[str, Member], str, int]:
    return ledger.opened(), ledger.members(), ledger.wanted(), ledger.latest_round()


def _take(hall: Hall, found: tuple[Any, dict[str, Member], str, int], *, leads: bool) -> None:
    opened, members, wanted, committed = found
    for member in members.values():
        if hall.members.get(member.name) != member:
            hall.enter(member)
    if wanted != hall.wanted:
        hall.want(wanted)
    if leads:
        if opened:
            hall.sit(opened[0].round, opened[0].kind, opened[1])
        return
    hall.follow(opened, committed)
