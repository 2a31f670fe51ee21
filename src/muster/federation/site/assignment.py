# SPDX-License-Identifier: Apache-2.0
"""An assignment to one client, done once: it is begun on the disk before anything.

    objection? → charge → log → begin → download → train → keep → deliver
    objection? →          log → begin → download → train → keep → who is there? → charge → mask
    objection? →          log → begin → download → measure → keep → answer

The second line is that of masked sums: who is in one is known when the update is made, and a site
that will not be summed with them has said nothing that its ledger counts.

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
from muster.federation.site.study import Begun, Known
from muster.federation.site.trainer import SiteTrainer
from muster.federation.site.transfers import deliver, fetch, fetch_frozen
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
            seal = await asyncio.to_thread(self.private.seal, task)  # which hashes all rows
            self._begin(task, seal)
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
        begun, known = work.study.begun(asked), self._known(asked)
        objection = to_measuring(asked, begun, known, self.rules, work.habits.wall())
        if objection is not None:
            return await self._object(asked, objection, waits=waits)
        if begun is None:
            place = {"round": asked.round, "attempt": asked.attempt, "model": asked.model}
            work.note("evaluate", **place, **_again(known.done[1]))
            work.study.begin(asked, day=self._day())
        answer = begun and begun.answer
        bodies = (None, None) if answer is not None else await self._fetched(asked)
        try:
            answer = answer or await work.measure(asked, *bodies)
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

    def _known(self, asked: Asked) -> Known:
        return self.work.study.known(self.rules.run, self._day(), asked.round)

    def _day(self) -> str:
        return f"{datetime.fromtimestamp(self.work.habits.wall()):%Y-%m-%d}"

    async def _to_training(
        self, task: TrainAssignment, begun: Begun | None, kept: PendingUpdate | None
    ) -> Objection | None:
        """Why this is not trained, or what is kept of it not sent; None once it is charged.

        What goes into a masked sum is charged there (`SecAggParticipant`): here the budget is asked
        whether there will be room.
        """
        work, pending = self.work, self.work.site_store.pending
        known = self._known(task)
        found = to_training(task, begun, known, self.rules, work.habits.wall())
        if found is not None:
            return found
        if begun is None and pending is not None and pending.task.attempt == task.attempt:
            return Objection(
                "fate", f"the fate of round {pending.task.round} was not told yet", passing=True
            )
        lost = (
            begun is not None
            and kept is None
            # In a thread, as this hashes all rows.
            and await asyncio.to_thread(self.private.lost, task, begun)
        )
        if lost:
            return Objection(
                "secret",
                f"round {task.round} (attempt {task.attempt}) was begun, and the secret of its "
                f"noise is gone, or its rows, plan or policy are others: with those it would be "
                f"another release",
            )
        return await self._over_budget(task, begun, keep=self.masked is None)

    async def _over_budget(
        self, task: TrainAssignment, begun: Begun | None, *, keep: bool
    ) -> Objection | None:
        """Why the budget has no room for it; None once it is charged, or without `keep` may be."""
        sealed = None if begun is None else begun.secret
        why = await asyncio.to_thread(self.private.charge, task, sealed, keep=keep)
        return None if why is None else Objection("budget", why)

    def _begin(self, task: TrainAssignment, seal: str) -> None:
        """Begin: from now on this assignment is this task, whatever happens."""
        work, site_store = self.work, self.work.site_store
        before = site_store.pending
        if before is not None:  # of an earlier attempt: the server has gone back before it
            work.note("put back", round=task.round, attempt=task.attempt)
            site_store.forget()
        self.private.settle(ALL, task.attempt - 1)
        place = {"round": task.round, "attempt": task.attempt, "model": task.model}
        site_store.at("site: before assignment is begun")
        again = _again(self._known(task).done[0])
        work.note("task", **place, times=task.times, peers=task.peers, **again)
        work.study.begin(task, day=self._day(), secret=seal)
        site_store.at("site: assignment is begun")

    async def _kept(self, task: TrainAssignment) -> PendingUpdate | None:
        """Return the update that was kept of this very task, when it is undamaged."""
        site_store = self.work.site_store
        pending = site_store.pending
        if pending is None or not _same(pending.task, task):
            return None
        return pending if await asyncio.to_thread(site_store.sound, pending) else None

    async def _trained(self, task: TrainAssignment) -> PendingUpdate | None:
        """Return the update of a task, kept; None when training fails or is broken off."""
        work = self.work
        bodies = await self._fetched(task)
        try:
            pending = await work.train(task, self.client, *bodies)
        except TrainingStopped:
            return None
        except (asyncio.CancelledError, RunError):
            raise
        except Exception as error:
            begun = work.study.begun(task)
            # That it failed is a word about the rows, under masks the first one.
            over = await self._over_budget(task, begun, keep=True)
            await (self._object(task, over, waits=False) if over else self._failed(task, error))
            return None
        update = pending.update
        work.note("update", round=task.round, digest=update.digest, size=update.size)
        return pending

    async def _fetched(self, asked: Asked) -> tuple[Any, Any]:
        """Return the octets of a model and, where it has such, of what nobody trains of it."""
        work, training = self.work, self.work.training
        body = await fetch(work.line, work.site_store, asked, training.largest)
        still = training.frozen_in(body)
        if still is None:
            return body, None
        size = training.largest_frozen
        return body, await fetch_frozen(work.line, work.site_store, asked, still, size)

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
        """Write an objection to the log, then send it to the server."""
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


def _again(done: int) -> dict[str, int]:
    """Return what an entry of the log says besides, where the round was done so often before."""
    return {"again": done} if done else {}


def _same(one: TrainAssignment, other: TrainAssignment) -> bool:
    """Return whether two tasks ask for the same; a lease is no part of that."""
    return replace(one, lease=0.0) == replace(other, lease=0.0)
