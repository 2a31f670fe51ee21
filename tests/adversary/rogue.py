# SPDX-License-Identifier: Apache-2.0
"""A server that lies to one site: it tells at each poll what a script says, and keeps all it hears.

It speaks HTTP and the messages of the wire, and knows nothing of what is inside a site.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import zstandard
from tests.federation.site import scene
from tests.federation.site.hub import Wire, said

from muster.federation.protocol import codec_tensors
from muster.federation.protocol.message import (
    Ack,
    Decline,
    Evaluate,
    Hello,
    Measured,
    Poll,
    Progress,
    ResumeAt,
    RunEnded,
    Settled,
    TrainAssignment,
    TrainingFailure,
    UpdateHeader,
    Wait,
    Welcome,
    from_json,
    to_json,
)
from muster.federation.site.policy import Policy
from muster.federation.site.study import StudyRecord
from muster.federation.site.trainer import Habits
from muster.plan.registry import to_value
from muster.privacy.book import LedgerFile
from muster.rounds import start
from muster.security import audit
from muster.security.refusal import RefusalReason, Refused

NOON = 1.7e9  # of the wall clock


@dataclass
class Site:
    """A real site, whose study outlives its vaults; each `attend` is one of its lives."""

    home: Path
    plan: Any
    policy: Policy = Policy()

    def attend(
        self, rogue, *, site_store="vault", at=None, wall=lambda: NOON, patience=None, **habits
    ):
        """One life, out of this vault."""
        log = audit.AuditLog(self.home / "audit.jsonl", purpose="site", id="a")
        habits = Habits(policy=self.policy, audit=log, wall=wall, **habits)
        try:
            return scene.attend(
                self.plan,
                rogue,
                self.home / site_store,
                habits=habits,
                at=at,
                study=self.study,
                patience=patience,
            )
        finally:
            log.close()

    @property
    def study(self):
        """The folder of its study."""
        return self.home / "studies" / self.policy.study

    @property
    def charged(self):
        """The entries of its ledger of privacy."""
        return (
            LedgerFile(self.study / "privacy.json").read(self.policy.budget_delta or 1e-5).entries
        )

    def logged(self, *actions):
        """The details of entries of its own log, of these actions; it was not altered."""
        audit.verify(self.home / "audit.jsonl")
        entries = audit.entries(self.home / "audit.jsonl")
        return [entry["details"] for entry in entries if entry["action"] in actions]

    def begun(self, *tasks):
        """Return the assignments in its record."""
        record = StudyRecord(self.study, self.policy.study)
        try:
            return [record.begun(task) for task in tasks]
        finally:
            record.close()


class Rogue:
    """Tells `script`, one entry a poll, and then that the run has ended.

    An entry is a message, a Verdict (a refusal), or a function of the poll that gives one. `takes`
    answers an announced update: an offset, or a refusal. What it hears: `polls`, `updates` with
    their bodies, and all other `answers`.
    """

    def __init__(self, plan, script, *, run="r1", **welcome):
        self.plan, self.script, self.run, self.welcome = plan, list(script), run, welcome
        self.models, self.polls, self.updates, self.answers, self.hellos = {}, [], [], [], []
        self.takes, self.asked = None, []
        self._announced = {}
        self.model = self.publish(start(plan).sent())

    def publish(self, sent):
        """Offer a model; its digest."""
        body = b"".join(codec_tensors.encode(sent))
        found = codec_tensors.digest([body])
        self.models[found] = body
        return found

    def publish_of(self, plan):
        """Offer the model that another plan starts from."""
        return self.publish(start(plan).sent())

    def task(self, round=1, **more):
        """Train a round."""
        return TrainAssignment(
            **{"run": self.run, "round": round, "model": self.model, "lease": 30.0} | more
        )

    def evaluate(self, round=1, **more):
        """Measure a model."""
        asked = {"run": self.run, "round": round, "model": self.model, "lease": 30.0}
        return Evaluate(**asked | {"counted": False} | more)

    def settled(self, round=1, **more):
        """The fate of a round."""
        return Settled(**{"run": self.run, "round": round, "accepted": True} | more)

    def handle_as(self, run):
        """Speak of another run from now on: the site is not enrolled there."""
        self.run = run
        verdict = Ack(False, RefusalReason.UNKNOWN_RUN, f"this server runs {run}")
        return httpx.Response(404, content=to_json(verdict))

    def transport(self):
        """Return the transport of a line."""
        return Wire(self.handle)

    def bodies(self, round=None):
        """The different updates that came, of one round or of all."""
        return {body for update, body in self.updates if round in (None, update.round)}

    def of(self, kind):
        """The answers of one kind."""
        return [answer for answer in self.answers if isinstance(answer, kind)]

    def requests(self, prefix):
        """How many requests were for such an address."""
        return sum(path.startswith(prefix) for path in self.asked)

    def handle(self, request):
        """One request of the site."""
        self.asked.append(request.url.path)
        try:
            return self._answer(request)
        except Refused as refused:
            return httpx.Response(409, content=to_json(Ack.of(refused)))

    def _answer(self, request):
        path = request.url.path
        if path == "/v1/hello":
            self.hellos.append(from_json(request.content, Hello))
            told = {"version": max(self.hellos[-1].versions), "run": self.run, "client": "a"}
            return said(Welcome(**told | {"lease": 30.0} | self.welcome))
        if path == "/v1/plan":
            return httpx.Response(200, content=json.dumps(to_value(self.plan)).encode())
        if path == "/v1/poll":
            self.polls.append(from_json(request.content, Poll))
            return self._told(self.polls[-1])
        if path.startswith("/v1/models/"):
            body = self.models.get(path.rpartition("/")[2])
            return (
                refused(RefusalReason.UNKNOWN)
                if body is None
                else httpx.Response(200, content=body)
            )
        if path == "/v1/updates":
            update = from_json(request.content, UpdateHeader)
            if self.takes is not None:
                return self.takes(update)
            self._announced[update.digest] = update
            return said(ResumeAt(0))
        if path.startswith("/v1/updates/"):
            self.updates.append((self._announced[path.rpartition("/")[2]], self._body(request)))
            return said(Ack(True))
        self.answers.append(
            from_json(request.content, Decline, TrainingFailure, Progress, Measured)
        )
        return said(Ack(True))

    def _told(self, poll):
        if not self.script:
            return said(RunEnded(self.run, 1, "all rounds are done"))
        entry = self.script.pop(0)
        entry = entry(poll) if callable(entry) else entry
        return entry if isinstance(entry, httpx.Response) else said(entry or Wait(0))

    def _body(self, request):
        if request.headers.get("content-encoding") == "zstd":
            return zstandard.ZstdDecompressor().decompress(request.content)
        return request.content


def refused(reason):
    """A refusal."""
    return httpx.Response(409, content=to_json(Ack(False, reason, "says a liar")))


def answer(content, headers=None, status=200):
    """An answer with these headers, as bytes in latin-1."""
    told = dict(headers or {})
    coding = told.pop("content-encoding", None)
    fields = [(name.encode(), odd.encode("latin-1")) for name, odd in told.items()]
    more = {"coding": coding} if coding else {}
    return httpx.Response(status, content=content, headers=fields, extensions=more)
