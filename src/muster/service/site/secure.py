# SPDX-License-Identifier: Apache-2.0
"""A client's part in a secure sum: it says its masked update, and what lets the sum be opened.

Whatever is said is kept first, sealed, so that a site that was killed says the same again and
never anything else; when the sum is open, or given up, the secrets are destroyed. Members are known
by certificates that the server hands out and this site checks itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any

import numpy as np

from muster.errors import PlanError, RunError
from muster.secagg import (
    Aborted,
    Await,
    Forget,
    Keep,
    Party,
    Reason,
    Saw,
    Say,
    Step,
    Terms,
    client,
)
from muster.secagg.client import Action
from muster.secagg.messages import CLIENT_KINDS, Advert, Message, Quit
from muster.service import wire
from muster.service.message import LIMIT, Task, Verdict, Wait
from muster.service.pki.notary import Notary
from muster.service.refusal import Reason as Why
from muster.service.refusal import Refused, parse
from muster.service.site.cargo import cut, fetch, pieces
from muster.service.site.line import Again
from muster.service.site.state import Pending
from muster.service.site.walk import Effort
from muster.service.site.work import Work
from muster.service.template import update_template

__all__ = ["LABELS", "Masked"]

STEPS = tuple(step for step in Step if step is not Step.OVER)
STOPS = tuple(step for step in STEPS if step is not Step.ANSWER)  # an answer is rarely due
LABELS = (
    *(f"site: before {step.value} is kept" for step in STOPS),
    *(f"site: {step.value} is kept" for step in STOPS),
    *(f"site: {step.value} is said" for step in STOPS),
    "site: before secrets are destroyed",
    "site: secrets are destroyed",
)
SAID = dict(zip(sorted(CLIENT_KINDS - {Quit.kind}), STEPS, strict=True))  # the step of a kind
STUDY = "default"
CERTIFICATES = (1 << 26, 1)  # bytes and levels of what is read of them


@dataclass(frozen=True)
class Masked:
    """One client's part, over its line, out of its vault; `fingerprint` is its own plan's.

    `notary` signs, and knows the members; without one (no TLS) no secure sum is taken part in.
    """

    work: Work
    fingerprint: str
    notary: Notary | None

    async def deliver(self, task: Task, pending: Pending) -> bool:
        """Take part, or go on with it; whether the server has its sum.

        Raises `Refused` when the server takes no more, and the next poll says why.
        """
        if self.work.vault.spent >= task.round:
            await self._quit(task, Reason.STOPPED)  # that was not heard, it seems
            return False
        self.work.log("secure sum begun", round=task.round, model=task.model)
        reason = Reason.DONE
        try:
            await self._session(task, pending)
        except Aborted as stop:
            reason = stop.reason
            self.work.watch("told", round=task.round, text=f"the secure sum was given up: {stop}")
        self.work.log("secure sum ended", round=task.round, reason=reason.value)
        return reason is Reason.DONE

    async def _session(self, task: Task, pending: Pending) -> None:
        """Until the server has its sum. Raises `Aborted`."""
        side = await self._side(task, pending)
        number, came, stop = 0, None, None
        while True:
            deed = partial(self._next, task, side, came, stop)
            action = await self.work.working(task, Effort(), deed)
            came = stop = None
            if action is None:
                return
            if isinstance(action, Await):
                number, came = await self._told(task, number)
                continue
            try:
                await self._say(task, action.message, pending.update.metrics)
            except Refused as refused:
                if refused.reason is not Why.DUPLICATE:
                    raise
                stop = Aborted(Reason.STOPPED, "an earlier life of this site said something else")

    async def _side(self, task: Task, pending: Pending) -> Any:
        """The session as this client sees it, where it stands."""
        vault, notary = self.work.vault, self.notary
        if notary is None:
            raise RunError("a secure sum needs an identity to sign with; join over https")
        body = await fetch(self.work.line, vault, task.model, task.round)
        try:
            terms, kept = self._terms(task, body), vault.chest(task).read()
        except (PlanError, RunError) as error:
            reason = Reason.COHORT if isinstance(error, PlanError) else Reason.STOPPED
            await self._quit(task, reason)
            vault.spend(task.round)
            raise Aborted(reason, str(error)) from error
        notary.look()
        known = await self._certificates(task)

        def verify(name: str, data: bytes, signature: bytes) -> bool:
            return notary.vouch(name, known.get(name, ""), data, signature)

        party = Party(notary.name, notary.sign, verify)
        return client(terms, party, partial(self._vector, pending), os.urandom, kept)

    def _terms(self, task: Task, body: Any) -> Terms:
        """What it is about, by this site's own plan and the model that it was sent."""
        plan, size = self.work.training.plan, task.invited
        assert plan.secure is not None
        return plan.secure.terms(
            plan.frame,
            size,
            plan.needed(size),
            study=STUDY,
            run=task.run,
            round=task.round,
            plan=bytes.fromhex(self.fingerprint),
            model=sha256(body).digest(),
        )

    def _vector(self, pending: Pending) -> Any:
        """The update as integers, from the disk."""
        plan = self.work.training.plan
        tree = wire.decode(self.work.vault.body(pending), update_template(plan))
        fields = {name: np.asarray(part) for name, part in tree["payload"].items()}
        return plan.frame.flatten(fields, int(pending.update.weight))

    def _next(
        self, task: Task, side: Any, came: bytes | None, stop: Aborted | None
    ) -> Say | Await | None:
        """In the hand's thread: the next thing to say or to wait for; None at the end."""
        vault = self.work.vault
        while True:
            try:
                action: Action = side.send(came) if stop is None else side.throw(stop)
            except StopIteration:
                return None
            came = stop = None
            if isinstance(action, Keep):
                vault.at(f"site: before {action.name} is kept")
                vault.chest(task).keep(action.name, action.data)
                vault.at(f"site: {action.name} is kept")
            elif isinstance(action, Forget):
                vault.at("site: before secrets are destroyed")
                vault.spend(task.round)
                vault.at("site: secrets are destroyed")
            elif isinstance(action, Saw):
                self.work.log(
                    "secure sum with",
                    round=task.round,
                    step=action.step.value,
                    session=action.session.hex(),
                    peers=list(action.names),
                )
            else:
                return action

    # What goes over the line.

    async def _say(self, task: Task, message: Message, metrics: Mapping[str, float]) -> None:
        """Say it until it is acknowledged. Raises `Refused`."""
        line, data = self.work.line, message.to_bytes()
        path, headers = f"/v1/secure/{task.round}", dict[str, str]()
        secure = self.work.training.plan.secure
        if isinstance(message, Advert) and secure is not None and secure.metrics == "public":
            headers["muster-metrics"] = json.dumps(dict(metrics))

        async def once() -> None:
            if len(data) > LIMIT:
                await self._sent(path, memoryview(data))
                return
            line.heard(await line.http.post(path, content=data, headers=headers), Verdict)
            line.moved += len(data)

        try:
            await line.persist(once)
        except Refused:
            if not isinstance(message, Quit):
                raise
            return  # nobody waits for this site any more
        if message.kind in SAID:
            self.work.vault.at(f"site: {SAID[message.kind].value} is said")

    async def _sent(self, path: str, data: memoryview) -> None:
        """A large message, in pieces from where the server says. Raises `Refused`."""
        line, vault = self.work.line, self.work.vault
        path = f"{path}?digest={sha256(data).hexdigest()}&size={len(data)}"

        async def send(place: int, piece: memoryview) -> Any:
            headers = {"content-length": str(len(piece))}
            where = f"{path}&offset={place}"
            return await line.http.post(where, content=cut(piece), headers=headers)

        await pieces(line, vault, data, send, 0)

    async def _quit(self, task: Task, reason: Reason) -> None:
        await self._say(task, Quit(reason.name), {})

    async def _told(self, task: Task, number: int) -> tuple[int, bytes]:
        """What the server says next, and its number. Raises `Refused`."""
        line = self.work.line
        wait = self.work.habits.wait
        path = f"/v1/secure/{task.round}?after={number}&wait={wait}"

        async def once() -> tuple[int, bytes] | Wait:
            answer = await line.http.get(path)
            told = answer.headers.get("muster-told", "")
            if answer.status_code == 200 and told.isdigit():
                return int(told), answer.content
            return line.heard(answer, Wait)

        while True:
            found = await line.persist(once)
            if not isinstance(found, Wait):
                return found
            await line.patience.sleep(found.seconds)

    async def _certificates(self, task: Task) -> dict[str, str]:
        """Whose certificates the server hands out; each is checked where it is used."""
        line = self.work.line

        async def once() -> dict[str, str]:
            answer = await line.http.get(f"/v1/members?round={task.round}")
            if answer.status_code != 200:
                line.heard(answer)
            try:
                found = parse(answer.content, *CERTIFICATES)
            except Refused as refused:
                raise Again(f"it answered no certificates ({refused.reason})") from None
            if not isinstance(found, dict):
                raise Again("it answered no certificates")
            return {str(name): pem for name, pem in found.items() if isinstance(pem, str)}

        return await line.persist(once)
