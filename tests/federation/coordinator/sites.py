# SPDX-License-Identifier: Apache-2.0
"""Sites without sockets: they talk to a desk in its event loop, and train as real ones do."""

import asyncio
import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from muster import keys
from muster.federation.coordinator.clients import NetworkClients
from muster.federation.coordinator.round_state import RoundState
from muster.federation.coordinator.service import FederationService
from muster.federation.protocol.codec_tensors import decode, digest, encode
from muster.federation.protocol.frozen import named_in
from muster.federation.protocol.message import (
    VERSIONS,
    Evaluate,
    Hello,
    Measured,
    Poll,
    RunEnded,
    Settled,
    TrainAssignment,
    UpdateHeader,
)
from muster.federation.protocol.template import frozen_template, sent_template
from muster.local import Group, train
from muster.metrics.sums import HELD_OUT
from muster.runs.federation.conduct import ServerSettings, facts_of
from muster.security.refusal import Refused
from muster.store.ledger import FederationStore
from muster.vectors import tree_map


def nothing(label):
    """Nobody waits at a label."""


class Federation:
    """A desk in a thread with an event loop, one task for each client, and the Clients seam."""

    def __init__(self, plan, population, folder, *, absent=None, terms=None, at=nothing):
        names = {f"site-{i}": client for i, client in enumerate(population.clients)}
        terms = terms or ServerSettings(enough=len(names), names=names)
        self.plan, self.population, self.absent = plan, population, absent or {}
        self.ledger = FederationStore(folder)
        self.round_state = RoundState(self.ledger, facts_of(plan, "run-1", terms))
        self.service = FederationService(self.round_state, self.ledger)
        self.stop = threading.Event()
        self.network = NetworkClients(
            plan, self.ledger, self.round_state, enough=terms.enough, stop=self.stop, at=at
        )
        x, buffers = plan.task.init(keys.key(plan.seed).at("init"))
        self.blank = plan.fresh_memory(x, buffers) if plan.remembers else None
        self.memories = {}
        self.sites = {name: (client, i) for i, (name, client) in enumerate(names.items())}
        self._pool = ThreadPoolExecutor(1)  # one training at a time
        self._ready = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(),))
        self._thread.start()
        self._ready.wait()

    def __getattr__(self, name):
        return getattr(self.network, name)  # known, send, replies, evaluate, settle

    def close(self):
        """End the loop, its tasks and the ledger."""
        self.stop.set()
        self.round_state.close()
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        self._pool.shutdown()
        self.ledger.close()

    async def _serve(self):
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        for name, (client, _) in self.sites.items():
            rows = len(self.population[client][0])
            hello = Hello(VERSIONS, name, self.service.facts.fingerprint, rows)
            await self.service.welcome(name, hello)
        tasks = [asyncio.create_task(self._site(name)) for name in self.sites]
        self._ready.set()
        await self._over.wait()
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _site(self, name):
        client, _ = self.sites[name]
        pending = 0
        while True:
            said = await self.service.poll(name, Poll("run-1", pending, 30.0))
            if isinstance(said, TrainAssignment) and client in self.absent.get(said.round, ()):
                await self._silent(name, said)
            elif isinstance(said, TrainAssignment):
                pending = await self._train(name, client, said)
            elif isinstance(said, Settled):
                before, after = self.memories[client]
                self.memories[client] = (after if said.accepted else before, None)
                pending = 0
            elif isinstance(said, Evaluate):
                await self._evaluate(name, client, said)
            elif isinstance(said, RunEnded) or self.round_state.closing:
                return

    async def _silent(self, name, task):
        """Say nothing until the round goes on without this client."""
        client = self.sites[name][0]
        self.round_state.volatile.leases[client] = 0.0
        self.round_state.news.ring()

        def waits():
            seats = self.round_state.assignments(task.round, "train")
            return seats and seats[client].standing == "invited"

        while waits():
            await asyncio.sleep(0)

    def _sent(self, model):
        template = sent_template(self.plan)
        body = self.ledger.blobs.whole(self.service.model(model))
        sent, still = tree_map(np.array, decode(body, template)), named_in(body, template)
        if still is None:
            return sent
        once = self.ledger.blobs.whole(self.service.model(still))
        return sent._replace(**tree_map(np.array, decode(once, frozen_template(self.plan))))

    async def _train(self, name, client, task):
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._pool, self._outcome, client, task)
        body, weight, metrics, memory = await work
        before = self.memories.get(client, (self.blank, None))[0]
        self.memories[client] = (before, memory)
        update = UpdateHeader("run-1", task.round, digest([body]), len(body), weight, metrics)
        with contextlib.suppress(Refused):
            upload = self.service.announce(name, update)
            if not upload.held:
                self.ledger.blobs.append(upload.blob, 0, body)
                self.ledger.blobs.finish(upload.blob)
                await self.service.arrived(name, upload)
        return task.round

    def _outcome(self, client, task):
        x, y = self.population[client]
        memory = self.memories.get(client, (self.blank, None))[0]
        group = Group(
            (client,),
            (task.times,),
            x,
            y,
            np.zeros(1, np.int64),
            np.array([len(x)]),
            None if memory is None else (memory,),
        )
        done = train(self.plan, "loop", task.round, self._sent(task.model), group)
        weight = float(done.weights[0])
        buffers = done.buffers[0] * done.buffers.dtype.type(weight)
        tree = {"payload": {k: v[0] for k, v in done.payload.items()}, "buffers": buffers}
        metrics = {k: float(v[0]) for k, v in done.metrics.items()}
        return b"".join(encode(tree)), weight, metrics, done.memories and done.memories[0]

    async def _evaluate(self, name, client, said):
        sent = self._sent(said.model)
        x, y = self.population[client]
        w, measured = self.plan.whole(sent, self.blank), self.plan.measured
        sums = self.plan.task.evaluate(*w, x, y, measured) | {HELD_OUT: 0.0}
        found = {k: float(v) for k, v in sums.items()}
        await self.service.answer(name, Measured("run-1", said.round, said.model, found))
