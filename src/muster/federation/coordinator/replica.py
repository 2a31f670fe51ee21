# SPDX-License-Identifier: Apache-2.0
"""Several servers behind one address: what one of them hears, all of them know within a tick.

The ledger is what they share. Every server looks whether it has grown; the one that leads takes
up the seats that were decided at the others, and they take up what it has opened, and play its
secure sums from what is recorded. Progress is told in numbers that only grow, so that no server
needs another's clock.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from muster.federation.coordinator.facts import RAISED
from muster.federation.coordinator.round_state import RoundState
from muster.federation.coordinator.secagg_session import SecAggSessions
from muster.federation.protocol.claims import odd_member
from muster.plan import Plan
from muster.secagg import MessageRefused, SessionStep
from muster.store.ledger import FederationStore
from muster.store.records import Member, OpenWork
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
    seen, moved, told = -1, Counter[ClientId](), Counter[ClientId]()
    overheard = _Overheard(plan, ledger, round_state, at)
    while True:
        fresh = {c: n for c, n in round_state.moved.items() if n > told[c]}
        version, heard = await asyncio.to_thread(_look, ledger, fresh)
        told.update(Counter({c: n - told[c] for c, n in fresh.items()}))
        for client, count in heard.items():
            if count > moved[client]:
                moved[client] = count
                round_state.heard_elsewhere(client)
        if version != seen:
            seen = version
            found = await asyncio.to_thread(_read, ledger)
            _know(round_state, found)
            await asyncio.to_thread(overheard.look, found[0], leads)
            _take(round_state, found, leads=leads.is_set())
        await asyncio.sleep(tick)


def _look(
    ledger: FederationStore, fresh: Mapping[ClientId, int]
) -> tuple[int, dict[ClientId, int]]:
    if fresh:
        ledger.beat(fresh)
    return ledger.version(), ledger.progress()


Found = tuple[Any, dict[str, Member], str, int, tuple[int, ...]]


def _read(ledger: FederationStore) -> Found:
    raised = tuple(ledger.meta(RAISED) or ())  # first: what follows is of this attempt or a later
    return ledger.opened(), ledger.members(), ledger.wanted(), ledger.latest_round(), raised


def _know(round_state: RoundState, found: Found) -> None:
    _, members, wanted, *_ = found
    for member in members.values():
        if round_state.members.get(member.name) != member and not odd_member(member):
            round_state.enter(member)
    if wanted != round_state.wanted:
        round_state.want(wanted)


def _take(round_state: RoundState, found: Found, *, leads: bool) -> None:
    opened, _, _, committed, raised = found
    if leads:
        if opened:
            round_state.record_status(opened[0].round, opened[0].kind, opened[1])
        return
    if raised != round_state.facts.raised:  # the run has gone back
        round_state.gone_back(committed, raised)
    round_state.apply_remote(opened, committed)


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

    def look(self, found: tuple[OpenWork, Any] | None, leads: asyncio.Event) -> None:
        """Take in what was recorded; where this server leads, only say that there is more."""
        opened = found[0] if found else None
        if self.plan.secure is None or opened is None or opened.kind != "train":
            return
        if leads.is_set():
            self._stir(opened.round)
            return
        if self.sessions is None or self.sessions.round != opened.round:
            read = self.ledger.blobs.whole
            self.sessions = SecAggSessions(
                self.plan, self.round_state, opened, read, at=self.at, refused=_unnoted
            )
            self.round_state.join(self.sessions.session)
        while words := self.ledger.heard(opened.round, self.sessions.number):
            for word in words:
                self.sessions.feed(word)

    def _stir(self, round: int) -> None:
        """Wake the engine's thread: what was said at another server is news for it."""
        session = self.round_state.session
        if session is None or session.round != round:
            return
        words = self.ledger.heard(round, session.last)
        with self.round_state.changed:
            session.last = max([session.last, *(word.number for word in words)])
            self.round_state.changed.notify_all()


def _unnoted(step: SessionStep | None, refused: MessageRefused) -> None:
    """Note nothing: the server that leads writes it down."""
