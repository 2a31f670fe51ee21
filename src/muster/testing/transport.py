# SPDX-License-Identifier: Apache-2.0
"""`check_transport`: what a `Transport` promises a site, whatever medium carries its words."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any

from muster.errors import MusterError
from muster.federation.protocol.message import (
    Ack,
    Hello,
    Poll,
    ResumeAt,
    UpdateHeader,
    Wait,
    Welcome,
)
from muster.federation.protocol.transport import (
    Answer,
    LineFault,
    ModelQuery,
    PlanQuery,
    RawAnswer,
    SessionQuery,
    Transport,
    UpdateBody,
)
from muster.security.refusal import RefusalReason
from muster.testing.claim import claim

__all__ = ["TransportStand", "check_transport"]

HANGS = 120.0  # seconds, after which an answer is taken never to come


@dataclass(frozen=True)
class TransportStand:
    """A server with one client that is enrolled, and the lines to it.

    Fields: `connect()` gives another line of that client; `hello` is what it says of itself;
    `plan` the bytes of the plan's value; `model` those of a model that may be fetched, whose
    digest is `digest`; `update` what it may announce now, and `body` its bytes, more than one. A
    poll that asks to wait is kept waiting. `cut()` has the server be gone, with every line to it,
    and `mend()` has it be back.
    """

    connect: Callable[[], Transport]
    hello: Hello
    plan: bytes
    model: bytes
    digest: str
    update: UpdateHeader
    body: bytes
    cut: Callable[[], Awaitable[None]]
    mend: Callable[[], Awaitable[None]]


class OddSink(Exception):
    """An error of this check's own sink: nobody else knows it."""


@dataclass
class KeepingSink:
    """A sink that keeps what it is given, or raises at its first byte."""

    raises: bool = False
    begun: int | None = None
    data: bytes = b""

    def start(self, offset: int) -> None:
        """Where the bytes begin."""
        self.begun = offset

    def put(self, data: bytes) -> None:
        """Keep some."""
        if self.raises:
            raise OddSink
        self.data += bytes(data)


def check_transport(
    make: Callable[[], AbstractAsyncContextManager[TransportStand]],
) -> None:
    """Raise `AssertionError` where a transport breaks a promise of the port.

    `make()` is entered once for each part of the check, and gives a stand whose update was not
    announced yet. The check runs in an event loop of its own.
    """
    for part in (_questions, _downloads, _uploads, _together, _broken, _counts):
        asyncio.run(_on(make, part))


async def _on(
    make: Callable[[], AbstractAsyncContextManager[TransportStand]],
    part: Callable[[TransportStand, Transport], Awaitable[None]],
) -> None:
    async with asyncio.timeout(HANGS), make() as stand:
        line = stand.connect()
        try:
            await part(stand, line)
        except (LineFault, MusterError) as error:
            what = f"an answer came as {type(error).__name__}: {error}"
            raise AssertionError(what) from error
        finally:
            await line.close()


def _reason(answer: Answer) -> RefusalReason | None:
    return answer.said.reason if isinstance(answer.said, Ack) else None


async def _questions(stand: TransportStand, line: Transport) -> None:
    """Answers are messages of the kind that was asked for, and refusals are answers."""
    plan = await line.call(PlanQuery())
    claim(plan.said == RawAnswer(stand.plan), "the plan that comes is not the server's")
    hello = await line.call(stand.hello)
    claim(isinstance(hello.said, Welcome), f"hello was answered by {hello.said!r}")
    other = replace(stand.hello, fingerprint="0" * 64)
    found = await line.call(other)
    wrong = RefusalReason.WRONG_FINGERPRINT
    claim(_reason(found) is wrong, f"a refusal came as {found!r} and not as an Ack")
    poll = Poll(stand.update.run, 0, 0.0)
    first, second = await line.call(poll), await line.call(poll)
    claim(first == second, f"the same question was answered by {first!r} and then {second!r}")


async def _downloads(stand: TransportStand, line: Transport) -> None:
    """Check that a model comes from the byte asked for; a sink that raises ends it unchanged."""
    query, size = ModelQuery(stand.digest, stand.update.round), len(stand.model)
    for offset in (0, 1, size // 2, size - 1):
        sink = KeepingSink()
        answer = await line.download(query, offset, sink)
        claim(answer.said == Ack(True), f"a download from {offset} ended in {answer.said!r}")
        claim(sink.begun in (0, offset), f"it began at {sink.begun}, {offset} was asked for")
        whole = stand.model[sink.begun :]
        claim(sink.data == whole, f"{len(sink.data)} bytes came of {len(whole)}, or others")
    sink = KeepingSink()
    answer = await line.download(query, size, sink)
    claim(answer.said == Ack(True), f"a download from the end ended in {answer.said!r}")
    claim(sink.data in (b"", stand.model), "bytes came from behind the end")
    sink = KeepingSink()
    unknown = await line.download(replace(query, digest="0" * 64), 0, sink)
    known = _reason(unknown) is RefusalReason.UNKNOWN
    claim(known and not sink.data, f"a model that is not there was answered by {unknown!r}")
    try:
        await line.download(query, 0, KeepingSink(raises=True))
    except OddSink:
        sink = KeepingSink()
        await line.download(query, 0, sink)
        claim(sink.data == stand.model, "behind a sink that raised, a model came otherwise")
        return
    except Exception as error:
        raise AssertionError(f"what a sink raised came out as {error!r}") from error
    raise AssertionError("what a sink raised was swallowed")


async def _uploads(stand: TransportStand, line: Transport) -> None:
    """Check that a body goes in parts, from where the server says; the same again does no harm."""
    update, data = stand.update, memoryview(stand.body)
    body, half = UpdateBody(update.round, update.digest, update.size), len(data) // 2
    unknown = await line.upload(body, 0, data)
    claim(_reason(unknown) is RefusalReason.UNKNOWN, f"unannounced bytes: {unknown!r}")
    for said, offset, part, wanted in (
        ("announced", None, None, ResumeAt(0)),
        ("the first half", 0, data[:half], ResumeAt(half)),
        ("the first half again", 0, data[:half], ResumeAt(half)),
        ("announced again", None, None, ResumeAt(half)),
        ("bytes from elsewhere", half + 1, data[half + 1 :], ResumeAt(half)),
        ("the rest", half, data[half:], Ack(True)),
        ("the rest again", half, data[half:], Ack(True)),
        ("announced when it is held", None, None, ResumeAt(len(data))),
    ):
        if part is None or offset is None:
            answer = await line.call(update)
        else:
            answer = await line.upload(body, offset, part)
        claim(answer.said == wanted, f"{said}: {answer.said!r} was heard, expected {wanted!r}")


async def _together(stand: TransportStand, line: Transport) -> None:
    """Check that a question that is kept waiting holds no other, and may be given up."""
    poll = Poll(stand.update.run, 0, 60.0)
    kept = asyncio.ensure_future(line.call(poll))
    await asyncio.sleep(0)  # it is asked
    for _ in range(2):
        beside = await line.call(PlanQuery())
        held = "a question beside one that is kept waiting was answered by"
        claim(beside.said == RawAnswer(stand.plan), f"{held} {beside.said!r}")
    claim(not kept.done(), "a poll that asks to wait was answered at once")
    kept.cancel()
    await asyncio.wait([kept])
    claim(kept.cancelled(), "a call that was cancelled ended otherwise")
    plan = await line.call(PlanQuery())
    claim(plan.said == RawAnswer(stand.plan), "behind a cancelled call, an answer was another")
    session = await line.call(SessionQuery(stand.update.round, 1, 0, 0.0))
    heard = _reason(session) is not None or isinstance(session.said, Wait | RawAnswer)
    claim(heard, f"a question in a secure sum was answered by {session.said!r}")


async def _broken(stand: TransportStand, line: Transport) -> None:
    """Without a server there is one exception; with it again, the same line goes on."""
    update, query = stand.update, ModelQuery(stand.digest, stand.update.round)
    body = UpdateBody(update.round, update.digest, update.size)
    kept = asyncio.ensure_future(line.call(Poll(update.run, 0, 60.0)))
    await line.call(PlanQuery())
    await stand.cut()
    deeds: dict[str, Callable[[], Awaitable[Any]]] = {
        "a call that was kept": lambda: kept,
        "call": lambda: line.call(PlanQuery()),
        "upload": lambda: line.upload(body, 0, memoryview(stand.body)),
        "download": lambda: line.download(query, 0, KeepingSink()),
    }
    for name, deed in deeds.items():
        try:
            found = await deed()
        except LineFault as fault:
            claim(fault.why.strip(), f"{name}: a fault of the line without a word of what it is")
        except Exception as error:
            raise AssertionError(f"{name} without a server raised {error!r}") from error
        else:
            told = isinstance(found, Answer) and isinstance(
                found.said, Wait
            )  # a server that went in order
            claim(name == "a call that was kept" and told, f"{name} without a server: {found!r}")
    await stand.mend()
    plan = await line.call(PlanQuery())
    claim(plan.said == RawAnswer(stand.plan), "the line did not go on when the server was back")


async def _counts(stand: TransportStand, line: Transport) -> None:
    """Bytes of bodies are counted in their direction, and nothing else is."""
    other = stand.connect()
    claim((line.traffic.sent, line.traffic.received) == (0, 0), "bytes were counted at the start")
    await line.call(PlanQuery())
    claim(line.traffic.received >= len(stand.plan), "an answer was not counted")
    received, sink = line.traffic.received, KeepingSink()
    await line.download(ModelQuery(stand.digest, stand.update.round), 0, sink)
    claim(line.traffic.received > received, "a model was not counted")
    await line.call(stand.update)
    sent, update = line.traffic.sent, stand.update
    body = UpdateBody(update.round, update.digest, update.size)
    await line.upload(body, 0, memoryview(stand.body))
    claim(line.traffic.sent > sent, "an upload was not counted")
    claim((other.traffic.sent, other.traffic.received) == (0, 0), "another line's bytes counted")
    await other.close()
