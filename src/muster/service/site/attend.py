# SPDX-License-Identifier: Apache-2.0
"""One client at a federation: say hello, ask what there is to do, do it, ask again, until the end.

Nothing depends on a message that is sent once: every answer of the server may come twice, late or
never, and whatever was finished is in the vault before it is sent. There may be a kill anywhere.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import datetime
from traceback import format_exception
from typing import Any

from muster.errors import ClientError, PlanError, RunError
from muster.plan.registry import OUTSIDE, differences, fingerprint, spelled, to_value
from muster.service.message import (
    VERSIONS,
    Decline,
    Ended,
    Evaluate,
    Hello,
    Measured,
    Message,
    Poll,
    Settled,
    Task,
    Verdict,
    Wait,
    Welcome,
)
from muster.service.pki.notary import Notary
from muster.service.private import Private
from muster.service.refusal import Reason, Refused
from muster.service.site.cargo import deliver, fetch
from muster.service.site.failure import failed
from muster.service.site.hand import Hand
from muster.service.site.line import Line
from muster.service.site.secure import Masked
from muster.service.site.state import Pending
from muster.service.site.training import Training
from muster.service.site.vault import Vault
from muster.service.site.walk import Broken
from muster.service.site.work import Habits, Work
from muster.store.blobs import NoRoom

__all__ = ["Attendance"]

FATAL = {Reason.REVOKED, Reason.WRONG_FINGERPRINT, Reason.WRONG_VERSION}
LAG = 5  # questions after which a server does not just lag, but was put back
OUT = 4  # leases to wait before a site that was left out says hello again
STRANGE = {Reason.UNENROLLED, Reason.UNKNOWN_RUN}  # say hello again


class Attendance:
    """One client of a federation, over its line, out of its vault, by a hand it may share."""

    def __init__(
        self, name: str, training: Training, line: Line, vault: Vault, hand: Hand,
        habits: Habits, notary: Notary | None = None,
    ) -> None:  # fmt: skip
        self.name, self.line, self.vault, self.hand = name, line, vault, hand
        self.habits, self.policy = habits, habits.policy
        rows = len(training.rows[0])
        print_ = fingerprint(training.plan)
        self.policy.check(training.plan, print_, rows)
        self.private = Private(training.plan, self.policy, vault, rows, habits.entropy)
        acting, source = self.policy.guard(training.plan), training.source or self.private.source
        training = replace(training, acting=acting, source=source)
        self.training, self.work = training, Work(name, training, line, vault, hand, habits)
        secure = training.plan.secure
        self.masked = None if secure is None else Masked(self.work, print_, notary)
        self.hello = Hello(VERSIONS, name, print_, 1 if secure else rows)  # masks hide rows as well
        self.welcome: Welcome | None = None
        self._idle = 0  # answers in a row that led to nothing

    async def attend(self) -> Ended:
        """Until the run has ended. May be cancelled anywhere: what is finished is kept.

        Raises `PlanError` when the server holds another plan, `Refused` when this site is not
        wanted, `RunError` when its folder fails.
        """
        await self._enrol()
        while True:
            try:
                heard = await self._poll()
                if isinstance(heard, Ended):
                    self.work.note("ended", run=heard.run, rounds=heard.rounds, text=heard.text)
                    return heard
                await self._act(heard)
            except Refused as refused:
                await self._refused(refused)
            except NoRoom as full:
                self.work.watch("full", text=str(full))
                await self._rest()

    async def _enrol(self) -> None:
        try:
            welcome = await self.line.say("/v1/hello", self.hello, Welcome)
        except Refused as refused:
            if refused.reason is Reason.WRONG_FINGERPRINT:
                await self._differs(refused)
            raise
        self.vault.enter(welcome.run, welcome.client)
        self.private.settle(self.vault.settled)  # which a death may have kept from being done
        self.welcome = welcome
        patience = self.line.patience  # whoever comes back must be heard within a lease
        longest = min(patience.longest, max(welcome.lease, 0.3) / 3)
        self.line.patience = replace(patience, longest=longest)
        self.work.note(
            "enrolled", run=welcome.run, client=str(welcome.client), rows=self.hello.rows
        )

    async def _differs(self, refused: Refused) -> None:
        """Raise `PlanError` with the fields in which the server's plan is another."""
        theirs = await self.line.plan()
        ours = json.loads(json.dumps(to_value(self.training.plan)))
        found = [d for d in differences(ours, theirs) if d[0].split(".")[0] not in OUTSIDE]
        if found:
            said = "; ".join(
                f"{n} is {spelled(a)} here and {spelled(b)} there" for n, a, b in found
            )
            what = f"the server holds another plan: {said}"
        else:
            what = (
                "the server's plan has the same fields, but the source of a module that defines "
                "its functions differs"
            )
        raise PlanError(f"{what}; both sides must hold the same plan file") from refused

    async def _poll(self) -> Message:
        pending, welcome = self.vault.pending, self._welcome
        poll = Poll(welcome.run, pending.task.round if pending else 0, self.habits.wait)
        kinds: Any = (Task, Evaluate, Settled, Wait, Ended)
        return await self.line.say("/v1/poll", poll, *kinds)

    @property
    def _welcome(self) -> Welcome:
        assert self.welcome is not None
        return self.welcome

    async def _act(self, heard: Message) -> None:
        if isinstance(heard, Wait):
            await self.line.patience.sleep(heard.seconds)
        elif isinstance(heard, Settled):
            self._settle(heard)
        elif isinstance(heard, Task):
            await self._task(heard)
            return
        elif isinstance(heard, Evaluate):
            await self._evaluate(heard)
        self._idle = 0

    async def _refused(self, refused: Refused) -> None:
        """What a refusal means: the end, another hello, or just another question."""
        if refused.reason in FATAL:
            self.work.note("refused", reason=str(refused.reason), text=refused.text)
            raise refused
        self.work.watch("refused", reason=str(refused.reason), text=refused.text)
        if refused.reason is Reason.LEFT_OUT:
            await self.line.patience.sleep(OUT * self._welcome.lease)
            await self._enrol()
            return
        await self._rest()
        if refused.reason in STRANGE:
            await self._enrol()

    async def _rest(self) -> None:
        self._idle += 1
        await self.line.patience.sleep(self.line.patience.pause(self._idle))

    def _settle(self, settled: Settled) -> None:
        if settled.run == self._welcome.run and self.vault.settle(settled.round, settled.accepted):
            self.private.settle(settled.round)
            self.work.note("settled", round=settled.round, accepted=settled.accepted)

    # Training.

    async def _task(self, task: Task) -> None:
        """Train and deliver; or deliver what is kept of this very task."""
        pending = self.vault.pending
        latest = pending.task.round if pending else 0
        if task.round <= self.vault.settled or task.round < latest:
            await self._behind(task)
            return
        if pending is not None and task.round > latest:
            await self._rest()  # its fate first: the next poll asks again
            return
        if pending is not None and not await self._fits(pending, task):
            self.vault.forget()
            pending = None
        if pending is None:
            pending = await self._trained(task)
            if pending is None:
                return
        try:
            if self.masked is not None:
                accepted = await self.masked.deliver(task, pending)
            else:
                accepted = (await deliver(self.line, self.vault, pending)).accepted
        except Refused as refused:
            self.work.note("verdict", round=task.round, accepted=False, reason=str(refused.reason))
            raise
        self._idle = 0
        self.work.note("verdict", round=task.round, accepted=accepted)

    async def _behind(self, task: Task) -> None:
        """A round before one that is known: a server that lags, or was put back to a copy.

        Who remembers nothing goes back with it, and trains the rounds anew that were lost there.
        """
        if self._idle <= LAG:
            await self._rest()
        elif self.training.blank is None and self.masked is None:  # a sum is opened once
            self.work.note("put back", round=task.round, settled=self.vault.settled)
            self.vault.back(task.round - 1)
        else:
            raise RunError(
                f"the server was put back to round {task.round}, and what this site remembers is "
                f"of round {self.vault.settled} or later, which the plan's algorithm cannot go "
                f"back from; restore a newer copy of the server, or begin a new run"
            )

    async def _fits(self, pending: Pending, task: Task) -> bool:
        """Whether a kept update answers this task, and is undamaged."""
        if replace(pending.task, lease=0) != replace(task, lease=0):
            self.work.watch("replaced", round=task.round)
            return False
        if not await asyncio.to_thread(self.vault.sound, pending):
            self.work.watch("damaged", round=task.round)
            return False
        return True

    async def _trained(self, task: Task) -> Pending | None:
        """The update of a new task, kept; None when the site declines or fails."""
        if await self._declined(task):
            return None
        self.work.note("task", round=task.round, model=task.model)
        body = await fetch(self.line, self.vault, task.model, task.round)
        try:
            pending = await self.work.train(task, self._welcome.client, body)
        except Broken:
            return None
        except (asyncio.CancelledError, RunError):
            raise
        except Exception as error:
            await self._failed(task.round, error)
            return None
        update = pending.update
        self.work.note("update", round=task.round, digest=update.digest, size=update.size)
        return pending

    async def _declined(self, task: Task) -> bool:
        now = self.habits.wall()
        day = f"{datetime.fromtimestamp(now):%Y-%m-%d}"
        text = self.policy.declines(now, self.vault.others(day, task))
        if text is None:
            text = await asyncio.to_thread(self.private.refusal, task)
        if text is None:
            if self.policy.rounds_per_day is not None:
                self.vault.take(day, task)
            return False
        self.work.note("declined", round=task.round, text=text)
        await self.line.say("/v1/answers", Decline(task.run, task.round, text), Verdict)
        return True

    async def _failed(self, round: int, error: Exception) -> None:
        failure = failed(self._welcome.run, round, error)
        self.work.log("failed", round=round, stage=failure.stage)
        text = "".join(format_exception(error))
        self.work.watch("failed", round=round, stage=failure.stage, error=text)
        await self.line.say("/v1/answers", failure, Verdict)

    # Evaluation.

    async def _evaluate(self, asked: Evaluate) -> None:
        body = await fetch(self.line, self.vault, asked.model, asked.round)
        try:
            self._refuse_metrics()
            sums = await self.work.measure(asked, body)
            measured = Measured(asked.run, asked.round, asked.model, sums)
        except (asyncio.CancelledError, RunError):
            raise
        except Exception as error:
            client = self._welcome.client
            named = ClientError(asked.round, client, "evaluate", str(error))
            named.__cause__ = error
            await self._failed(asked.round, named)
            return
        await self.line.say("/v1/answers", measured, Verdict)

    def _refuse_metrics(self) -> None:
        """A server that asks for more than its plan says gets nothing."""
        plan = self.training.plan
        if not plan.local.reports:
            raise PlanError(f"{plan.local.examples} keeps metrics with the sites; send none")
