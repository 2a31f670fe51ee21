# SPDX-License-Identifier: Apache-2.0
"""A server for one site, in memory: it follows the protocol, and loses what a test tells it to."""

import json
import re

import httpx
import zstandard

from muster.federation.protocol import codec_tensors, frozen
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
from muster.plan.registry import fingerprint, to_value
from muster.rounds import start
from muster.security.refusal import RefusalReason, Refused

STATUS = {
    RefusalReason.UNKNOWN: 404,
    RefusalReason.LATE: 409,
    RefusalReason.TOO_OFTEN: 429,
    RefusalReason.NO_ROOM: 507,
}


class Octets(httpx.AsyncByteStream):
    """A body as it comes, and, if it is torn, the error behind its half."""

    def __init__(self, content, torn=False):
        self.content, self.torn = content, torn

    async def __aiter__(self):
        yield self.content[: len(self.content) // 2]
        if self.torn:
            raise httpx.ReadError("planned")
        yield self.content[len(self.content) // 2 :]


class Seen(BaseException):
    """A claim of a test about a request that does not hold."""


class Wire(httpx.AsyncBaseTransport):
    """The way to a hub, without a socket."""

    def __init__(self, handle):
        self.handle = handle

    async def handle_async_request(self, request):
        await request.aread()
        try:
            found = self.handle(request)
        except AssertionError as error:  # of a test: no site may take it for a fault of its line
            raise Seen(str(error)) from error
        if not isinstance(found.stream, httpx.ByteStream):
            return found  # as it comes
        torn, coding = (found.extensions.get(name) for name in ("torn", "coding"))
        headers = [
            *found.headers.raw,
            *([(b"content-encoding", coding.encode())] if coding else []),
        ]
        return httpx.Response(
            found.status_code, headers=headers, stream=Octets(found.content, bool(torn))
        )


class Hub:
    """Asks one site for `rounds` rounds; `accepted[round]` says whether its reply counts."""

    def __init__(self, plan, rounds=2, accepted=None, evaluates=(), client="a", attempt=1):
        self.plan, self.client, self.rounds, self.attempt = plan, client, rounds, attempt
        self.accepted = accepted or {}
        self.evaluates = set(evaluates)
        self.fingerprint = fingerprint(plan)
        self.lease = 30.0
        self.models = {}
        self.model = self.publish(start(plan).sent())
        self.round = 1
        self.run = "r1"
        self.enrolled = False
        self.bodies = {}
        self.parts = {}
        self.announced = {}
        self.settled = []
        self.said = []  # every message of the site
        self.requests = []
        self.faults = {}  # number of the request: a function of (request, answer) → answer
        self.refusals = {}  # round: reason of a refused announcement

    def publish(self, sent):
        """The body of a model; what nobody trains of it is offered beside."""
        if sent.frozen is not None:
            named = frozen.digest_of(sent.frozen)
            self.models[named] = b"".join(codec_tensors.encode(frozen.once(sent.frozen)))
            sent = frozen.without(sent, named)
        return b"".join(codec_tensors.encode(sent))

    @property
    def digest(self):
        """The model of the round that is open."""
        found = codec_tensors.digest([self.model])
        self.models[found] = self.model
        return found

    def transport(self):
        """Return the transport of a line."""
        return Wire(self.handle)

    def handle(self, request):
        """One request, with the fault that is planned for it."""
        number = len(self.requests)
        self.requests.append((request.method, request.url.path))
        fault = self.faults.get(number)
        if fault is None:
            return self.answer(request)
        return fault(request, self.answer)

    def answer(self, request):
        """Return the answer of an honest server."""
        try:
            return self._answer(request)
        except Refused as refused:
            status = STATUS.get(refused.reason, 409)
            headers = {"retry-after": "7"} if status in (429, 507) else {}
            return httpx.Response(status, content=to_json(Ack.of(refused)), headers=headers)

    def _answer(self, request):
        path = request.url.path
        if path == "/v1/hello":
            hello = from_json(request.content, Hello)
            if hello.fingerprint != self.fingerprint:
                raise Refused(RefusalReason.WRONG_FINGERPRINT, "the plans differ")
            self.enrolled = True
            return said(Welcome(1, self.run, self.client, self.lease))
        if path == "/v1/plan":
            return httpx.Response(200, content=json.dumps(to_value(self.plan)).encode())
        if not self.enrolled:
            raise Refused(RefusalReason.UNENROLLED, "say hello first")
        if path == "/v1/poll":
            return said(self.poll(from_json(request.content, Poll)))
        if path.startswith("/v1/models/"):
            return self.download(request)
        if path == "/v1/updates":
            return said(self.announce(from_json(request.content, UpdateHeader)))
        if path.startswith("/v1/updates/"):
            return said(self.upload(request))
        message = from_json(request.content, Decline, TrainingFailure, Progress, Measured)
        self.said.append(message)
        if isinstance(message, Decline | TrainingFailure) and message.round == self.round:
            self.evaluates.discard(self.round)
            self.advance()
        if isinstance(message, Measured) and message.round in self.evaluates:
            self.evaluates.discard(message.round)
            self.advance()
        return said(Ack(True))

    def poll(self, poll):
        """Settled first, then what is open, then the end."""
        if poll.pending and poll.pending < self.round:
            self.settled.append(poll.pending)
            accepted = self.accepted.get(poll.pending, True)
            return Settled(self.run, poll.pending, accepted, poll.attempt)
        if self.round > self.rounds:
            return (
                Wait(0) if poll.pending else RunEnded(self.run, self.rounds, "all rounds are done")
            )
        if self.round in self.bodies:
            if self.round in self.evaluates:
                counted = self.accepted.get(self.round, True)
                digest, attempt = self.digest, self.attempt
                return Evaluate(self.run, self.round, digest, self.lease, counted, attempt)
            return Wait(0)
        return TrainAssignment(self.run, self.round, self.digest, self.lease, attempt=self.attempt)

    def download(self, request):
        """The octets from where they are asked for."""
        body = self.models.get(request.url.path.rpartition("/")[2])
        if body is None:
            raise Refused(RefusalReason.UNKNOWN, "no such model")
        found = re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", ""))
        if not found:
            return httpx.Response(200, content=body)
        begin = int(found[1])
        if begin >= len(body):
            return httpx.Response(416, content=to_json(Ack(False, RefusalReason.MALFORMED, "none")))
        span = f"bytes {begin}-{len(body) - 1}/{len(body)}"
        return httpx.Response(206, content=body[begin:], headers={"content-range": span})

    def announce(self, update):
        """Where to go on from."""
        if update.round in self.refusals:
            reason = self.refusals.pop(update.round)
            if reason is RefusalReason.LATE:
                self.round += 1
            raise Refused(reason, "refused by the test")
        if self.bodies.get(update.round) is not None:
            return ResumeAt(update.size)
        if update.round < self.round:
            raise Refused(RefusalReason.STALE, "that round is over")
        self.announced[update.round, update.digest] = update
        return ResumeAt(len(self.parts.get(update.digest, b"")))

    def upload(self, request):
        """Octets behind those that are held."""
        *_, round, digest = request.url.path.split("/")
        update = self.announced.get((int(round), digest))
        if update is None:
            raise Refused(RefusalReason.UNKNOWN, "announce it first")
        held, data = self.parts.get(digest, b""), request.content
        if request.headers.get("content-encoding") == "zstd":
            data = zstandard.ZstdDecompressor().decompress(data)
        if int(request.url.params["offset"]) != len(held):
            return ResumeAt(len(held))
        self.parts[digest] = held = held + data
        if len(held) < update.size:
            return ResumeAt(len(held))
        if codec_tensors.digest([held]) != digest:
            del self.parts[digest]
            raise Refused(RefusalReason.WRONG_DIGEST, "damaged on the way")
        self.bodies[update.round] = (update, held)
        if update.round not in self.evaluates:
            self.advance()
        return Ack(True)

    def advance(self):
        """The open round is committed."""
        self.round += 1


def said(message):
    """A message as an answer."""
    return httpx.Response(200, content=to_json(message))


def lost(request, answer):
    """The question never arrives."""
    raise httpx.ConnectError("planned", request=request)


def unheard(request, answer):
    """The server acts, and its answer is lost."""
    answer(request)
    raise httpx.ReadError("planned", request=request)


def doubled(request, answer):
    """The question arrives twice."""
    answer(request)
    return answer(request)


def broken(request, answer):
    """Half an answer comes."""
    whole = answer(request)
    return httpx.Response(whole.status_code, content=whole.content[: len(whole.content) // 2])


def torn(request, answer):
    """The connection breaks in the middle of an answer."""
    whole = answer(request)
    return httpx.Response(whole.status_code, content=whole.content, extensions={"torn": True})


def busy(request, answer):
    """The server is starting again."""
    return httpx.Response(503, content=b"<html>try again</html>")
