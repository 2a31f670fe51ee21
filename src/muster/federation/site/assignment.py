# SPDX-License-Identifier: Apache-2.0
"""What one client is asked to do, done once: an assignment is begun on the disk before anything.

    objection? → charge → log → begin → download → train → keep → deliver
    objection? →          log → begin → download → measure → keep → answer

A site that was killed at any instant goes on with the very same assignment, with the same bits,
and free of limits and charges; another one under the same name is declined. What is declined is in
the site's own log before it is answered.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime
from traceback import format_exception
from typing import Any

from muster.errors import ClientError, RunError
from muster.federation.protocol.codec_json import TEXT
from muster.federation.protocol.message import Ack, Decline, Evaluate, Measured, TrainAssignment
from muster.federation.site.checkpointed_run import TrainingStopped
from muster.federation.site.failure import failed
from muster.federation.site.objection import Objection, Rules, to_measuring, to_training
from muster.federation.site.secagg import SecAggParticipant
from muster.federation.site.secrets import SiteSecrets
from muster.federation.site.state import PendingUpdate
from muster.federation.site.study import Begun
from muster.federation.site.trainer import SiteTrainer
from muster.federation.site.transfers import deliver, fetch
from muster.security.refusal import Refused
from muster.types import ClientId

__all__ = ["Assignments"]

Asked = TrainAssignment | Evaluate
ALL = 1 << 31  # beyond every round


@dataclass(frozen=True)
class Assignments:
    """One client's assignments in a run that it has joined, as `client`.

    What a method returns says whether it led to something; if not, the server is asked again
    later. `waits` says that a server that only lags is given time.
    """

    work: SiteTrainer
    private: SiteSecrets
    masked: SecAggParticipant | None
    rules: Rules
    client: ClientId

    async def train(self, task: TrainAssignment, *, waits: bool) -> bool:
        """Train and deliver, or deliver what is kept of this very task."""
        work, kept = self.work, await self._kept(task)
        begun = work.study.begun(task)
        objection = await self._to_training(task, begun, kept)
        if objection is not None:
            return await self._object(task, objection, waits=waits)
        if begun is None:
            self._begin(task)
        if kept is None:
            if self.masked is not None and self.masked.stands(task):
                await self.masked.leave(task)  # what it has said of an update that is lost, stands
                return False
            if work.site_store.pending is not None:
                work.watch("damaged", round=task.round)
                work.site_store.forget()
            kept = await self._trained(task)
        return kept is not None and await self._delivered(task, kept)

    async def measure(self, asked: Evaluate, *, waits: bool) -> bool:
        """Measure a model, or say again what was measured."""
        work = self.work
        begun, known = work.study.begun(asked), work.study.known(self.rules.run, self._day())
        objection = to_measuring(asked, begun, known, self.rules, work.habits.wall())
        if objection is not None:
            return await self._object(asked, objection, waits=waits)
        if begun is None:
            place = {"round": asked.round, "attempt": asked.attempt, "model": asked.model}
            work.note("evaluate", **place)
            work.study.begin(asked, day=self._day())
        answer = begun and begun.answer
        body = None
        if answer is None:
            body = await fetch(work.line, work.site_store, asked, work.training.largest)
        try:
            answer = answer or await work.measure(asked, body)
            measured = Measured(asked.run, asked.round, asked.model, answer, asked.attempt)
            work.study.answered(asked, measured.metrics)
        except (asyncio.CancelledError, RunError):
            raise
        except Exception as error:
            named = ClientError(asked.round, self.client, "evaluate", str(error))
            named.__cause__ = error
            await self._failed(asked, named)
            return False
        await work.line.say(measured, Ack)
        return True

    def _day(self) -> str:
        return f"{datetime.fromtimestamp(self.work.habits.wall()):%Y-%m-%d}"

    async def _to_training(
        self, task: TrainAssignment, begun: Begun | None, kept: PendingUpdate | None
    ) -> Objection | None:
        """Why this is not trained, or what is kept of it not sent; None once it is charged."""
        work, pending = self.work, self.work.site_store.pending
        known = work.study.known(self.rules.run, self._day())
        found = to_training(task, begun, known, self.rules, work.habits.wall())
        if found is not None:
            return found
        if begun is None and pending is not None and pending.task.attempt == task.attempt:
            return Objection(
                "fate", f"the fate of round {pending.task.round} was not told yet", passing=True
            )
        if begun is not None and kept is None and self.private.lost(task, begun):
            return Objection(
                "secret",
                f"round {task.round} (attempt {task.attempt}) was begun, and the secret of its "
                f"noise is gone: with another it would be another release",
            )
        why = await asyncio.to_thread(self.private.charge, task)
        return None if why is None else Objection("budget", why)

    def _begin(self, task: TrainAssignment) -> None:
        """From now on this assignment is this task, whatever happens."""
        work, site_store = self.work, self.work.site_store
        before = site_store.pending
        if before is not None:  # of an earlier attempt: the server has gone back before it
            work.note("put back", round=task.round, attempt=task.attempt)
            site_store.forget()
        self.private.settle(ALL, task.attempt - 1)
        place = {"round": task.round, "attempt": task.attempt, "model": task.model}
        site_store.at("site: before assignment is begun")
        work.note("task", **place, times=task.times, peers=task.peers)
        work.study.begin(task, day=self._day(), secret=self.private.seal(task))
        site_store.at("site: assignment is begun")

    async def _kept(self, task: TrainAssignment) -> PendingUpdate | None:
        """The update that was kept of this very task, when it is undamaged."""
        site_store = self.work.site_store
        pending = site_store.pending
        if pending is None or not _same(pending.task, task):
            return None
        return pending if await asyncio.to_thread(site_store.sound, pending) else None

    async def _trained(self, task: TrainAssignment) -> PendingUpdate | None:
        """The update of a task, kept; None when training fails or is broken off."""
        work = self.work
        body = await fetch(work.line, work.site_store, task, work.training.largest)
        try:
            pending = await work.train(task, self.client, body)
        except TrainingStopped:
            return None
        except (asyncio.CancelledError, RunError):
            raise
        except Exception as error:
            await self._failed(task, error)
            return None
        update = pending.update
        work.note("update", round=task.round, digest=update.digest, size=update.size)
        return pending

    async def _delivered(self, task: TrainAssignment, pending: PendingUpdate) -> bool:
        work = self.work
        try:
            if self.masked is not None:
                accepted = await self.masked.deliver(task, pending)
            else:
                accepted = (await deliver(work.line, work.site_store, pending)).accepted
        except Refused as refused:
            self._verdict(task, {"accepted": False, "reason": str(refused.reason)})
            raise
        self._verdict(task, {"accepted": accepted})
        return accepted

    def _verdict(self, task: TrainAssignment, said: dict[str, Any]) -> None:
        place = " ".join(map(str, (task.round, task.attempt, *said.values())))
        self.work.tell("verdict", place, round=task.round, attempt=task.attempt, **said)

    async def _object(self, asked: Asked, objection: Objection, *, waits: bool) -> bool:
        """Into the log, then to the server."""
        if objection.passing and waits:
            return False
        self.work.tell(
            "declined",
            objection.rule,
            round=asked.round,
            attempt=asked.attempt,
            asked=asked.kind,
            rule=objection.rule,
            text=objection.text,
        )
        if objection.ends:
            raise RunError(objection.text)
        text = objection.text[:TEXT]
        decline = Decline(asked.run, asked.round, text, asked.attempt)
        await self.work.line.say(decline, Ack)
        return False

    async def _failed(self, asked: Asked, error: Exception) -> None:
        failure = replace(failed(asked.run, asked.round, error), attempt=asked.attempt)
        place, where = f"{asked.round} {asked.attempt}", {"stage": failure.stage}
        said = {"error": "".join(format_exception(error))}  # of one's own code, and stays here
        self.work.tell("failed", place, said, round=asked.round, **where)
        if self.work.training.veiled:  # what failed, and on what, is a word about the rows
            failure = replace(failure, stage="site", text="why is in the site's own log")
        await self.work.line.say(failure, Ack)


def _same(one: TrainAssignment, other: TrainAssignment) -> bool:
    """Whether two tasks ask for the same; a lease is no part of that."""
    return replace(one, lease=0.0) == replace(other, lease=0.0)
