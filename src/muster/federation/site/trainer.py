# SPDX-License-Identifier: Apache-2.0
"""The trainer: a client does what it is asked in the hand's thread, and the server hears of it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from muster.federation.protocol.message import Ack, Evaluate, Progress, TrainAssignment
from muster.federation.site.checkpointed_run import CheckpointedRun, Effort, TrainingStopped
from muster.federation.site.policy import Policy
from muster.federation.site.server_client import LONGEST_POLL, Event, ServerClient, quiet
from muster.federation.site.state import PendingUpdate
from muster.federation.site.store import SiteStore, TrainingResult
from muster.federation.site.study import StudyRecord
from muster.federation.site.training import Training
from muster.federation.site.training_thread import TrainingThread
from muster.plan.told import told_of
from muster.security.audit import TEXT, AuditLog
from muster.security.refusal import RefusalReason, Refused
from muster.store.blobs import NoRoom
from muster.types import ClientId

__all__ = ["Habits", "SiteTrainer"]

OVER = {
    RefusalReason.LATE,
    RefusalReason.STALE,
    RefusalReason.FOREIGN,
}  # of a round: go on with the next
BEATS = 3  # in a lease
SHORTEST = 0.1  # seconds between two of them, however short a lease the server names


@dataclass(frozen=True)
class Habits:
    """The habits that may differ from site to site, and in tests: policy, clocks, who watches.

    `wall` is the clock of days and hours, `clock` a monotonic one; `every` the seconds between
    two checkpoints; `wait` the seconds that the server may keep a question. `entropy(n)` draws n
    secret bytes for what must be known to nobody else; None takes the plan's seed. `new_run` is
    the site's word for one further run of its study.
    """

    policy: Policy = Policy()
    audit: AuditLog | None = None
    watch: Callable[[Event], None] = quiet
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    every: float = 60.0
    wait: float = LONGEST_POLL
    entropy: Callable[[int], bytes] | None = os.urandom
    new_run: bool = False


@dataclass(frozen=True)
class SiteTrainer:
    """One client's training and evaluation; the event loop stays free to talk."""

    name: str
    training: Training
    line: ServerClient
    site_store: SiteStore
    hand: TrainingThread
    habits: Habits
    study: StudyRecord

    async def train(
        self, task: TrainAssignment, client: ClientId, body: Any, still: Any = None
    ) -> PendingUpdate:
        """Return the update of a task, kept.

        Raises `TrainingStopped`, and what goes wrong in training.
        """
        effort = Effort()
        done: PendingUpdate = await self.working(
            task, effort, partial(self._train, task, client, (body, still), effort)
        )
        return done

    async def measure(self, asked: Evaluate, body: Any, still: Any = None) -> dict[str, float]:
        """Return metric sums over the client's own rows."""
        done: dict[str, float] = await self.working(
            asked, Effort(), partial(self._measure, asked, body, still)
        )
        return done

    def _train(
        self, task: TrainAssignment, client: ClientId, bodies: tuple[Any, Any], effort: Effort
    ) -> PendingUpdate:
        """Train in the hand's thread, and keep what came of it."""
        if effort.stop.is_set():
            raise TrainingStopped
        site_store, habits = self.site_store, self.habits
        walk = CheckpointedRun(
            task, site_store, effort, habits.every, habits.clock, partial(self.watch, "told")
        )
        blank = self.training.blank
        memory = None if blank is None else site_store.memory(blank)
        body, still = bodies
        made = self.training.train(task, client, body, memory, walk, still=still)
        if made.spoiled:  # the server does not hear of it: that would be a word about the rows
            self.log("update was not finite", round=task.round, attempt=task.attempt)
        if not told_of(self.training.plan, habits.policy.keeps).trained:
            made = replace(made, metrics={})
        return self._kept(task, made, effort)

    def _kept(self, task: TrainAssignment, made: TrainingResult, effort: Effort) -> PendingUpdate:
        """Keep it, however long the disk is full: finished work is not thrown away."""
        tries = 0
        while True:
            try:
                return self.site_store.keep(task, made)
            except NoRoom as error:
                self.watch("full", round=task.round, text=str(error))
                tries += 1
                if effort.stop.wait(self.line.patience.pause(tries)):
                    raise

    def _measure(self, asked: Evaluate, body: Any, still: Any) -> dict[str, float]:
        blank, pending = self.training.blank, self.site_store.pending
        left = asked.counted and pending is not None and pending.task.round == asked.round
        memory = None if blank is None else self.site_store.memory(blank, left=left)
        return self.training.measure(body, memory, still=still)

    async def working(self, asked: Any, effort: Effort, deed: Callable[[], Any]) -> Any:
        """Have the hand do it, and tell the server that it goes on."""
        work = self.hand.do(deed)
        beat = asyncio.ensure_future(self._beat(asked, effort, work))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            effort.stop.set()
            await asyncio.wait([work])
            if not work.cancelled():
                work.exception()
            raise
        finally:
            beat.cancel()
            await asyncio.gather(beat, return_exceptions=True)

    async def _beat(self, asked: Any, effort: Effort, work: asyncio.Future[Any]) -> None:
        """Say a word in every third of a lease, when steps were done since the last one.

        Work that shows no steps (waiting for the hand, the time before the first step ends, a
        task's own fit, an evaluation) renews the lease as long as the process lives.
        """
        told = beats = 0
        hidden = not told_of(self.training.plan, self.habits.policy.keeps).enrolled
        while True:
            await asyncio.wait([work], timeout=max(asked.lease / BEATS, SHORTEST))
            if work.done():
                return
            steps = effort.steps
            self.watch("progress", round=asked.round, step=steps, steps=effort.total)
            if steps == told and steps:
                continue
            told, beats = steps, beats + 1
            shown = beats if hidden else steps or beats  # steps tell of rows
            progress = Progress(asked.run, asked.round, shown, asked.attempt)
            try:
                await self.line.say(progress, Ack)
            except Refused as refused:
                if refused.reason in OVER:
                    effort.stop.set()
                    return

    # Who is told.

    def note(self, action: str, **details: Any) -> None:
        """Write to the audit log, and tell whoever watches."""
        self.log(action, **details)
        self.watch(action, **details)

    def tell(
        self, action: str, what: str, more: Mapping[str, Any] | None = None, /, **details: Any
    ) -> None:
        """Do the same for what a server can have happen again and again in a run.

        In the log stands the first of the same `what`, then the second, the fourth and so on, with
        its count: so what a log grows by is bounded. `more` is for whoever watches, alone.
        """
        count = self.study.tally(self.site_store.run, f"{action} {what}")
        if count & (count - 1) == 0:
            self.log(action, **details | ({"count": count} if count > 1 else {}))
        self.watch(action, **details, **(more or {}))

    def log(self, action: str, **details: Any) -> None:
        """Write to the audit log; of what others have said, as much as it may hold."""
        if self.habits.audit is not None:
            fits = {k: _fitting(v) if isinstance(v, str) else v for k, v in details.items()}
            self.habits.audit.append(self.name, action, **fits)

    def watch(self, event: str, text: str = "", **details: Any) -> None:
        """Tell whoever watches."""
        more = {"text": text} if text else {}
        self.habits.watch({"event": event, "site": self.name} | details | more)


def _fitting(text: str) -> str:
    return text.encode("utf-8", "replace")[:TEXT].decode("utf-8", "ignore")
