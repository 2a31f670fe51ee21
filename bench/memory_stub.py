# SPDX-License-Identifier: Apache-2.0
"""The other side of one process whose memory is measured: it speaks the protocol and holds nothing.

A body is a header of the plan and one mebibyte of random numbers again and again, made as it is
sent; what is received is counted and forgotten.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import zstandard

from muster.federation.protocol.codec_tensors import digest, encode
from muster.federation.protocol.message import (
    VERSIONS,
    Ack,
    Evaluate,
    Hello,
    Measured,
    Message,
    Poll,
    Progress,
    ResumeAt,
    RunEnded,
    Settled,
    TrainAssignment,
    UpdateHeader,
    Wait,
    Welcome,
    from_json,
    to_json,
)
from muster.plan import Plan
from muster.plan.registry import fingerprint
from muster.types import Tree
from muster.vectors import leaves

__all__ = ["Body", "Server", "site"]

PIECE = 1 << 20  # bytes
RUN = "stub"


@dataclass(frozen=True)
class Body:
    """A body of a template, all of whose arrays are float32; `seed` tells one from another."""

    template: Tree
    seed: int

    @cached_property
    def _head(self) -> bytes:
        return bytes(next(iter(encode(self.template))))

    @cached_property
    def size(self) -> int:
        """Its bytes."""
        count = int.from_bytes(self._head[:8], "little") + 8
        assert count == len(self._head)
        return count + sum(leaf.nbytes for leaf in _leaves(self.template))

    @cached_property
    def digest(self) -> str:
        """Its SHA-256."""
        return digest(self.pieces())

    def pieces(self, begin: int = 0) -> Iterator[bytes]:
        """Yield its bytes from a place on."""
        draw = np.random.default_rng(self.seed)
        numbers = draw.standard_normal(PIECE // 4, np.float32).tobytes()
        if begin < len(self._head):
            yield self._head[begin:]
        at = max(begin - len(self._head), 0)
        left = self.size - len(self._head)
        while at < left:
            from_ = at % PIECE
            piece = numbers[from_ : min(PIECE, from_ + left - at)]
            yield piece
            at += len(piece)


def site(address: str, name: str, plan: Plan, body: Body, rows: int, rounds: int = 1 << 30) -> int:
    """Take part in rounds of a real server without training; how many updates counted.

    Until the run has ended, or the fate of so many updates was heard.
    """
    with closing(_Line(address, name)) as line:
        return _rounds(line, name, plan, body, rows, rounds)


def _rounds(line: _Line, name: str, plan: Plan, body: Body, rows: int, rounds: int) -> int:
    welcome = line.say("/v1/hello", Hello(VERSIONS, name, fingerprint(plan), rows))
    assert isinstance(welcome, Welcome), welcome
    run, pending, counted = welcome.run, 0, 0
    while True:
        said = line.say("/v1/poll", Poll(run, pending, 30.0))
        if isinstance(said, RunEnded):
            return counted
        if isinstance(said, TrainAssignment) and pending != said.round:
            line.swallow(f"/v1/models/{said.model}?round={said.round}")
            metrics = {"loss": 1.0, "rows": float(rows), "steps": 1.0, "drift": 1.0}
            line.upload(UpdateHeader(run, said.round, body.digest, body.size, 1.0, metrics), body)
            pending = said.round
        elif isinstance(said, Evaluate):
            line.swallow(f"/v1/models/{said.model}?round={said.round}")
            sums = {"loss": 1.0, "rows": float(rows), "held out": 0.0}
            sums |= dict.fromkeys(plan.sums or (), float(rows))
            told = line.say("/v1/answers", Measured(run, said.round, said.model, sums))
            assert isinstance(told, Ack) and told.accepted, told
        elif isinstance(said, Settled):
            counted, pending, rounds = counted + said.accepted, 0, rounds - 1
            if not rounds:
                return counted
        else:
            assert isinstance(said, Wait | TrainAssignment), said


def _leaves(template: Tree) -> list[Any]:
    found = [leaf for _, leaf in leaves(template)]
    assert all(leaf.dtype == np.float32 for leaf in found)
    return found


class _Line:
    """A connection to a real server."""

    def __init__(self, address: str, name: str) -> None:
        self.http = http.client.HTTPConnection(address.removeprefix("http://"), timeout=300)
        self.headers = {"muster-site": name}

    def close(self) -> None:
        """End it."""
        self.http.close()

    def say(self, path: str, message: Message) -> Any:
        """Say something, and hear the answer."""
        self.http.request("POST", path, to_json(message), self.headers)
        return from_json(self.http.getresponse().read(), *KINDS)

    def swallow(self, path: str) -> None:
        """Take a body and keep nothing of it."""
        self.http.request("GET", path, headers=self.headers)
        answer = self.http.getresponse()
        assert answer.status == 200, answer.read()
        while answer.read(PIECE):
            continue

    def upload(self, update: UpdateHeader, body: Body) -> None:
        """Announce an update, and send it whole."""
        offer = self.say("/v1/updates", update)
        assert offer == ResumeAt(0), offer
        path = f"/v1/updates/{update.round}/{update.digest}?offset=0&size={update.size}"
        headers = self.headers | {"content-length": str(body.size)}
        self.http.request("PUT", path, body.pieces(), headers)
        said = from_json(self.http.getresponse().read(), *KINDS)
        assert said == Ack(True), said


KINDS: tuple[type[Message], ...] = (
    RunEnded,
    Evaluate,
    ResumeAt,
    Settled,
    TrainAssignment,
    Ack,
    Wait,
    Welcome,
)


class Server:
    """A server for one real site: so many rounds, each with a model of its own and evaluated.

    A context: `address` is where it listens meanwhile. `updates` are the sizes of those that came.
    """

    def __init__(self, template: Tree, rounds: int, lease: float = 60.0) -> None:
        self.models = [Body(template, seed) for seed in range(rounds + 1)]
        self.rounds, self.lease = rounds, lease
        self.round, self.evaluating, self.held = 1, False, 0
        self.updates: list[int] = []
        self.failed: list[Message] = []
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> Server:
        for model in self.models:
            _ = model.digest
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def heard(self, path: str, data: bytes) -> Message:
        """Return the answer to a message."""
        if path == "/v1/hello":
            return Welcome(1, RUN, from_json(data, Hello).name, self.lease)
        if path == "/v1/poll":
            return self._asked(from_json(data, Poll))
        if path == "/v1/updates":
            self.wanted, self.held = from_json(data, UpdateHeader), 0
            return ResumeAt(0)
        told: Any = from_json(data, *ANSWERS)
        if isinstance(told, Measured):
            self.evaluating = False
            self.round += 1
        elif not isinstance(told, Progress):
            self.failed.append(told)
        return Ack(True)

    def _asked(self, poll: Poll) -> Message:
        if self.failed:
            return RunEnded(RUN, self.round - 1, "it failed")
        if self.evaluating:
            model = self.models[self.round].digest
            return Evaluate(RUN, self.round, model, self.lease, counted=True)
        if poll.pending and poll.pending < self.round:
            return Settled(RUN, poll.pending, accepted=True)
        if self.round > self.rounds:
            return RunEnded(RUN, self.rounds, "all rounds are done")
        return TrainAssignment(RUN, self.round, self.models[self.round - 1].digest, self.lease)

    def took(self, count: int) -> Message:
        """Note that so many bytes of an update have come, and return the answer."""
        self.held += count
        if self.held < self.wanted.size:
            return ResumeAt(self.held)
        self.updates.append(self.held)
        self.evaluating = True
        return Ack(True)


ANSWERS: tuple[type[Message], ...] = (Measured, Progress)


def _handler(stub: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["content-length"]))
            self._say(to_json(stub.heard(self.path, data)))

        def do_PUT(self) -> None:
            left, came = int(self.headers["content-length"]), 0
            packed = self.headers.get("content-encoding") == "zstd"
            unpack = zstandard.ZstdDecompressor().decompressobj().decompress if packed else bytes
            while left:
                piece = self.rfile.read(min(left, PIECE))
                came += len(unpack(piece))
                left -= len(piece)
            self._say(to_json(stub.took(came)))

        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2].partition("?")[0]
            body = next(model for model in stub.models if model.digest == name)
            self.send_response(200)
            self.send_header("content-length", str(body.size))
            self.end_headers()
            for piece in body.pieces():
                self.wfile.write(piece)

        def _say(self, data: bytes) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Write nothing: nobody reads it."""

    return Handler
