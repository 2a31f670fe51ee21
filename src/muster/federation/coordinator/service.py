# SPDX-License-Identifier: Apache-2.0
"""The service: what a site says is checked, made durable, and answered.

All of it runs in the event loop; a name is the one in a certificate that was admitted. What is
refused changes nothing, and raises `Refused` with the reason that the site is told.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from muster.errors import RunError
from muster.federation.coordinator.admission import AdmissionLimits, admit
from muster.federation.coordinator.round_state import Back, FederationFacts, RoundState
from muster.federation.coordinator.status import status
from muster.federation.protocol.claims import (
    check_hello,
    check_measured,
    check_training,
    check_weight,
    possible_rows,
)
from muster.federation.protocol.limits import ENROLMENTS, MEMBERS, kept_of_disk
from muster.federation.protocol.message import (
    VERSIONS,
    Ack,
    Decline,
    Evaluate,
    Hello,
    Measured,
    Message,
    Poll,
    Progress,
    Settled,
    TrainAssignment,
    TrainingFailure,
    UpdateHeader,
    Wait,
    Welcome,
    agree,
)
from muster.security.refusal import RefusalReason, Refused
from muster.store.blobs import model_name, update_name
from muster.store.ledger import FederationStore
from muster.store.records import Assignment, Kind, Member, OpenWork
from muster.types import ClientId, Tree

__all__ = ["FederationService", "Upload", "WORDS"]

DAY = 86400.0
WORDS = ("run", "pause", "drain", "stop")


@dataclass(frozen=True)
class Upload:
    """An announced update that is wanted: the blob to fill, and what must come; or it is `held`."""

    blob: str
    update: UpdateHeader
    template: Tree
    held: bool


class FederationService:
    """The service that answers sites and operators, over the state of one run's rounds.

    `note(actor, action, **details)` writes an audit log, on the disk when it returns.
    """

    def __init__(
        self,
        round_state: RoundState,
        ledger: FederationStore,
        note: Callable[..., Any] | None = None,
    ) -> None:
        self.round_state, self._ledger, self._note = round_state, ledger, note or _unnoted
        self.counts = round_state.refusals
        self._enrolments: dict[str, tuple[float, int]] = {}  # since when, and how many
        self._steps: dict[ClientId, tuple[int, int]] = {}  # the round, and how far it is

    @property
    def facts(self) -> FederationFacts:
        """The facts that do not change while the server runs."""
        return self.round_state.facts

    async def welcome(self, name: str, hello: Hello, certificate: str = "") -> Welcome:
        """Enrol a site, durably; the same again changes nothing."""
        facts = self.facts
        version = agree(Hello(VERSIONS, "server", facts.fingerprint), hello)
        check_hello(name, hello)
        member = Member(name, facts.names.get(name, name), hello.rows, certificate)
        if self.round_state.members.get(name) != member:
            if name not in self.round_state.members and len(self.round_state.members) >= MEMBERS:
                raise Refused(
                    RefusalReason.NO_ROOM, f"{MEMBERS} members are enrolled; no more are taken"
                )
            again = self._again(name)
            await asyncio.wrap_future(self._ledger.enrol(member))
            await asyncio.to_thread(self._note, name, "enrolled", rows=hello.rows)
            self._enrolments[name] = again
        self.round_state.enter(member)
        return Welcome(version, facts.run, member.client, facts.lease, facts.study)

    def _again(self, name: str) -> tuple[float, int]:
        """Count another enrolment of a member: each is a line of the log, so a day lets few in."""
        now = self.round_state.clock()
        since, count = self._enrolments.get(name, (now, 0))
        if now - since >= DAY:
            since, count = now, 0
        if count >= ENROLMENTS:
            raise Refused(
                RefusalReason.TOO_OFTEN,
                f"{name} has changed its rows or its certificate {count} times within a day; "
                f"keep to what it said last, or wait",
            )
        return since, count + 1

    async def poll(self, name: str, poll: Poll) -> Message:
        """Return the next thing for this site to do; it is kept waiting until there is one."""
        client, round_state = self._member(name).client, self.round_state
        self._run(poll.run)
        until = round_state.clock() + poll.wait
        while True:
            round_state.hear(client)
            with round_state.changed:
                said = self._next(client, poll)
            left = until - round_state.clock()
            if said is not None:
                return said
            if client in round_state.excluded:
                raise Refused(
                    RefusalReason.LEFT_OUT,
                    f"{name} takes part no more: {round_state.excluded[client]}",
                )
            if round_state.quarantined(client):
                raise Refused(
                    RefusalReason.LEFT_OUT,
                    f"{name} has failed in too many rounds on end and is left out; mend it (its "
                    f"log has the reason), then say hello again",
                )
            if left <= 0 or round_state.closing or self._crowded():
                return Wait(self._pace(poll.wait))
            await round_state.notifier.wait(client, left)

    def _crowded(self) -> bool:
        """Return whether as many are kept waiting as may be.

        Where nobody may learn who was drawn, all are paced or none: how many are not at work now
        would tell how many are.
        """
        most = self.facts.polls
        every = self.facts.hides and len(self.round_state.members) > most
        return every or self.round_state.notifier.waiting >= most

    def _pace(self, asked: float) -> float:
        """Return the seconds until a client should ask again, so that all together keep the pace.

        A power of two from 1: no client can count the others by it.
        """
        if self.round_state.closing:
            return 1.0
        if asked > 0 and not self._crowded():
            return 0.0
        return float(
            1 << max(0, math.ceil(math.log2(len(self.round_state.members) / self.facts.pace)))
        )

    def _next(self, client: ClientId, poll: Poll) -> Message | None:
        round_state, facts = self.round_state, self.facts
        run, lease, attempt = facts.run, facts.lease, facts.attempt
        pending = poll.pending
        if pending and pending <= round_state.committed:
            ours = poll.attempt == facts.attempt_of(pending)  # else it was lost with its round
            accepted = ours and client in round_state.accepted(pending)
            return Settled(run, pending, accepted, poll.attempt)
        opened, seat = round_state.opened, round_state.seats.get(client)
        if opened is not None and seat is not None and round_state.asks(seat):
            round_state.take(client)
            round, model = opened.round, opened.model
            if opened.kind == "evaluate":
                return Evaluate(run, round, model, lease, client in opened.counted, attempt)
            times = opened.times[opened.cohort.index(client)]
            peers = next((len(group) for group in opened.groups if client in group), 0)
            return TrainAssignment(run, round, model, lease, times, peers, attempt)
        if round_state.ended is not None:
            round_state.told.add(client)
            round_state.changed.notify_all()
            return round_state.ended
        return None

    def announce(self, name: str, update: UpdateHeader) -> Upload:
        """Decide whether an update is wanted, before a byte of it is read."""
        member, round_state = self._member(name), self.round_state
        blob = update_name(update.round, member.client, update.digest)
        if update.run == self.facts.run and round_state.held.get(member.client) == (
            update.round,
            update.digest,
        ):
            return Upload(blob, update, self.facts.template, held=True)
        opened, seat = self._admit(member.client, update, self._ledger.blobs.held(blob))
        self._undecided(seat, update.round)
        self._check(update, member, opened)
        round_state.hear(member.client, 1)
        return Upload(blob, update, self.facts.template, held=False)

    def _admit(
        self, client: ClientId, update: UpdateHeader, begun: int
    ) -> tuple[OpenWork, Assignment]:
        round_state = self.round_state
        with round_state.changed:
            opened, seat = round_state.opened, round_state.seats.get(client)
            left = round_state.leases.get(client, math.inf) - round_state.clock()
        current = round_state.committed + 1
        if opened is not None:
            current = opened.round + (opened.kind == "evaluate")
        invited = seat is not None and current == (opened.round if opened else 0)
        terms = AdmissionLimits(
            self.facts.run,
            current,
            invited=invited,
            left=left,
            held=seat.digest if seat else "",
            limit=self.facts.size,
            room=self._ledger.blobs.room() + begun - kept_of_disk(self.facts.size),
            attempt=self.facts.attempt,
        )
        try:
            admit(update, terms)
        except Refused as refused:
            if refused.reason is RefusalReason.NO_ROOM:
                round_state.hear(client, 1)  # that the disk is full is not the client's silence
            raise
        assert opened is not None and seat is not None
        return opened, seat

    def _check(self, update: UpdateHeader, member: Member, opened: OpenWork) -> None:
        """Check what an update says of itself, against the plan, the draw and the enrolment."""
        facts, client = self.facts, member.client
        drawn: Any = next((rows for one, rows in opened.roster if one == client), None)
        if possible_rows(drawn) != drawn:  # an odd record
            drawn = member.rows
        check_training(update.metrics, {member.rows, drawn}, facts.claims)
        times = opened.times[opened.cohort.index(client)]
        check_weight(update.weight, drawn, times, facts.weigh)  # however it has enrolled since

    def _undecided(self, seat: Assignment, round: int) -> None:
        if seat.standing == "late":
            raise Refused(RefusalReason.LATE, f"round {round} goes on without it: {seat.text}")
        if seat.standing in ("declined", "failed"):
            raise Refused(RefusalReason.CLOSED, f"the seat in round {round} is {seat.standing}")

    async def arrived(self, name: str, upload: Upload) -> Ack:
        """Take an update that is whole and on the disk: durable as soon as this returns."""
        update, client = upload.update, self._member(name).client
        seat = Assignment(
            client,
            "arrived",
            digest=update.digest,
            size=update.size,
            weight=update.weight,
            metrics=update.metrics,
        )
        held = await self._decide(update.round, "train", seat)
        if held.standing == "arrived" and held.digest == update.digest:
            return Ack(True)
        self._undecided(held, update.round)
        raise Refused(RefusalReason.DUPLICATE, f"another update for round {update.round} is held")

    def disposed(self, name: str, update: UpdateHeader) -> bool:
        """Return whether the ledger disposes of an update: it is counted, or its round is over.

        Asks the database, as another server may have taken it; the seat first, which is there until
        its round is the latest.
        """
        seats = self._ledger.seats(update.round, "train")
        seat = seats.get(self._member(name).client)
        counted = seat is not None and seat.digest == update.digest
        return counted or self._ledger.latest_round() >= update.round

    async def refuse(self, name: str, update: UpdateHeader, refused: Refused) -> None:
        """Refuse a whole update that was no good: its client has failed in this round."""
        seat = Assignment(self._member(name).client, "failed", str(refused.reason), refused.text)
        await self._decide(update.round, "train", seat)

    async def answer(self, name: str, message: Decline | TrainingFailure | Measured) -> Ack:
        """Take the answer of a client that declines, failed, or has measured."""
        client, opened = self._member(name).client, self.round_state.opened
        self._run(message.run)
        self.attempted(message.round, message.attempt)
        if opened is None or opened.round != message.round or client not in self.round_state.seats:
            raise Refused(
                RefusalReason.STALE, f"round {message.round} asks nothing of {client!r} now"
            )
        if isinstance(message, Decline):
            seat = Assignment(client, "declined", "declined", message.text)
        elif isinstance(message, TrainingFailure):
            seat = Assignment(client, "failed", message.stage, message.text)
        elif opened.kind == "evaluate" and opened.model == message.model:
            check_measured(message.metrics, self._member(name).rows, self.facts.claims)
            seat = Assignment(client, "arrived", metrics=message.metrics)
        else:
            raise Refused(
                RefusalReason.STALE, f"that model of round {message.round} is not measured now"
            )
        await self._decide(message.round, opened.kind, seat)
        return Ack(True)

    async def _decide(self, round: int, kind: Kind, seat: Assignment) -> Assignment:
        found = await asyncio.wrap_future(self._ledger.decide(round, kind, [seat]))
        if seat.client not in found:
            raise Refused(RefusalReason.STALE, f"round {round} is over")
        self.round_state.record_status(round, kind, found)
        held: Assignment = found[seat.client]
        return held

    def progress(self, name: str, round: int, amount: int) -> None:
        """Note that bytes or steps moved: the client's lease begins anew."""
        opened = self.round_state.opened
        current = opened is not None and opened.round == round
        self.round_state.hear(self._member(name).client, amount if current else 0)

    def stepped(self, name: str, said: Progress) -> None:
        """Note the steps done so far; other than said before (a restart repeats) is progress."""
        client, opened = self._member(name).client, self.round_state.opened
        round, steps = said.round, said.steps
        self._run(said.run)
        self.attempted(round, said.attempt)
        seat = self.round_state.seats.get(client)
        if opened is None or opened.round != round or seat is None:
            raise Refused(RefusalReason.STALE, f"round {round} is over, or does not ask {client!r}")
        self._undecided(seat, round)
        if self._steps.get(client) != (round, steps):
            self._steps[client] = (round, steps)
            self.progress(name, round, 1)

    def attempted(self, round: int, attempt: int) -> None:
        """Raise `Refused` for what belongs to rounds that this server has lost, or has not yet."""
        now = self.facts.attempt
        if attempt != now:
            raise Refused(
                RefusalReason.STALE,
                f"attempt {attempt} of round {round} is not played; it is attempt {now}",
            )

    def model(self, digest: str) -> str:
        """Return the blob of a model, or of its part that nobody trains, that sites may fetch."""
        for kind in ("model", "frozen"):
            if self._ledger.blobs.size(name := model_name(digest, kind)) is not None:
                return name
        raise Refused(RefusalReason.UNKNOWN, f"there is no model {digest[:12]}…; poll for the task")

    async def want(self, word: str) -> dict[str, Any]:
        """Write down what the operator wants, and see to it."""
        if word not in WORDS:
            raise Refused(RefusalReason.MALFORMED, f"{word!r} is no order; use {', '.join(WORDS)}")
        await asyncio.to_thread(self._note, "operator", word, round=self.round_state.committed)
        await asyncio.to_thread(self._ledger.want, word)
        self.round_state.want(word)
        return self.status()

    async def go_back(self, round: int, by: str, reason: str) -> dict[str, Any]:
        """Have the run go back to a round that it keeps; what was done, once it is durable.

        Raises `Refused` where it cannot be done, and nothing has changed then.
        """
        back = Back(round, by, reason)
        self.round_state.ask_back(back)
        try:
            return await asyncio.wrap_future(back.done)
        except RunError as error:
            raise Refused(RefusalReason.CLOSED, str(error)) from error

    def status(self) -> dict[str, Any]:
        """Return the state of the run as an operator sees it."""
        return status(self.round_state)

    def _member(self, name: str) -> Member:
        try:
            return self.round_state.members[name]
        except KeyError:
            raise Refused(RefusalReason.UNENROLLED, f"{name} has not said hello here") from None

    def _run(self, run: str) -> None:
        if run != self.facts.run:
            raise Refused(RefusalReason.UNKNOWN_RUN, f"this server runs {self.facts.run}")


def _unnoted(actor: str, action: str, **details: Any) -> None:
    """Note nothing: nobody keeps a log."""
