# SPDX-License-Identifier: Apache-2.0
"""One client at a federation: say hello, ask what there is to do, do it, ask again, until the end.

Nothing depends on a message that is sent once: every answer of the server may come twice, late or
never, and whatever was finished is in the vault before it is sent. There may be a kill anywhere.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NoReturn, TypeVar

from muster.errors import MusterError, PlanError, RunError
from muster.federation.protocol.message import (
    VERSIONS,
    Evaluate,
    Hello,
    Message,
    Poll,
    RunEnded,
    Settled,
    TrainAssignment,
    Wait,
    Welcome,
)
from muster.federation.site import joined
from muster.federation.site.assignment import Assignments
from muster.federation.site.joined import Joined
from muster.federation.site.objection import Rules
from muster.federation.site.secagg import SecAggParticipant
from muster.federation.site.secrets import SiteSecrets
from muster.federation.site.server_client import LONGEST_PAUSE, ServerClient
from muster.federation.site.store import SiteStore
from muster.federation.site.study import StudyRecord
from muster.federation.site.trainer import Habits, SiteTrainer
from muster.federation.site.training import Training
from muster.federation.site.training_thread import TrainingThread
from muster.plan.registry import OUTSIDE, differences, fingerprint, spelled, to_value
from muster.plan.told import told_of
from muster.security.pki.notary import Notary
from muster.security.refusal import RefusalReason, Refused
from muster.store.blobs import NoRoom

__all__ = ["LONGEST_WAIT", "SiteAgent"]

FATAL = {RefusalReason.REVOKED, RefusalReason.WRONG_FINGERPRINT, RefusalReason.WRONG_VERSION}
LAG = 5  # questions for which a server may lag behind what this site has seen
LONGEST_WAIT = LONGEST_PAUSE  # a crowd of a million needs 500 s
OUT = 4  # leases to wait before a site that was left out says hello again
SHOWN = 400  # characters of one difference between two plans
TOLD = 20  # of them that a sentence names
STRANGE = {RefusalReason.UNENROLLED, RefusalReason.UNKNOWN_RUN}  # say hello again
M = TypeVar("M", bound=Message)


class SiteAgent:
    """One client of a federation, over its line, out of its vault, by a hand it may share.

    `study` is the record of the study that its policy names.
    """

    def __init__(
        self,
        name: str,
        training: Training,
        line: ServerClient,
        site_store: SiteStore,
        hand: TrainingThread,
        habits: Habits,
        *,
        study: StudyRecord,
        notary: Notary | None = None,
    ) -> None:
        self.name, self.line, self.site_store, self.study = name, line, site_store, study
        self.habits, self.policy = habits, habits.policy
        rows, plan = len(training.rows[0]), training.plan
        print_ = fingerprint(plan)
        self.work = SiteTrainer(name, training, line, site_store, hand, habits, study)
        self.masked = (
            None
            if plan.secure is None
            else SecAggParticipant(self.work, print_, notary, self._charge)
        )
        with self._ending():
            self.policy.check(plan, print_, rows)
            site_store.bind(lambda: study.mark)
            self.private = SiteSecrets(
                plan,
                self.policy,
                site_store,
                study,
                rows,
                habits.entropy,
                digest=lambda: training.digest,
            )
        plain = not line.port.encrypted
        self._joined = Joined.of(plan, self.policy, rows, plain=plain)
        acting, source = self.policy.guard(plan), training.source or self.private.source
        self.training = replace(training, acting=acting, source=source)
        self.work = replace(self.work, training=self.training)  # masks are made of what it makes
        shown = told_of(plan, self.policy.keeps).enrolled
        self.hello = Hello(VERSIONS, name, print_, rows if shown else 1)
        self.welcome: Welcome | None = None
        self.assignments: Assignments | None = None
        self._word = habits.new_run  # of the site for one further run
        self._idle = 0  # answers in a row that led to nothing
        self._asked = -math.inf  # when the server was asked last what there is to do
        self._done: set[tuple[type[Message], int, int]] = set()  # in this life, of this run

    def _charge(self, task: TrainAssignment, sealed: str) -> str | None:
        return self.private.charge(task, sealed)

    async def attend(self) -> RunEnded:
        """Attend until the run has ended. May be cancelled anywhere: what is finished is kept.

        Raises `PlanError` when the server holds another plan, `Refused` when this site is not
        wanted, `RunError` when its folder fails; an error ends its secure sum, too.
        """
        with self._ending():
            return await self._attended()

    async def _attended(self) -> RunEnded:
        await self._enrol()
        while True:
            try:
                heard = await self._poll()
                if isinstance(heard, RunEnded):
                    if self.masked is not None:
                        self.masked.ended("the run has ended")
                    self.work.note("ended", run=heard.run, rounds=heard.rounds, text=heard.text)
                    moved = self.line.port.traffic
                    self.work.watch("traffic", sent=moved.sent, received=moved.received)
                    return heard
                await self._act(heard)
            except Refused as refused:
                await self._refused(refused)
            except NoRoom as full:
                self.work.watch("full", text=str(full))
                await self._rest()

    @contextmanager
    def _ending(self) -> Iterator[None]:
        """End the session with this site, by whatever but a kill: it may never be started again."""
        try:
            yield
        except MusterError:
            try:
                if self.masked is not None:
                    self.masked.ended("this site stopped with an error")
            except MusterError as error:  # it is the first one that is told
                self.work.watch("told", text=f"the end of a secure sum was not recorded: {error}")
            finally:
                self.site_store.erase()
            raise

    async def _enrol(self) -> None:
        try:
            welcome = await self._say(self.hello, Welcome)
        except Refused as refused:
            if refused.reason is RefusalReason.WRONG_FINGERPRINT:
                await self._differs(refused)
            raise
        word = self._admitted(welcome)
        self.site_store.enter(welcome.run, welcome.client)
        self.study.join(welcome.run, welcome.client, word=word)
        joined.write(self.study.folder, self._joined)  # not before: a join that fails changes none
        self.private.joined()
        if fate := self.site_store.fate:  # which a death may have kept from being written down
            self._settled(welcome.run, *fate)
        self.welcome = welcome
        rules = Rules(self.training.plan, self.policy, welcome.run, welcome.client)
        self.assignments = Assignments(self.work, self.private, self.masked, rules, welcome.client)
        patience = self.line.patience  # whoever comes back must be heard within a lease
        longest = min(patience.longest, max(welcome.lease / 3, patience.least))
        self.line.patience = replace(patience, longest=longest)
        self.work.tell(
            "enrolled", "", run=welcome.run, client=str(welcome.client), rows=self.hello.rows
        )

    def _admitted(self, welcome: Welcome) -> bool:
        """Return whether it took a word of the site to join this run.

        Raises `RunError` without one.
        """
        runs, ours = self.study.runs(), self.policy.study
        if welcome.study != ours:
            self._reject(
                f"the server's run {welcome.run} belongs to the study {welcome.study!r}, and this "
                f"site's policy to {ours!r}; join a server of that study, or give study = "
                f"{welcome.study!r} in site.toml"
            )
        if not runs or welcome.run in runs:
            return False
        if self._word:
            self._word = False
            return True
        if self.study.unasked() < self.policy.new_runs:
            return False
        self._reject(
            f"the server speaks of the run {welcome.run}, and this site was last in the run "
            f"{runs[-1]} of the study {ours!r}: a further run asks the same people again; allow "
            f"it once with muster join --new-run, or by new_runs in site.toml"
        )

    def _reject(self, text: str) -> NoReturn:
        self.work.note("refused", reason="study", text=text)
        raise RunError(text)

    async def _differs(self, refused: Refused) -> None:
        """Raise `PlanError` with the fields in which the server's plan is another."""
        theirs = await self.line.plan()
        ours = json.loads(json.dumps(to_value(self.training.plan)))
        found = [d for d in differences(ours, theirs) if d[0].split(".")[0] not in OUTSIDE]
        if found:
            said = [f"{n} is {spelled(a)} here and {spelled(b)} there" for n, a, b in found]
            more = f"; and {len(said) - TOLD} more" if len(said) > TOLD else ""
            told = "; ".join(_shown(one) for one in said[:TOLD])
            what = f"the server holds another plan: {told}{more}"
        else:
            what = (
                "the server's plan reads the same here and has another fingerprint there, so its "
                "release of muster is another"
            )
        raise PlanError(f"{what}; both sides must hold the same plan file") from refused

    async def _poll(self) -> Message:
        pending, run = self.site_store.pending, self._welcome.run
        round, attempt = (pending.task.round, pending.task.attempt) if pending else (0, 1)
        kinds: Any = (TrainAssignment, Evaluate, Settled, Wait, RunEnded)
        self._asked = self.habits.clock()
        return await self._say(Poll(run, round, self.habits.wait, attempt), *kinds)

    async def _say(self, message: Message, *kinds: type[M]) -> M:
        """Say something until it is heard; however long that is, no secret outlives its end."""
        first = None if self.masked is None else self.masked.expire
        return await self.line.say(message, *kinds, first=first)

    @property
    def _welcome(self) -> Welcome:
        assert self.welcome is not None
        return self.welcome

    async def _act(self, heard: Message) -> None:
        """Do what was heard; after what leads to nothing, rest."""
        waits, led = self._idle < LAG, True
        assert self.assignments is not None
        if isinstance(heard, Wait):
            await self._pause(heard.seconds)
        elif isinstance(heard, Settled):
            led = self._settle(heard)
        elif isinstance(heard, TrainAssignment):
            led = await self.assignments.train(heard, waits=waits) and self._first(heard)
        elif isinstance(heard, Evaluate):
            led = await self.assignments.measure(heard, waits=waits) and self._first(heard)
        if led:
            self._idle = 0
        else:
            await self._rest()

    def _first(self, asked: TrainAssignment | Evaluate) -> bool:
        """Return whether it is new: the same again is answered, and leads to nothing."""
        place = (type(asked), asked.round, asked.attempt)
        first = place not in self._done
        self._done.add(place)
        return first

    async def _pause(self, seconds: float) -> None:
        """Wait as long as the server asks for, but not for ever."""
        if seconds > LONGEST_WAIT:
            text = f"to wait for {seconds:g} s; it waits for at most {LONGEST_WAIT:g} s"
            self.work.tell("declined", "wait", asked="wait", rule="wait", text=text)
        spent = self.habits.clock() - self._asked
        await self.line.patience.rest(min(seconds, LONGEST_WAIT), spent)

    async def _refused(self, refused: Refused) -> None:
        """Act on a refusal: end, say hello again, or just ask again."""
        if refused.reason in FATAL:
            self.work.note("refused", reason=str(refused.reason), text=refused.text)
            raise refused
        self.work.watch("refused", reason=str(refused.reason), text=refused.text)
        if refused.reason is RefusalReason.LEFT_OUT:
            await self._pause(OUT * min(self._welcome.lease, LONGEST_WAIT / OUT))
            await self._enrol()
            return
        await self._rest()
        if refused.reason in STRANGE:
            await self._enrol()

    async def _rest(self) -> None:
        self._idle += 1
        patience, spent = self.line.patience, self.habits.clock() - self._asked
        await patience.rest(patience.pause(self._idle), spent)

    def _settle(self, settled: Settled) -> bool:
        """Take in the fate of the pending update; False when it is not of that one."""
        pending, round = self.site_store.pending, settled.round
        if pending is None or settled.run != self._welcome.run:
            return False
        if (round, settled.attempt) != (pending.task.round, pending.task.attempt):
            return False
        if self.masked is not None:
            self.masked.settle(pending.task, accepted=settled.accepted)
        self.site_store.settle(round, settled.accepted)
        self._settled(settled.run, round, settled.attempt, settled.accepted)
        self.work.note("settled", round=round, accepted=settled.accepted)
        return True

    def _settled(self, run: str, round: int, attempt: int, accepted: bool) -> None:
        """Take in a fate that the vault has: the study's record has it too, and its secret goes."""
        self.study.settle(run, round, attempt, accepted=accepted)
        self.private.settle(round, attempt)


def _shown(text: str) -> str:
    """Return the words of another side's plan as a screen may show them: short and printable."""
    return "".join(c if c.isprintable() else "?" for c in text[:SHOWN]) + "…" * (len(text) > SHOWN)
