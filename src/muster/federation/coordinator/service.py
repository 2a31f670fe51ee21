# SPDX-License-Identifier: Apache-2.0
"""The service: what a site says becomes a command, and what it is told an answer.

All of it runs in the event loop; a name is the one in a certificate that was admitted. Nothing is
decided here (see `decide`): what is refused changes nothing, and raises `Refused` with the reason
that the site is told. What only the outside knows is looked at here: the disk's room, a record of
long ago.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from muster.errors import RunError
from muster.federation.coordinator.apply import ORDERS
from muster.federation.coordinator.commands import (
    AnnounceUpdate,
    AskTask,
    Attempted,
    BodyArrived,
    BodyRefused,
    Command,
    Disposed,
    GiveAnswer,
    GiveOrder,
    HearSecure,
    JoinSecure,
    SayHello,
    ShowBytes,
    ShowSteps,
)
from muster.federation.coordinator.decide import Decision
from muster.federation.coordinator.round_state import Back, FederationFacts, RoundState
from muster.federation.coordinator.secagg_progress import SecAggProgress
from muster.federation.protocol.limits import kept_of_disk
from muster.federation.protocol.message import (
    Ack,
    Decline,
    Hello,
    Measured,
    Message,
    Poll,
    Progress,
    TrainingFailure,
    UpdateHeader,
    Welcome,
)
from muster.security.refusal import RefusalReason, Refused
from muster.store.blobs import model_name, update_name
from muster.store.ledger import FederationStore
from muster.store.records import SecAggEvent
from muster.types import Tree

__all__ = ["FederationService", "Upload"]


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

    @property
    def facts(self) -> FederationFacts:
        """The facts that do not change while the server runs."""
        return self.round_state.facts

    async def welcome(self, name: str, hello: Hello, certificate: str = "") -> Welcome:
        """Enrol a site, durably; the same again changes nothing."""
        found = await self._enrol(SayHello(name, hello, certificate))
        if found.events:
            await asyncio.to_thread(self._note, name, "enrolled", rows=hello.rows)
        welcome: Welcome = found.answer
        return welcome

    async def _enrol(self, command: SayHello) -> Decision:
        return await asyncio.wrap_future(self.round_state.submit(command))

    async def poll(self, name: str, poll: Poll) -> Message:
        """Return the next thing for this site to do; it is kept waiting until there is one."""
        round_state = self.round_state
        until = round_state.clock() + poll.wait
        fate = self._fate(name, poll.pending)
        while True:
            left = until - round_state.clock()
            said: Message | None = round_state.ask(AskTask(name, poll, left, fate))
            if said is not None:
                return said
            client = round_state.members[name].client
            await round_state.notifier.wait(client, until - round_state.clock())

    def _fate(self, name: str, pending: int) -> bool:
        """Return whether a reply of long ago is in its model, by one record: it may ask often."""
        state, member = self.round_state.state, self.round_state.members.get(name)
        if member is None or not 0 < pending <= state.committed or pending in state.fates:
            return False
        record = self._ledger.round_record(pending)
        return record is not None and member.client in record["accepted"]

    def announce(self, name: str, update: UpdateHeader) -> Upload:
        """Decide whether an update is wanted, before a byte of it is read."""
        member, room, blob = self.round_state.members.get(name), 0, ""
        if member is not None:
            blob = update_name(update.round, member.client, update.digest)
            held = self._ledger.blobs.held(blob)
            room = self._ledger.blobs.room() + held - kept_of_disk(self.facts.size)
        wanted = self.round_state.ask(AnnounceUpdate(name, update, room))
        return Upload(blob, update, self.facts.template, held=not wanted)

    async def arrived(self, name: str, upload: Upload) -> Ack:
        """Take an update that is whole and on the disk: durable as soon as this returns."""
        said: Ack = await self._told(BodyArrived(name, upload.update))
        return said

    def disposed(self, name: str, update: UpdateHeader) -> bool:
        """Return whether the journal disposes of an update: it is counted, or its round is over.

        Reads the journal, as another server may have taken it.
        """
        self.round_state.follow()
        found: bool = self.round_state.ask(Disposed(name, update))
        return found

    async def refuse(self, name: str, update: UpdateHeader, refused: Refused) -> None:
        """Fail the client of a whole update that was no good."""
        await self._told(BodyRefused(name, update, str(refused.reason), refused.text))

    async def answer(self, name: str, message: Decline | TrainingFailure | Measured) -> Ack:
        """Take the answer of a client that declines, failed, or has measured."""
        said: Ack = await self._told(GiveAnswer(name, message))
        return said

    async def _told(self, command: Command) -> Any:
        """Answer a command, once what follows from it is durable."""
        return (await asyncio.wrap_future(self.round_state.submit(command))).answer

    def progress(self, name: str, round: int, amount: int) -> None:
        """Note that bytes or steps moved: the client's lease begins anew."""
        self.round_state.ask(ShowBytes(name, round, amount))

    def stepped(self, name: str, said: Progress) -> None:
        """Note the steps done so far; other than said before (a restart repeats) is progress."""
        self.round_state.ask(ShowSteps(name, said))

    def attempted(self, round: int, attempt: int) -> None:
        """Raise `Refused` for what belongs to rounds that this server has lost, or has not yet."""
        self.round_state.ask(Attempted(round, attempt))

    def secure(self, name: str, round: int) -> SecAggProgress:
        """Return the secure sum of a round that this member takes part in. Raises `Refused`."""
        found: SecAggProgress = self.round_state.ask(JoinSecure(name, round))
        return found

    async def hear(self, round: int, word: SecAggEvent) -> None:
        """Take a message of a secure sum, durable on return; the first of its kind stands."""
        await self._told(HearSecure(round, word))

    async def secure_news(
        self, name: str, round: int, after: float, wait: float
    ) -> tuple[int, bytes] | None:
        """Return what a member was told last in a secure sum, when that is newer; wait for it.

        None when there was nothing. Raises `Refused` once the round is over.
        """
        round_state = self.round_state
        until = round_state.clock() + wait
        while True:
            session: SecAggProgress | None = round_state.ask(JoinSecure(name, round, begun=False))
            client = round_state.members[name].client
            found = session.told.get(client, (0, b"")) if session else (0, b"")
            left = until - round_state.clock()
            if found[0] > after:
                return found
            if left <= 0 or round_state.closing:
                return None
            await round_state.notifier.wait(client, left)

    def model(self, digest: str) -> str:
        """Return the blob of a model, or of its part that nobody trains, that sites may fetch."""
        for kind in ("model", "frozen"):
            if self._ledger.blobs.size(name := model_name(digest, kind)) is not None:
                return name
        raise Refused(RefusalReason.UNKNOWN, f"there is no model {digest[:12]}…; poll for the task")

    async def want(self, word: str) -> dict[str, Any]:
        """Write down what the operator wants, and see to it."""
        if word in ORDERS:  # into the log before it is followed; what is no order is refused
            await asyncio.to_thread(self._note, "operator", word, round=self.round_state.committed)
        await self._told(GiveOrder(word))
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
        """Return what an operator sees."""
        return self.round_state.status()


def _unnoted(actor: str, action: str, **details: Any) -> None:
    """Note nothing: nobody keeps a log."""
