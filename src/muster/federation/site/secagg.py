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

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from typing import Any

import numpy as np

from muster.errors import AuditError, IdentityError, MusterError, PlanError, RunError
from muster.federation.protocol import codec_tensors
from muster.federation.protocol.message import TrainAssignment
from muster.federation.protocol.template import update_template
from muster.federation.site.checkpointed_run import Effort
from muster.federation.site.room import Room
from muster.federation.site.secure_line import STEPS, SecureLine
from muster.federation.site.state import PendingUpdate
from muster.federation.site.study import JoinedSession, Rekeyed
from muster.federation.site.trainer import SiteTrainer
from muster.federation.site.transfers import fetch
from muster.plan.secure import session_terms
from muster.secagg import (
    Aborted,
    Await,
    Forget,
    Persist,
    Saw,
    Say,
    SessionReason,
    SessionStep,
    SessionTerms,
    client,
)
from muster.secagg.client import Action
from muster.security.pki.notary import Notary
from muster.security.refusal import RefusalReason as Why
from muster.security.refusal import Refused
from muster.security.transcript import TranscriptStore

__all__ = ["LABELS", "SecAggParticipant"]

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
EXPIRED = f"its secrets have lived for {HOURS:g} hours"
SHOWN = 20  # peers with other keys that an entry of the log names
SECURE = "secure"  # the folder of transcripts, in that of the study


@dataclass
class SecAggParticipant:
    """One client's part, over its line, out of its vault; `fingerprint` is its own plan's.

    `notary` signs, and knows the members; without one (no TLS) no secure sum is taken part in.
    `charge(task, sealed)` puts it into the site's ledger, or says why there is no room: it is asked
    once the members are known and judged, before the masked vector is made.
    """

    work: SiteTrainer
    fingerprint: str
    notary: Notary | None
    charge: Callable[[TrainAssignment, str], str | None]

    _room: Room | None = field(default=None, init=False)  # of the session at hand
    _line: SecureLine = field(init=False)

    def __post_init__(self) -> None:
        self._line = SecureLine(self.work, self.expire, self._live)

    async def deliver(self, task: TrainAssignment, pending: PendingUpdate) -> bool:
        """Take part, or go on with it; return whether the server has its sum.

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
        """Return whether this assignment had its session, open or over."""
        begun = self.work.study.begun(task)
        return begun is not None and begun.session is not None

    def settle(self, task: TrainAssignment, *, accepted: bool) -> None:
        """Settle the assignment's fate, which ends its session if that has not ended.

        What a server says of it is signed as true only where it can be: a sum that this site has
        masked nothing for does not hold its update.
        """
        begun = self.work.study.begun(task)
        if begun is None or begun.session is None or begun.session.over:
            return
        why = "" if accepted else "the round went on without this site"
        if accepted and SessionStep.MASK.value not in self.work.site_store.sealed(task):
            why = "the server says that its update counts, and this site has masked none"
        self._over(task, why)

    async def leave(self, task: TrainAssignment) -> None:
        """Have no further session for this assignment, and say so."""
        self._over(task, "its update, or what was kept of it, is gone")
        await self._line.quit(task, SessionReason.STOPPED)

    def expire(self) -> None:
        """Destroy the secrets of a session that has gone on for too long."""
        task = self._at_hand()
        if task is not None and self.work.habits.wall() >= self._open(task).until:
            with self._erasing():
                self.work.note("secrets expired", round=task.round, hours=HOURS)
            self._over(task, EXPIRED)

    def ended(self, why: str) -> None:
        """End what is done here, and so a session that is not over: `why`, in words."""
        task = self._at_hand()
        if task is not None:
            self._over(task, why)

    def _at_hand(self) -> TrainAssignment | None:
        """Return the task whose session is open."""
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
        """Return the assignment's one session; in the study's record before a word is said."""
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
        """End the session for ever, and have its secrets go; idempotent.

        `why` it was given up, "" where its sum is open. What can be shown of it is written first:
        a kill may come, and what it is made of goes with the secrets.
        """
        site_store, begun = self.work.site_store, self.work.study.begun(task)
        site_store.at("site: before secrets are destroyed")
        with self._erasing():
            if begun is not None and begun.session is not None and not begun.session.over:
                self._written(task, begun.session, why)
                site_store.at("site: transcript is written")
            self._room = None
            self.work.study.end(task)
            site_store.at("site: session is over")
            site_store.destroy()
        site_store.at("site: secrets are destroyed")

    @contextmanager
    def _erasing(self) -> Iterator[None]:
        """Erase the secrets where something cannot be written: that needs no room."""
        try:
            yield
        except MusterError:
            self.work.site_store.erase()
            raise

    def _written(self, task: TrainAssignment, session: JoinedSession, why: str) -> None:
        """Write the transcript, and where it is to the audit log; without room secrets go too."""
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
        """Return the room of a session, with what an earlier life of this site saw in it."""
        room = Room(notary, self.work.habits.policy.room)
        if session.seen:
            room.recall(session.seen)
        return room

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self.work.habits.wall(), UTC)

    def _kept(self, task: TrainAssignment) -> dict[str, bytes]:
        """Return all that was kept of the session. Raises `RunError` when some is gone."""
        site_store = self.work.site_store
        kept, steps = site_store.sealed(task).read(), self._open(task).steps
        if len(kept) < steps:
            raise RunError(
                f"{site_store.folder} was put back to an older copy: it holds {len(kept)} steps "
                f"of the secure sum of round {task.round}, and the study's record counts {steps}; "
                f"its secrets are used no second time, and the round goes on without this site"
            )
        self.work.study.count(task, len(kept))  # a kill may have come before the last was counted
        return kept

    async def _session(self, task: TrainAssignment, pending: PendingUpdate) -> None:
        """Run the session until the server has its sum. Raises `Aborted`."""
        side = await self._side(task, pending)
        number, came, stop = 0, None, None
        asked, clock = -math.inf, self.work.habits.clock
        while True:
            heard = came is not None
            deed = partial(self._next, task, side, came, stop)
            action = await self.work.working(task, Effort(), deed)
            came = stop = None
            if action is None:
                return
            try:
                if isinstance(action, Await):
                    if heard:  # and nothing came of it: it was heard before
                        await self.work.line.patience.rest(0.0, clock() - asked)
                    asked = clock()
                    number, came = await self._line.told(task, number)
                else:
                    await self._line.say(task, action.message, pending.update.metrics)
            except Aborted as expired:
                stop = expired
            except Refused as refused:
                if refused.reason is not Why.DUPLICATE:
                    raise
                stop = Aborted(
                    SessionReason.STOPPED, "an earlier life of this site said something else"
                )

    async def _side(self, task: TrainAssignment, pending: PendingUpdate) -> Any:
        """Return the session as this client sees it, where it stands."""
        site_store, notary = self.work.site_store, self.notary
        if notary is None:
            raise RunError("a secure sum needs an identity to sign with; join over https")
        self._room = room = self._entered(notary, self._open(task))
        live = partial(self._live, task)  # however long no model comes
        body = await fetch(self.work.line, site_store, task, self.work.training.largest, live)
        try:
            terms, kept = self._terms(task, body), self._kept(task)
            room.enter(terms, await self._line.credentials(task))
        except (PlanError, RunError, IdentityError) as error:
            reasons = {PlanError: SessionReason.COHORT, IdentityError: SessionReason.PEERS}
            reason = reasons.get(type(error), SessionReason.STOPPED)
            await self._line.quit(task, reason)
            raise Aborted(reason, str(error)) from error
        return client(terms, room.party, partial(self._vector, task, pending), os.urandom, kept)

    def _terms(self, task: TrainAssignment, body: Any) -> SessionTerms:
        """Return the session's terms, by this site's own plan and the model that it was sent."""
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

    def _vector(self, task: TrainAssignment, pending: PendingUpdate) -> Any:
        """Return the update as integers, from the disk, charged.

        Raises `Aborted` past the budget.
        """
        plan = self.work.training.plan
        tree = codec_tensors.decode(self.work.site_store.body(pending), update_template(plan))
        fields = {name: np.asarray(part) for name, part in tree["payload"].items()}
        made = plan.frame.flatten(fields, int(pending.update.weight))
        begun = self.work.study.begun(task)
        assert begun is not None
        if why := self.charge(task, begun.secret):
            raise Aborted(SessionReason.STOPPED, why)
        return made

    def _next(
        self, task: TrainAssignment, side: Any, came: bytes | None, stop: Aborted | None
    ) -> Say | Await | None:
        """Return the next thing to say or to wait for, in the hand's thread; None at the end."""
        site_store = self.work.site_store
        while True:
            try:
                action: Action = side.send(came) if stop is None else side.throw(stop)
            except StopIteration:
                return None
            came = stop = None
            if isinstance(action, Persist):
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

    def _rekeyed(self, task: TrainAssignment, changed: list[Rekeyed]) -> None:
        """Note that peers have other keys than before: nothing ends, but it does not go unseen."""
        one = changed[0]
        more = f" and {len(changed) - 1} more have" if len(changed) > 1 else " has"
        self.work.log(
            "peer keys changed",
            round=task.round,
            count=len(changed),
            peers=[
                {"name": each.peer.name, "key": each.peer.key, "before": each.before}
                for each in changed[:SHOWN]
            ],
        )
        self.work.watch(
            "told",
            f"{one.peer.name}{more} another key than before, by a renewal or because somebody else "
            f"has that name: compare {one.peer.key} with {one.peer.name} itself, by telephone; "
            f"peers in site.toml may hold it to its key",
            round=task.round,
        )

    def _saw(self, task: TrainAssignment, seen: Saw) -> None:
        """Log whom it is with, before anything is said to them."""
        room, study = self._room, self.work.study
        assert room is not None
        room.saw(seen)
        others = [peer for peer in room.roster if peer.name != room.notary.name]
        if changed := study.rekeyed(others):
            self._rekeyed(task, changed)
        study.meet(others)  # a kill in between has it logged twice, and never unlogged
        study.saw(task, room.noted())
        place = {"round": task.round, "step": seen.step.value, "session": room.session}
        for part in room.told(seen.step.value):
            self.work.log("secure sum with", **place, **part)
