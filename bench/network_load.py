# SPDX-License-Identifier: Apache-2.0
"""Load for a server, out of one process: `python -m bench.network_load requests PORT FOLDER`.

Requests are bytes that were made once, and an answer is looked at no more than it must be, so
that one core asks faster than another can answer.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import os
import re
import time
from collections import Counter, deque
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np

from bench.network_line import Line, dial, head, poll, tls_of
from bench.network_plan import plan
from bench.network_server import name_of
from muster.federation.protocol.codec_tensors import digest, encode
from muster.federation.protocol.message import (
    VERSIONS,
    Hello,
    Poll,
    UpdateHeader,
    Welcome,
    from_json,
    to_json,
)
from muster.runs.federation.conduct import ServerSettings, facts_of
from muster.transport.event_loop import loop_factory
from muster.vectors import tree_map

__all__ = ["main"]

VISITORS = 8  # certificates by which new TLS connections come
SECONDS = re.compile(rb'"seconds": *([0-9.e+-]+)')


async def requests(options: Any) -> dict[str, Any]:
    """Send small requests as fast as they are answered, over 32 connections."""
    tls = tls_of(options.folder, 0) if options.tls else None
    request = poll(options.folder.name, name_of(0))
    lines = [await dial(options.port, tls) for _ in range(32)]
    done, until = Counter[int](), time.perf_counter() + 1.0
    begun = 0.0

    async def one(line: Line) -> None:
        while time.perf_counter() < until:
            status, _ = await line.ask(request)
            done[status] += 1

    for seconds in (1.0, options.seconds):  # the first second does not count
        done.clear()
        begun = time.perf_counter()
        until = begun + seconds
        await asyncio.gather(*map(one, lines))
    spent = time.perf_counter() - begun
    return {"rate": done[200] / spent, "statuses": dict(done)}


async def checkins(options: Any) -> dict[str, Any]:
    """Have every member come back after the seconds it was told, over some hundred connections.

    Beside them, new TLS connections at a steady rate, each with one check-in. Times are from the
    moment a check-in or a connection was due, so that a queue in this process counts as well.
    """
    crowd = _Crowd(options)
    return await crowd.run()


async def uploads(options: Any) -> dict[str, Any]:
    """Upload the same large body from all sites at once; they only speak the protocol."""
    facts = facts_of(plan, options.folder.name, ServerSettings())
    draw = np.random.default_rng(0)
    tree = tree_map(lambda leaf: draw.standard_normal(leaf.shape, np.float32), facts.template)
    pieces = [memoryview(piece).cast("B") for piece in encode(tree)]
    size = sum(map(len, pieces))
    metrics = {"loss": 1.0, "rows": 1.0, "steps": 1.0, "drift": 1.0}
    sites = [_Site(options, number, facts.fingerprint) for number in range(options.members)]
    await asyncio.gather(*(site.invited() for site in sites))
    update = UpdateHeader(sites[0].run, 1, digest(pieces), size, facts.weigh(1, 1), metrics)
    begun = time.perf_counter()
    said = await asyncio.gather(*(site.upload(update, pieces) for site in sites))
    spent = time.perf_counter() - begun
    settled = await asyncio.gather(*(site.settled() for site in sites))
    return {
        "seconds": spent,
        "size": size,
        "accepted": sum(b'"accepted":true' in s for s in said),
        "settled": sum(b'"settled"' in s for s in settled),
    }


class _Site:
    """A site without training, vault or patience."""

    def __init__(self, options: Any, number: int, fingerprint: str) -> None:
        self.options, self.name = options, name_of(number)
        self.tls, self.run = tls_of(options.folder, number), ""
        self.hello = Hello(VERSIONS, self.name, fingerprint, 1)
        self.line: Any = None

    async def invited(self) -> None:
        self.line = await dial(self.options.port, self.tls)
        said = await self._say("/v1/hello", to_json(self.hello))
        self.run = from_json(said, Welcome).run
        while b'"task"' not in await self._say("/v1/poll", to_json(Poll(self.run, 0, 30.0))):
            continue

    async def upload(self, update: UpdateHeader, pieces: list[memoryview]) -> bytes:
        await self._say("/v1/updates", to_json(update))
        path = f"/v1/updates/1/{update.digest}?offset=0&size={update.size}"
        return await self.line.send(head("PUT", path, self.name, update.size), pieces)

    async def settled(self) -> bytes:
        return await self._say("/v1/poll", to_json(Poll(self.run, 1, 60.0)))

    async def _say(self, path: str, body: bytes) -> bytes:
        status, said = await self.line.ask(head("POST", path, self.name, len(body)) + body)
        if status != 200:
            raise RuntimeError(f"{path}: {status} {said!r}")
        return said


class _Crowd:
    def __init__(self, options: Any) -> None:
        self.options, self.run_name = options, options.folder.name
        self.tls = [tls_of(options.folder, number) for number in range(VISITORS)]
        self.idle: deque[Line] = deque()
        self.free = asyncio.Semaphore(0)
        self.times: list[float] = []
        self.handshakes: list[float] = []
        self.statuses: Counter[str] = Counter()
        self.told: Counter[float] = Counter()
        self.due: list[tuple[float, int]] = []
        self.tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> dict[str, Any]:
        options = self.options
        for _ in range(options.connections):
            self.idle.append(await dial(options.port))
            self.free.release()
        begin = time.perf_counter() + 0.5
        # Whoever was there before comes back spread over one period.
        period = options.members / options.pace
        self.due = [(begin + i / options.pace, i) for i in range(options.members)]
        until = begin + options.seconds
        await asyncio.gather(self._steer(begin, until), self._knock(begin, until))
        await asyncio.gather(*self.tasks)
        spent = time.perf_counter() - begin
        low = quantiles(self.times, n=100)
        knocks = quantiles(self.handshakes, n=100) if len(self.handshakes) > 1 else [0.0] * 99
        return {
            "rate": len(self.times) / spent,
            "p50": median(self.times),
            "p99": low[98],
            "worst": max(self.times),
            "statuses": dict(self.statuses),
            "period": period,
            "told": max(self.told, default=0),
            "connections": options.connections,
            "knocks": len(self.handshakes) / spent,
            "knock p99": knocks[98],
            "knock worst": max(self.handshakes, default=0),
        }

    async def _steer(self, begin: float, until: float) -> None:
        """Send each member when it is due."""
        while self.due and self.due[0][0] < until:
            due, member = heapq.heappop(self.due)
            wait = due - time.perf_counter()
            if wait > 0.001:
                await asyncio.sleep(wait)
            await self.free.acquire()
            self._start(self._checkin(due, member, self.idle.popleft()))

    async def _checkin(self, due: float, member: int, line: Line) -> None:
        try:
            status, body = await line.ask(poll(self.run_name, name_of(member)))
        except OSError as error:
            self.statuses[type(error).__name__] += 1
            line = await dial(self.options.port)
        else:
            now = time.perf_counter()
            self.times.append(now - due)
            self.statuses[str(status)] += 1
            found = SECONDS.search(body)
            seconds = float(found[1]) if found else 1.0
            self.told[seconds] += 1
            heapq.heappush(self.due, (now + seconds, member))
        self.idle.append(line)
        self.free.release()

    async def _knock(self, begin: float, until: float) -> None:
        """Open new TLS connections, so many a second."""
        for i in range(int((until - begin) * self.options.knocks)):
            due = begin + i / self.options.knocks
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            self._start(self._visit(due, i % VISITORS))

    async def _visit(self, due: float, number: int) -> None:
        try:
            line = await dial(self.options.other, self.tls[number])
            status, _ = await line.ask(poll(self.run_name, name_of(number)))
            line.transport.close()
        except OSError as error:
            self.statuses[f"tls {type(error).__name__}"] += 1
            return
        self.handshakes.append(time.perf_counter() - due)
        self.statuses[f"tls {status}"] += 1

    def _start(self, deed: Any) -> None:
        task = asyncio.ensure_future(deed)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


KINDS = {"requests": requests, "checkins": checkins, "uploads": uploads}


def main() -> None:
    """Load a server and print what came of it as one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=[*KINDS])
    parser.add_argument("port", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--other", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--connections", type=int, default=256)
    parser.add_argument("--pace", type=float, default=2000.0)
    parser.add_argument("--knocks", type=float, default=100.0)
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        print(json.dumps(runner.run(KINDS[options.kind](options))), flush=True)


if __name__ == "__main__":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    main()
