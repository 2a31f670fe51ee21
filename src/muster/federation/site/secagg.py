# SPDX-License-Identifier: Apache-2.0
"""A client's part in a secure sum: it says its masked update, and what lets the sum be opened.

Whatever is said is kept first, sealed, so that a site that was killed says the same again and
never anything else; when the sum is open, or given up, the secrets are destroyed. Members are known
by certificates that the server hands out and this site checks itself.

An assignment has one session, for ever. The study's record has it before its first word, counts
the steps that were kept (a vault that holds fewer was put back to a copy, and would say other words
with the same secrets), and knows when it is over: at its end, when it was given up, or `HOURS`
hours after it began.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from typing import Any

import numpy as np

from muster.errors import AuditError, IdentityError, PlanError, RunError
from muster.federation.protocol import codec_tensors
from muster.federation.protocol.message import LIMIT, Ack, TrainAssignment, Wait
from muster.federation.protocol.template import update_template
from muster.federation.site.checkpointed_run import Effort
from muster.federation.site.room import Room
from muster.federation.site.server_client import LONGEST_POLL, RetryLater, number_in
from muster.federation.site.state import PendingUpdate
from muster.federation.site.study import JoinedSession
from muster.federation.site.trainer import SiteTrainer
from muster.federation.site.transfers import cut, fetch, pieces
from muster.plan.secure import session_terms
from muster.secagg import (
    Aborted,
    Await,
    Forget,
    Keep,
    Saw,
    Say,
    SessionReason,
    SessionStep,
    SessionTerms,
    client,
)
from muster.secagg.client import Action
from muster.secagg.messages import CLIENT_KINDS, Advert, Quit, SecAggMessage
from muster.security.pki.credentials import Credentials, read_credentials
from muster.security.pki.notary import Notary
from muster.security.refusal import RefusalReason as Why
from muster.security.refusal import Refused
from muster.security.transcript import TranscriptStore

__all__ = ["LABELS", "SecAggParticipant"]

STEPS = tuple(step for step in SessionStep if step is not SessionStep.OVER)
STOPS = tuple(step for step in STEPS if step is not SessionStep.ANSWER)  # an answer is rarely due
LABELS = (
    *(f"site: before {step.value} is kept" for step in STOPS),
    *(f"site: {step.value} is kept" for step in STOPS),
    *(f"site: {step.value} is said" for step in STOPS),
    "site: before session is opened",
    "site: session is opened",
    "site: before secrets are destroyed",
    "site: transcript is written",
    "site: session is over",
    "site: secrets are destroyed",
)
HOURS = 24.0  # that the secrets of a session live, at most
SAID = dict(zip(sorted(CLIENT_KINDS - {Quit.kind}), STEPS, strict=True))  # the step of a kind
EXPIRED = f"its secrets have lived for {HOURS:g} hours"
SECURE = "secure"  # the folder of transcripts, in that of the study


@dataclass
class SecAggParticipant:
    """One client's part, over its line, out of its vault; `fingerprint` is its own plan's.

    `notary` signs, and knows the members; without one (no TLS) no secure sum is taken part in.
    """

    work: SiteTrainer
    fingerprint: str
    notary: Notary | None

    _room: Room | None = field(default=None, init=False)  # of the session at hand

    async def deliver(self, task: TrainAssignment, pending: PendingUpdate) -> bool:
        """Take part, or go on with it; whether the server has its sum.

        Raises `Refused` when the server takes no more, and the next poll says why.
        """
        self.expire()
        work, place = self.work, f"{task.round} {task.attempt}"
        if self._open(task).over:
            await self.leave(task)  # that was not heard, it seems
            return False
        work.tell("secure sum begun", place, round=task.round, model=task.model)
        reason = SessionReason.DONE
        try:
            await self._session(task, pending)
        except Aborted as stop:
            reason = stop.reason
            self._over(task, str(stop))
            work.watch("told", round=task.round, text=f"the secure sum was given up: {stop}")
        work.tell("secure sum ended", place, round=task.round, reason=reason.value)
        return reason is SessionReason.DONE

    def stands(self, task: TrainAssignment) -> bool:
        """Whether this assignment had its session, open or over."""
        begun = self.work.study.begun(task)
        return begun is not None and begun.session is not None

    def settle(self, task: TrainAssignment, *, accepted: bool) -> None:
        """The fate of the assignment came, which ends its session if that has not ended."""
        begun = self.work.study.begun(task)
        if begun is not None and begun.session is not None and not begun.session.over:
            self._over(task, "" if accepted else "the round went on without this site")

    async def leave(self, task: TrainAssignment) -> None:
        """Have no further session for this assignment, and say so."""
        self._over(task, "its update, or what was kept of it, is gone")
        await self._quit(task, SessionReason.STOPPED)

    def expire(self) -> None:
        """Destroy the secrets of a session that has gone on for too long."""
        task = self._at_hand()
        if task is not None and self.work.habits.wall() >= self._open(task).until:
            self.work.note("secrets expired", round=task.round, hours=HOURS)
            self._over(task, EXPIRED)

    def ended(self) -> None:
        """The run is over, and with it a session that is not."""
        task = self._at_hand()
        if task is not None:
            self._over(task, "the run has ended")

    def _at_hand(self) -> TrainAssignment | None:
        """The task whose session is open."""
        pending = self.work.site_store.pending
        begun = pending and self.work.study.begun(pending.task)
        session = begun and begun.session
        return None if pending is None or not session or session.over else pending.task

    def _live(self, task: TrainAssignment) -> None:
        """Raise `Aborted` once the secrets of the session have been destroyed."""
        self.expire()
        if self._open(task).over:
            raise Aborted(SessionReason.STOPPED, EXPIRED)

    def _open(self, task: TrainAssignment) -> JoinedSession:
        """The one session of this assignment; in the study's record before a word is said."""
        work = self.work
        begun = work.study.begun(task)
        if begun is None or begun.session is None:
            work.site_store.at("site: before session is opened")
            work.study.open(task, work.habits.wall() + 3600 * HOURS)
            work.site_store.at("site: session is opened")
            begun = work.study.begun(task)
        assert begun is not None and begun.session is not None
        return begun.session

    def _over(self, task: TrainAssignment, why: str) -> None:
        """There is no other session, and the secrets of this one go; idempotent.

        `why` it was given up, "" where its sum is open. What can be shown of it is written first:
        a kill may come, and what it is made of goes with the secrets.
        """
        site_store, begun = self.work.site_store, self.work.study.begun(task)
        site_store.at("site: before secrets are destroyed")
        if begun is not None and begun.session is not None and not begun.session.over:
            self._written(task, begun.session, why)
            site_store.at("site: transcript is written")
        self.work.study.end(task)
        self._room = None
        site_store.at("site: session is over")
        site_store.destroy()
        site_store.at("site: secrets are destroyed")

    def _written(self, task: TrainAssignment, session: JoinedSession, why: str) -> None:
        """The transcript, and where the audit log finds it; without room for it secrets go too."""
        work, notary = self.work, self.notary
        if notary is None:
            return
        span = (session.until - 3600 * HOURS, work.habits.wall())
        store = TranscriptStore(work.study.folder / SECURE, work.study.name, notary, self._now)
        try:
            room = self._room or self._entered(notary, session)
            made = room.transcript(work.study.name, task, why, span)
            anchor = store.record(made)
        except AuditError as error:
            work.note("transcript lost", round=task.round, text=str(error))
            return
        number, digest = anchor.sequence, anchor.head
        work.note("transcript", round=task.round, number=number, digest=digest)

    def _entered(self, notary: Notary, session: JoinedSession) -> Room:
        """The room of a session, with what an earlier life of this site saw in it."""
        room = Room(notary, self.work.habits.policy.room)
        if session.seen:
            room.recall(session.seen)
        return room

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self.work.habits.wall(), UTC)

    def _kept(self, task: TrainAssignment) -> dict[str, bytes]:
        """What was kept of the session, all of it. Raises `RunError` when some is gone."""
        site_store = self.work.site_store
        kept, steps = site_store.sealed(task).read(), self._open(task).steps
        if len(kept) < steps:
            raise RunError(
                f"{site_store.folder} was put back to an older copy: it holds {len(kept)} steps of the "
                f"secure sum of round {task.round}, and the study's record counts {steps}; its "
                f"secrets are used no second time, and the round goes on without this site"
            )
        self.work.study.count(task, len(kept))  # a kill may have come before the last was counted
        return kept

    async def _session(self, task: TrainAssignment, pending: PendingUpdate) -> None:
        """Until the server has its sum. Raises `Aborted`."""
        side = await self._side(task, pending)
        number, came, stop = 0, None, None
        while True:
            deed = partial(self._next, task, side, came, stop)
            action = await self.work.working(task, Effort(), deed)
            came = stop = None
            if action is None:
                return
            try:
                if isinstance(action, Await):
                    number, came = await self._told(task, number)
                else:
                    await self._say(task, action.message, pending.update.metrics)
            except Aborted as expired:
                stop = expired
            except Refused as refused:
                if refused.reason is not Why.DUPLICATE:
                    raise
                stop = Aborted(
                    SessionReason.STOPPED, "an earlier life of this site said something else"
                )

    async def _side(self, task: TrainAssignment, pending: PendingUpdate) -> Any:
        """The session as this client sees it, where it stands."""
        site_store, notary = self.work.site_store, self.notary
        if notary is None:
            raise RunError("a secure sum needs an identity to sign with; join over https")
        self._room = room = self._entered(notary, self._open(task))
        body = await fetch(self.work.line, site_store, task, self.work.training.largest)
        try:
            terms, kept = self._terms(task, body), self._kept(task)
            room.enter(terms, await self._credentials(task))
        except (PlanError, RunError, IdentityError) as error:
            reasons = {PlanError: SessionReason.COHORT, IdentityError: SessionReason.PEERS}
            reason = reasons.get(type(error), SessionReason.STOPPED)
            await self._quit(task, reason)
            raise Aborted(reason, str(error)) from error
        return client(terms, room.party, partial(self._vector, pending), os.urandom, kept)

    def _terms(self, task: TrainAssignment, body: Any) -> SessionTerms:
        """What it is about, by this site's own plan and the model that it was sent."""
        return session_terms(
            self.work.training.plan,
            task.peers,
            study=self.work.study.name,
            run=task.run,
            round=task.round,
            attempt=task.attempt,
            plan=bytes.fromhex(self.fingerprint),
            model=sha256(body).digest(),
        )

    def _vector(self, pending: PendingUpdate) -> Any:
        """The update as integers, from the disk."""
        plan = self.work.training.plan
        tree = codec_tensors.decode(self.work.site_store.body(pending), update_template(plan))
        fields = {name: np.asarray(part) for name, part in tree["payload"].items()}
        return plan.frame.flatten(fields, int(pending.update.weight))

    def _next(
        self, task: TrainAssignment, side: Any, came: bytes | None, stop: Aborted | None
    ) -> Say | Await | None:
        """In the hand's thread: the next thing to say or to wait for; None at the end."""
        site_store = self.work.site_store
        while True:
            try:
                action: Action = side.send(came) if stop is None else side.throw(stop)
            except StopIteration:
                return None
            came = stop = None
            if isinstance(action, Keep):
                site_store.at(f"site: before {action.name} is kept")
                sealed = site_store.sealed(task)
                sealed.keep(action.name, action.data)
                site_store.at(f"site: {action.name} is kept")
                self.work.study.count(task, len(sealed))
            elif isinstance(action, Forget):
                self._over(task, "" if action.reason is SessionReason.DONE else action.text)
            elif isinstance(action, Saw):
                self._saw(task, action)
            else:
                return action

    def _saw(self, task: TrainAssignment, seen: Saw) -> None:
        """Whom it is with stands in the log before anything is said to them."""
        room = self._room
        assert room is not None
        room.saw(seen)
        self.work.study.saw(task, room.noted())
        here = set(room.left[seen.step.value])
        self.work.log(
            "secure sum with",
            round=task.round,
            step=seen.step.value,
            session=room.session,
            peers=[
                {"name": peer.name, "organisation": peer.organisation}
                for peer in room.roster
                if peer.name in here
            ],
        )

    # What goes over the line.

    async def _say(
        self, task: TrainAssignment, message: SecAggMessage, metrics: Mapping[str, float]
    ) -> None:
        """Say it until it is acknowledged. Raises `Refused`."""
        line, data = self.work.line, message.to_bytes()
        path, headers = _path(task), dict[str, str]()
        secure = self.work.training.plan.secure
        told = metrics and secure is not None and secure.metrics == "public"
        if isinstance(message, Advert) and told:
            headers["muster-metrics"] = json.dumps(dict(metrics))

        async def once() -> None:
            if isinstance(message, Quit):
                self.expire()  # however long nobody takes it
            else:
                self._live(task)
            if len(data) > LIMIT:
                await self._sent(path, memoryview(data))
                return
            line.heard(await line.http.post(path, content=data, headers=headers), Ack)
            line.moved += len(data)

        try:
            await line.persist(once)
        except Refused:
            if not isinstance(message, Quit):
                raise
            return  # nobody waits for this site any more
        if message.kind in SAID:
            self.work.site_store.at(f"site: {SAID[message.kind].value} is said")

    async def _sent(self, path: str, data: memoryview) -> None:
        """A large message, in pieces from where the server says. Raises `Refused`."""
        line, site_store = self.work.line, self.work.site_store
        path = f"{path}&digest={sha256(data).hexdigest()}&size={len(data)}"

        async def send(place: int, piece: memoryview) -> Any:
            headers = {"content-length": str(len(piece))}
            where = f"{path}&offset={place}"
            return await line.http.post(where, content=cut(piece), headers=headers)

        await pieces(line, site_store, data, send, 0)

    async def _quit(self, task: TrainAssignment, reason: SessionReason) -> None:
        await self._say(task, Quit(reason.name), {})

    async def _told(self, task: TrainAssignment, number: int) -> tuple[int, bytes]:
        """What the server says next, and its number. Raises `Refused`."""
        line = self.work.line
        wait = self.work.habits.wait
        path = f"{_path(task)}&after={number}&wait={wait}"

        async def once() -> tuple[int, bytes] | Wait:
            self._live(task)
            answer = await line.http.get(path)
            told = answer.headers.get("muster-told", "")
            if answer.status_code == 200 and (number := number_in(told)) is not None:
                return number, answer.content
            return line.heard(answer, Wait)

        while True:
            found = await line.persist(once)
            if not isinstance(found, Wait):
                return found
            await line.patience.sleep(min(found.seconds, LONGEST_POLL))  # secrets have an end

    async def _credentials(self, task: TrainAssignment) -> Credentials:
        """What the server hands out of the members; it is checked where it is used."""
        line = self.work.line

        async def once() -> Credentials:
            answer = await line.http.get(f"/v1/members?round={task.round}")
            if answer.status_code != 200:
                line.heard(answer)
            try:
                return read_credentials(answer.content)
            except Refused as refused:
                raise RetryLater(f"it answered no certificates ({refused.text})") from None

        return await line.persist(once)


def _path(task: TrainAssignment) -> str:
    """Where the session of an assignment is spoken in."""
    return f"/v1/secure/{task.round}?attempt={task.attempt}"
