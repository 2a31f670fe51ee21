# SPDX-License-Identifier: Apache-2.0
"""A desk that follows the contract and decides nothing, and ways to talk to an edge before it."""

import asyncio
import contextlib
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np

from muster.federation.coordinator.facts import FederationFacts
from muster.federation.protocol.codec_tensors import digest, encode
from muster.federation.protocol.message import (
    VERSIONS,
    Ack,
    Hello,
    Poll,
    ResumeAt,
    Settled,
    TrainAssignment,
    UpdateHeader,
    Wait,
    Welcome,
    from_json,
    to_json,
)
from muster.ports import Disk
from muster.security import identity, pki
from muster.security.identity import Grant
from muster.security.refusal import RefusalReason, Refused
from muster.store.blobs import Files, model_name, update_name
from muster.transport.event_loop import loop_factory
from muster.transport.http.app import HTTPApp
from muster.transport.http.limits import Limits
from muster.transport.http.listen import ListenAddress, serve
from muster.transport.http.operator import Meters, Operator

RUN, FINGERPRINT = "digits-1", "f" * 64
HELLO = Hello(VERSIONS, "lyon", FINGERPRINT, 100)
POLL = Poll(RUN, 0, 0.0)
TREE = {"b": np.arange(8, dtype="float32"), "w": np.ones((16, 8), "float32")}
FAST = Disk(sync=int)


@dataclass(frozen=True)
class Upload:
    blob: str
    update: UpdateHeader
    template: Any
    held: bool


def weigh(rows, times):
    """Everybody counts once."""
    return 1.0


class Desk:
    """Enrols whom it is asked to, and writes down what it is told.

    With `keeps` a poll that asks to wait waits for ever; else there is nothing to do, at once.
    """

    def __init__(self, template=TREE, members=("lyon", "oslo"), keeps=True):
        self.facts = FederationFacts(RUN, FINGERPRINT, {"a": 1}, weigh, None, 1 << 20)
        self.round_state = SimpleNamespace(members={})  # nobody takes part in a secure sum
        self.template, self.members, self.keeps = template, set(members), keeps
        self.counts, self.moved = Counter(), Counter()
        self.seats: dict[str, Any] = {}  # name -> the digest that arrived, or why it failed
        self.elsewhere: set[str] = set()  # the digests that another server has taken
        self.word, self.next = "run", Wait(0.0)
        self.models: set[str] = set()
        self.kept = asyncio.Event()  # somebody's poll is kept waiting
        self.left = asyncio.Event()  # and was given up

    async def welcome(self, name, hello, certificate=""):
        if hello.fingerprint != FINGERPRINT:
            raise Refused(RefusalReason.WRONG_FINGERPRINT, "another plan")
        self.members.add(name)
        return Welcome(1, RUN, name, 15.0)

    async def poll(self, name, poll):
        self.known(name)
        if poll.pending:
            return Settled(RUN, poll.pending, True)
        if poll.wait and self.keeps:
            self.kept.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.left.set()
        return self.next

    def disposed(self, name, update):
        return update.digest in self.elsewhere

    def announce(self, name, update):
        self.known(name)
        if update.run != RUN:
            raise Refused(RefusalReason.UNKNOWN_RUN, "another run")
        if update.round != 3:
            raise Refused(RefusalReason.STALE, "over")
        held = self.seats.get(name) == update.digest
        if name in self.seats and not held:
            raise Refused(RefusalReason.CLOSED, "decided")
        if update.size > 1 << 30:
            raise Refused(RefusalReason.TOO_LARGE, "at most 1 GiB")
        return Upload(update_name(3, name, update.digest), update, self.template, held)

    async def arrived(self, name, upload):
        if self.seats.setdefault(name, upload.update.digest) != upload.update.digest:
            raise Refused(RefusalReason.DUPLICATE, "another is held")
        return Ack(True)

    async def refuse(self, name, update, refused):
        self.seats.setdefault(name, refused.reason)

    async def answer(self, name, message):
        self.known(name)
        if message.round != 3:
            raise Refused(RefusalReason.STALE, "over")
        return Ack(True)

    def progress(self, name, round, amount):
        self.known(name)
        self.moved[name, round] += amount

    def attempted(self, round, attempt):
        """Every one of them."""

    def stepped(self, name, said):
        round, steps = said.round, said.steps
        self.progress(name, round, steps)

    def secure(self, name, round):
        """Nobody takes part in a secure sum."""
        raise Refused(RefusalReason.UNENROLLED, f"{name} has not said hello here")

    async def secure_news(self, name, round, after, wait):
        self.secure(name, round)

    def model(self, digest):
        if digest not in self.models:
            raise Refused(RefusalReason.UNKNOWN, "no such model")
        return model_name(digest)

    def status(self):
        seats = [{"standing": "arrived", "client": name} for name in self.seats]
        return {"run": RUN, "committed": 2, "round": 3, "seats": seats, "wanted": self.word}

    async def go_back(self, round, by, reason):
        """No engine plays behind this one."""
        raise Refused(RefusalReason.CLOSED, "this server does not play the run")

    async def want(self, word):
        if word not in ("run", "pause", "drain", "stop"):
            raise Refused(RefusalReason.MALFORMED, "no order")
        self.word = word
        return self.status()

    def known(self, name):
        if name not in self.members:
            raise Refused(RefusalReason.UNENROLLED, "say hello")


def task(model):
    return TrainAssignment(RUN, 3, model, 15.0)


def body(tree=TREE):
    return b"".join(encode(tree))


def update(data, **more):
    return UpdateHeader(
        **{
            "run": RUN,
            "round": 3,
            "digest": digest([data]),
            "size": len(data),
            "weight": 1.0,
            "metrics": {},
        }
        | more
    )


def place(said, offset=0, **more):
    """Where the octets of an announced update go."""
    return f"/v1/updates/{said.round}/{said.digest}?offset={offset}&size={said.size}"


def client_of(edge, name="lyon", **more):
    """A client that talks to an edge without a socket, in the clear."""
    headers = {"Muster-Site": name} if name else {}
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(edge), base_url="http://muster", headers=headers, **more
    )


def plain(port, name="lyon"):
    """A client that talks to a server on loopback in the clear."""
    headers = {"Muster-Site": name}
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers)


@contextlib.contextmanager
def edge_over(folder, service=None, plain=True, **more):
    """An edge over blobs in a folder."""
    service = service or Desk()
    blobs = Files(folder / "blobs", FAST)
    more.setdefault("limits", Limits(1e6, 1e6))
    edge = HTTPApp(service, blobs, more.pop("revoked", frozenset), plain=plain, **more)
    with edge.pool:
        yield edge, service, blobs


def keep_model(service, blobs, data):
    """Have a model that may be fetched; its digest."""
    name = digest([data])
    blobs.append(model_name(name), 0, data)
    blobs.finish(model_name(name))
    service.models.add(name)
    return name


def run(main):
    """Run a coroutine in the loop that the server uses."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(main)


@contextlib.asynccontextmanager
async def listening(edge, where=None, trust=None):
    """A server on a free port of loopback; its port."""
    where = where or ListenAddress(port=0, tick=0.05, grace=2.0)
    stop, port = asyncio.Event(), asyncio.get_running_loop().create_future()
    meters = Meters(edge.service)
    serving = asyncio.ensure_future(
        serve(edge, Operator(edge.service, meters), where, stop, trust=trust, told=port.set_result)
    )
    await asyncio.wait({serving, port}, return_when=asyncio.FIRST_COMPLETED)
    try:
        yield port.result() if port.done() else serving.result()
    finally:
        stop.set()
        await serving


class Federation:
    """An authority with a server; sites join it."""

    def __init__(self, folder, title="Heart study"):
        self.folder, self.hq = folder, folder / "hq"
        pki.init(self.hq, title, datetime.now(UTC) - 9 * DAY)
        self.hub = self.join("hub", "server", hosts=("localhost", "127.0.0.1"))

    def join(self, name, role="site", days=365, hosts=(), now=None):
        now, home = now or datetime.now(UTC), self.folder / name
        asked, _ = pki.ask(home, name)
        grant = Grant("https://localhost:8443", role, days, hosts)
        pki.accept(pki.approve(self.hq, asked, grant, now).bundle, home, now)
        return home

    def revoke(self, name):
        pki.revoke(self.hq, name, "left", datetime.now(UTC))
        self.publish()

    def publish(self):
        """Carry the revocation list to the server."""
        fresh = self.hub / "fresh.pem"
        fresh.write_bytes((self.hq / "revoked.pem").read_bytes())
        fresh.replace(self.hub / "revoked.pem")

    def tls(self, home):
        return identity.client_context(home, home / "authority.pem")


DAY = timedelta(days=1)


DATA = body()
SAID = update(DATA)
BLOB = update_name(3, "lyon", SAID.digest)


def over(tmp_path, talk, service=None, **more):
    """Have `talk(client, desk, blobs)` send to an edge."""

    async def main():
        with edge_over(tmp_path, service, **more) as (edge, found, blobs):
            async with client_of(edge) as client:
                return await talk(client, found, blobs)

    return run(main())


async def announce(client, said=SAID):
    return heard(await client.post("/v1/updates", content=to_json(said)))


async def put(client, data, offset=0, said=SAID, **headers):
    return heard(await client.put(place(said, offset), content=data, headers=headers))


def heard(response):
    """A status and a message."""
    assert response.headers["muster-version"] == "2"
    return response.status_code, from_json(response.content, ResumeAt, Ack)


def why(answer):
    status, verdict = answer
    assert not verdict.accepted and verdict.text
    return status, verdict.reason
