# SPDX-License-Identifier: Apache-2.0
"""A round whose sums are masked: the server's side of the sessions, in the engine's thread.

What a member says is written down in the ledger before it is answered, and is read from there in
the one order in which it was written; so a server that comes back plays the same events again and
stands where the other one fell. A step ends when everybody due has spoken or left, or when all
that are missing have lost their leases: to be told something begins a lease, to speak renews it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import Any

import numpy as np

from muster.aggregation.sums import add
from muster.errors import RunError
from muster.federation.coordinator.commands import DecideAssignments, Exclude, HearSecure
from muster.federation.coordinator.lifecycle import Call, closes
from muster.federation.coordinator.round_state import RoundState
from muster.federation.coordinator.secagg_session import QUIT, SecAggSession, SecAggSessions
from muster.federation.protocol.limits import STEP
from muster.plan import Plan
from muster.plan.secure import refused_sum
from muster.secagg import Aborted, MessageRefused, SessionReason, SessionStep
from muster.secagg.messages import Malformed, Quit
from muster.security.refusal import Refused
from muster.store.records import Assignment, OpenWork, SecAggEvent
from muster.types import ClientId, Rejected, Reply, Sent

__all__ = ["LABELS", "SecAggCoordinator"]

Seats = Mapping[ClientId, Assignment]
STEPS = tuple(step for step in SessionStep if step is not SessionStep.OVER)
CHOSEN = {SessionReason.STOPPED, SessionReason.PEERS}  # why a client leaves that has not failed
LABELS = (
    *(f"secure: {step.value} begins" for step in STEPS if step is not SessionStep.ANSWER),
    "secure: before a message is recorded",
    "secure: a message is recorded",
    "secure: before a step is closed",
    "secure: a step is closed",
    "secure: opened",
    "secure: seats are decided",
)


class SecAggCoordinator:
    """One round's sessions, made before the round is shown; `check` raises when it is to stop."""

    def __init__(
        self,
        plan: Plan,
        round_state: RoundState,
        opened: OpenWork,
        sent: Sent,
        call: Call,
        *,
        check: Callable[[], None],
        at: Callable[[str], None],
    ) -> None:
        self.plan, self.round_state, self.opened, self.sent = plan, round_state, opened, sent
        self.call, self.check, self.at = call, check, at
        self.sessions = SecAggSessions(
            plan, round_state, opened, round_state.ledger.blobs.whole, at=at, refused=self._refused
        )
        self.session = self.sessions.session
        self._names = {client: name for name, client in self.session.clients.items()}
        self._since: dict[
            int, tuple[SessionStep | None, float]
        ] = {}  # the step of a session, and its begin
        self.left: dict[
            str, Assignment
        ] = {}  # who said that it left, and its seat unless it counts
        self.refused: dict[int, str] = {}  # the groups whose sums honest clients cannot have made
        self.sessions.know(self._hear(self.sessions.certificates()))

    def outcome(self) -> tuple[list[Reply | Rejected], str]:
        """Return the outcome of each group's sum, and why it took nothing more.

        Seats are decided.
        """
        facts, round, sessions = self.round_state.facts, self.opened.round, self.sessions
        facts.note("server", "secure sum begun", round=round, invited=len(self.opened.cohort))
        self._play()
        self.at("secure: opened")
        found = [self._opened(i, group) for i, group in enumerate(sessions.each) if group.found]
        self._exclude()
        self._decide([self._seat(client) for client in self.opened.cohort])
        self.at("secure: seats are decided")
        for place, group in enumerate(sessions.each):
            facts.note(
                "server",
                "secure sum ended",
                round=round,
                group=place,
                reason=(group.stop.reason if group.stop else SessionReason.DONE).value,
                survivors=len(group.found.survivors) if group.found else 0,
                refused=self.refused.get(place, ""),
                liars=[liar.name for liar in group.liars],
            )
        return found, self._cause()

    def _exclude(self) -> None:
        """Exclude who is known to have lied: that costs no more sums than liars."""
        for group in self.sessions.each:
            for liar in group.liars:
                self.round_state.do(Exclude(group.clients[liar.name], liar.why))
                self.round_state.facts.note(
                    liar.name, "left out", round=self.opened.round, reason=liar.why
                )

    def _cause(self) -> str:
        """Say how it ended."""
        sessions = self.sessions.each
        counts = [
            len(group.found.survivors)
            for place, group in enumerate(sessions)
            if group.found and place not in self.refused
        ]
        if counts:
            several = f" in {len(counts)} of {len(sessions)} groups" if len(sessions) > 1 else ""
            return f"the sum of {sum(counts)} clients is open{several}"
        if self.refused:
            return f"the sum is none that honest clients make: {next(iter(self.refused.values()))}"
        return self._given_up(sessions[0] if sessions else None)[1]

    def _given_up(self, group: SecAggSession | None) -> tuple[SessionReason, str]:
        stop = group.stop if group else Aborted(SessionReason.COHORT, self.sessions.fault)
        assert stop is not None
        return stop.reason, f"the secure sum was given up ({stop.reason.value}): {stop}"

    def _play(self) -> None:
        """Play all events, recorded ones and those that come, until every session has ended."""
        sessions, queue = self.sessions, deque[SecAggEvent]()
        while not all(group.over for group in sessions.each):
            if not queue:
                queue.extend(self.round_state.heard(self.opened.round, sessions.number))
            if not queue:
                self._wait()
                continue
            word = queue.popleft()
            if word.kind == QUIT:
                self._quit(word.name, sessions.said(word))
            sessions.feed(word)

    def _refused(self, step: SessionStep | None, refused: MessageRefused) -> None:
        """Note that a message had no effect."""
        self.round_state.refusals[f"secure: {refused.reason.name.lower()}"] += 1
        self.round_state.facts.note(
            refused.name,
            "secure message refused",
            round=self.opened.round,
            step=step.value if step else "",
            reason=refused.reason.value,
        )

    def _wait(self) -> None:
        """Wait for a possible event; what only the server knows it writes down itself."""
        round_state, gone, closed = self.round_state, list[str](), list[tuple[int, SecAggSession]]()
        seen = round_state.news.count
        self.check()
        if self.session.last > self.sessions.number:
            return
        soonest, seats, leases = round_state.facts.lease, self._seats(), round_state.leases()
        for place, group in enumerate(self.sessions.each):
            if group.over:
                continue
            due = group.due - self.left.keys()
            ended = {name for name in due if self._standing(seats, name) in ("declined", "failed")}
            gone += sorted(ended)
            left = self._closed(place, group, due, seats, leases)
            soonest = min(soonest, left)
            closed += [(place, group)] if left <= 0 else []
        if not gone and not closed:
            round_state.news.wait(seen, soonest)
            return
        if gone:
            quit_ = Quit(SessionReason.STOPPED.name).to_bytes()
            for name in gone:
                self._hear(SecAggEvent(name, QUIT, quit_))
            return
        for place, group in closed:
            assert group.step is not None
            self.at("secure: before a step is closed")
            self._hear(SecAggEvent("", f"{place} {group.step.value}"))
            self.at("secure: a step is closed")

    def _closed(
        self,
        place: int,
        group: SecAggSession,
        due: AbstractSet[str],
        seats: Seats,
        leases: Mapping[ClientId, float],
    ) -> float:
        """Seconds until nobody who is due has a lease, or the round is to go on without them.

        The plan's deadline is that of the first step, with the training before it, and as long
        again of each step after it; without one, `limits` say how long: whoever makes progress
        without end holds nobody, and nobody's secrets end before the sum does.
        """
        now = self.round_state.clock()
        until = max((leases.get(group.clients[n], now) for n in due), default=now)
        if group.step is SessionStep.ADVERTISE:
            here = {c.clients[name] for c in self.sessions.each for name in _advertised(c)}
            each = [Assignment(c, "arrived") if c in here else s for c, s in seats.items()]
            if closes(self.call, each, now) is not None:
                return 0.0
            until = min(until, self.call.until)
        else:
            if self._since.get(place, (None, 0.0))[0] is not group.step:
                self._since[place] = group.step, now
            most = STEP if self.plan.deadline is None else self.plan.deadline
            until = min(until, self._since[place][1] + most)
        return until - now

    def _seats(self) -> Seats:
        found = self.round_state.assignments(self.opened.round, "train")
        if found is None:
            raise self._passed()
        return found

    def _standing(self, seats: Seats, name: str) -> str:
        return seats[self.session.clients[name]].standing

    def _hear(self, word: SecAggEvent) -> SecAggEvent:
        """Write an event down; the first of its kind."""
        try:
            number = self.round_state.do(HearSecure(self.opened.round, word)).answer
        except Refused as refused:
            raise self._passed() from refused
        return next(iter(self.round_state.heard(self.opened.round, number - 1)))

    def _passed(self) -> RunError:
        return RunError(
            f"round {self.opened.round} is not open any more; another server has gone on"
        )

    def _quit(self, name: str, data: bytes) -> None:
        """Note that a client has left, and why; its vector still counts where it is in the sum."""
        client, reason = self.session.clients.get(name), SessionReason.STOPPED
        if client is None:
            return  # nobody's word
        with suppress(Malformed):  # what was written down has happened, and ends no engine
            reason = SessionReason.__members__.get(Quit.from_bytes(data).reason, reason)
        standing: Any = "declined" if reason in CHOSEN else "failed"
        self.left[name] = seat = Assignment(client, standing, "secure", f"it left: {reason.value}")
        group = self.sessions.of(name)
        if name not in group.spoken and group.step in STEPS[: STEPS.index(SessionStep.MASK) + 1]:
            self._decide([seat])
        self.round_state.facts.note(
            name, "left a secure sum", round=self.opened.round, reason=reason.value
        )

    def _decide(self, seats: list[Assignment]) -> None:
        try:
            self.round_state.do(DecideAssignments(self.opened.round, "train", tuple(seats)))
        except Refused as refused:
            raise self._passed() from refused

    def _seat(self, client: ClientId) -> Assignment:
        """Return the seat of a client that is not decided yet."""
        name = self._names[client]
        group = self.sessions.of(name) if self.sessions.each else None
        if group and group.found and name in group.found.survivors:
            why = self.refused.get(self.sessions.each.index(group))
            if why:  # somebody in it lied, and nobody knows who: no failure of this one's
                return Assignment(
                    client, "late", "sum", f"the sum that it is in was given up: {why}"
                )
            return Assignment(client, "arrived", metrics=self.sessions.metrics.get(client, {}))
        if name in self.left:
            return self.left[name]
        if group is None or group.found is None:
            reason, cause = self._given_up(group)
            return Assignment(client, "late", reason.name.lower(), cause)
        step = group.fell.get(name, SessionStep.UNMASK.value)
        return Assignment(
            client, "late", "lease", f"it had not answered in the secure sum, at {step}"
        )

    def _opened(self, place: int, group: SecAggSession) -> Reply | Rejected:
        """Return a sum as the pipeline decodes it, where honest clients can have made it."""
        plan, found = self.plan, group.found
        assert plan.secure is not None and found is not None
        alive = {group.clients[name] for name in found.survivors}
        clients = tuple(client for client in self.opened.cohort if client in alive)
        sums, weight = plan.frame.restore(found.total, len(alive))
        refusal = refused_sum(plan, self.sent, sums, weight, len(alive))
        if refusal:
            self.refused[place] = refusal
            return Rejected(clients, refusal)
        like = self.round_state.facts.template["buffers"]
        facts = plan.secure.facts(group.terms, group.advertised, clients)
        return Reply(
            clients,
            sums,
            float(weight),
            self._public(clients),
            np.zeros(like.shape, like.dtype),
            (facts,),
        )

    def _public(self, clients: tuple[ClientId, ...]) -> Mapping[str, float]:
        """Return the sums of the metrics that the plan makes public."""
        assert self.plan.secure is not None
        if self.plan.secure.metrics == "hidden":
            return {}
        metrics = self.sessions.metrics
        return add([Reply((c,), {}, 0.0, metrics[c], {}) for c in clients]).metrics


def _advertised(group: SecAggSession) -> set[str]:
    """Return the clients that have said their keys: first all who spoke, then those who live."""
    return group.spoken if group.step is SessionStep.ADVERTISE else group.live
