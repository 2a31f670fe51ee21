# SPDX-License-Identifier: Apache-2.0
"""A server that lies to one site: it tells at each poll what a script says, and keeps all it hears.

It speaks HTTP and the messages of the wire, and knows nothing of what is inside a site.
"""

import json

import httpx
import zstandard
from tests.service.site.hub import Wire, said

from muster.plan.registry import to_value
from muster.rounds import start
from muster.service import wire
from muster.service.message import (
    Decline,
    Ended,
    Evaluate,
    Failure,
    Hello,
    Measured,
    Offer,
    Poll,
    Progress,
    Settled,
    Task,
    Update,
    Verdict,
    Wait,
    Welcome,
    from_json,
    to_json,
)
from muster.service.refusal import Refused


class Rogue:
    """Tells `script`, one entry a poll, and then that the run has ended.

    An entry is a message, a Verdict (a refusal), or a function of the poll that gives one. `takes`
    answers an announced update: an offset, or a refusal. What it hears: `polls`, `updates` with
    their bodies, and all other `answers`.
    """

    def __init__(self, plan, script, *, run="r1", **welcome):
        self.plan, self.script, self.run, self.welcome = plan, list(script), run, welcome
        self.models, self.polls, self.updates, self.answers, self.hellos = {}, [], [], [], []
        self.takes = None
        self._announced = {}
        self.model = self.publish(start(plan).sent())

    def publish(self, sent):
        """Offer a model; its digest."""
        body = b"".join(wire.encode(sent))
        found = wire.digest([body])
        self.models[found] = body
        return found

    def task(self, round=1, **more):
        """Train a round."""
        return Task(**{"run": self.run, "round": round, "model": self.model, "lease": 30.0} | more)

    def evaluate(self, round=1, **more):
        """Measure a model."""
        asked = {"run": self.run, "round": round, "model": self.model, "lease": 30.0}
        return Evaluate(**asked | {"counted": False} | more)

    def settled(self, round=1, **more):
        """The fate of a round."""
        return Settled(**{"run": self.run, "round": round, "accepted": True} | more)

    def transport(self):
        """What a line speaks through."""
        return Wire(self.handle)

    def bodies(self, round=None):
        """The different updates that came, of one round or of all."""
        return {body for update, body in self.updates if round in (None, update.round)}

    def of(self, kind):
        """The answers of one kind."""
        return [answer for answer in self.answers if isinstance(answer, kind)]

    def handle(self, request):
        """One request of the site."""
        try:
            return self._answer(request)
        except Refused as refused:
            return httpx.Response(409, content=to_json(Verdict.of(refused)))

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
            return httpx.Response(200, content=self.models[path.rpartition("/")[2]])
        if path == "/v1/updates":
            update = from_json(request.content, Update)
            if self.takes is not None:
                return self.takes(update)
            self._announced[update.digest] = update
            return said(Offer(0))
        if path.startswith("/v1/updates/"):
            self.updates.append((self._announced[path.rpartition("/")[2]], self._body(request)))
            return said(Verdict(True))
        self.answers.append(from_json(request.content, Decline, Failure, Progress, Measured))
        return said(Verdict(True))

    def _told(self, poll):
        if not self.script:
            return said(Ended(self.run, 1, "all rounds are done"))
        entry = self.script.pop(0)
        entry = entry(poll) if callable(entry) else entry
        return entry if isinstance(entry, httpx.Response) else said(entry or Wait(0))

    def _body(self, request):
        if request.headers.get("content-encoding") == "zstd":
            return zstandard.ZstdDecompressor().decompress(request.content)
        return request.content
