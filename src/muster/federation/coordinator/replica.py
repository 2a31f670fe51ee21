# SPDX-License-Identifier: Apache-2.0
"""Several servers behind one address: what one of them hears, all of them know within a tick.

The journal is what they share. Every server looks whether it has grown, and applies what is new:
so all hold the same state. Those that do not lead play the secure sums of the one that does, from
what is recorded. Progress is told in numbers that only grow, so that no server needs another's
clock.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping

from muster.federation.coordinator.round_state import RoundState
from muster.federation.coordinator.secagg_session import SecAggSessions
from muster.plan import Plan
from muster.secagg import MessageRefused, SessionStep
from muster.store.ledger import FederationStore
from muster.types import ClientId

__all__ = ["mirror"]


async def mirror(
    plan: Plan,
    ledger: FederationStore,
    round_state: RoundState,
    leads: asyncio.Event,
    tick: float,
    *,
    at: Callable[[str], None],
) -> None:
    """Keep a round's state and the ledger together, until cancelled; `tick` in seconds.

    `at` is called at the labels of `round.secure` that a server passes which does not lead.
    """
    moved, told = Counter[ClientId](), Counter[ClientId]()
    overheard = _Overheard(plan, ledger, round_state, at)
    while True:
        fresh = {c: n for c, n in round_state.moved().items() if n > told[c]}
        position, heard = await asyncio.to_thread(_look, ledger, fresh)
        told.update(Counter({c: n - told[c] for c, n in fresh.items()}))
        for client, count in heard.items():
            if count > moved[client]:
                moved[client] = count
                round_state.heard_elsewhere(client)
        if position != round_state.state.position:
            await asyncio.to_thread(round_state.follow)
        if not leads.is_set():
            await asyncio.to_thread(overheard.look)
        await asyncio.sleep(tick)


def _look(
    ledger: FederationStore, fresh: Mapping[ClientId, int]
) -> tuple[int, dict[ClientId, int]]:
    if fresh:
        ledger.beat(fresh)
    return ledger.position(), ledger.progress()


class _Overheard:
    """The secure sums that another server leads, played here so that its members can be told."""

    def __init__(
        self,
        plan: Plan,
        ledger: FederationStore,
        round_state: RoundState,
        at: Callable[[str], None],
    ) -> None:
        self.plan, self.ledger, self.round_state, self.at = plan, ledger, round_state, at
        self.sessions: SecAggSessions | None = None

    def look(self) -> None:
        """Take in what was recorded since."""
        opened = self.round_state.opened
        if self.plan.secure is None or opened is None or opened.kind != "train":
            return
        if self.sessions is None or self.sessions.opened != opened:
            read = self.ledger.blobs.whole
            self.sessions = SecAggSessions(
                self.plan, self.round_state, opened, read, at=self.at, refused=_unnoted
            )
            self.round_state.join(self.sessions.session)
        while words := self.round_state.heard(opened.round, self.sessions.number):
            for word in words:
                self.sessions.feed(word)


def _unnoted(step: SessionStep | None, refused: MessageRefused) -> None:
    """Note nothing: the server that leads writes it down."""
