# SPDX-License-Identifier: Apache-2.0
"""A federation whose sums are masked, in one process: real sites, a real edge, and no sockets."""

import asyncio
import contextlib
import math
import ssl
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import httpx
import numpy as np
from tests.federation.site.lines import line_over

import muster
from muster import algorithms, optimizers, pipeline, tasks
from muster.federation.coordinator.round_state import RoundState
from muster.federation.coordinator.service import FederationService
from muster.federation.site.agent import SiteAgent
from muster.federation.site.server_client import Backoff
from muster.federation.site.store import SiteStore
from muster.federation.site.study import StudyRecord
from muster.federation.site.trainer import Habits
from muster.federation.site.training import Training
from muster.federation.site.training_thread import TrainingThread
from muster.runs.drive import Options
from muster.runs.federation.conduct import ServerSettings, conduct, facts_of, prepare
from muster.security import audit, pki
from muster.security.identity import IDENTITY, holder
from muster.store.ledger import FederationStore
from muster.transport.http.app import HTTPApp
from muster.transport.http.limits import Limits

NAMES = tuple(f"site-{i}" for i in range(5))
NOW = datetime.now(UTC)
QUICK = Backoff(first=0.01, longest=0.05, least=0.01)
HANGS = 200.0  # seconds, after which a run is taken to hang


def plan_of(*, layers=(4, 5, 3), rounds=2, secure=None, **more):
    """FedAvg of a small network, clipped, quantized and masked."""
    stages = [pipeline.Clip(1.0), pipeline.Quantize(12), secure or pipeline.SecureSum()]
    plain = {"cap": 9, "evaluate": muster.Every(1, clients=0)}
    return muster.Plan(
        task=tasks.numpy.MLP([*layers]),
        algorithm=algorithms.FedAvg(),
        rounds=rounds,
        local=muster.Local(epochs=1, batch=4, optimizer=optimizers.SGD(0.1)),
        pipeline=stages,
        **plain | more,
    )


def population(names=NAMES):
    """5 to 13 rows each."""
    draw, rows = np.random.default_rng(3), {}
    for i, name in enumerate(names):
        n = 5 + 2 * i
        rows[name] = draw.normal(size=(n, 4)).astype("float32"), draw.integers(0, 3, n)
    return muster.Population.from_arrays(rows)


def identities(home, names=NAMES):
    """An authority, and a folder for the server and each site."""
    pki.init(home / "authority", "masked", NOW)
    for name in ("hub", *names):
        request, _ = pki.ask(home / name, name)
        grant = pki.Grant("https://hub:8443", "server" if name == "hub" else "site")
        pki.accept(pki.approve(home / "authority", request, grant, NOW).bundle, home / name, NOW)
    return home


def certificate(home, name):
    """A site's certificate, PEM."""
    pem = (home / name / IDENTITY).read_text()
    return pem[pem.index("-----BEGIN CERTIFICATE") :]


class Federation:
    """A federation to play; tests change its parts before `play`.

    `notaries` are other signers of some sites, `between(name, method, path, body)` may replace an
    answer's body on its way to a site, `desk_of` may be another class; those who are `away` say
    hello, and fetch tasks, and never answer. Nobody waits for a lease to end: that of who is away,
    or is `hurried` and said what was refused, is over at once.
    """

    def __init__(self, home, plan=None, *, lease=60.0, names=NAMES, at=None, clock=time.monotonic):
        self.home, self.plan, self.names = identities(home, names), plan or plan_of(), names
        self.people, self.at = population(names), at
        self.terms = ServerSettings(enough=len(names), lease=lease)
        self.notaries = {name: pki.Notary(home / name) for name in names}
        self.between = lambda name, method, path, body: body
        self.desk_of, self.away, self.habits = (
            FederationService,
            set(),
            Habits(wait=1.0, entropy=None),
        )
        self.ledger = FederationStore(home / "run")
        self.log = audit.AuditLog(home / "run" / "audit.jsonl", purpose="server", id="run")
        self.began = lambda: None  # called when the hall is there
        self.clock, self.hurried = clock, set()
        self.mute = set()  # who does not hear the end, since it was left out
        self.entropy = None  # of the server: the plan's seed
        self.captured = []  # (name, method, path, body) of every request

    def play(self):
        """The run to its end; its records."""
        try:
            return asyncio.run(self._play())
        finally:
            self.ledger.close()
            self.log.close()

    async def _play(self):
        notary = pki.Notary(self.home / "hub")
        facts = facts_of(self.plan, "run", self.terms)
        facts = replace(facts, vouch=notary.attest, listed=notary.listed, note=self._note)
        self.round_state = RoundState(self.ledger, facts, clock=self.clock)
        self.began()
        self.service = self.desk_of(self.round_state, self.ledger, self.log.append)
        models = self.ledger.blobs
        self.edge = HTTPApp(self.service, models, frozenset, limits=Limits(1e6, 1e6))
        stop = threading.Event()
        options = replace(Options(), entropy=self.entropy)
        options = replace(options, at=self.at) if self.at else options
        given = (self.plan, self.ledger, self.round_state, None, self.terms, stop, options)
        prepare(self.plan, self.ledger)
        engine = asyncio.ensure_future(asyncio.to_thread(conduct, *given))
        async with contextlib.AsyncExitStack() as stack:
            hand = await stack.enter_async_context(TrainingThread())
            sites = [await self._site(stack, hand, name) for name in self.names]
            for site in sites:
                if site.name in self.away:
                    site.masked = Away(partial(self.over, site.name))
            attending = [asyncio.ensure_future(site.attend()) for site in sites]
            try:
                first = asyncio.FIRST_COMPLETED
                done, _ = await asyncio.wait({engine, *attending}, return_when=first, timeout=HANGS)
                for one in done:
                    one.result()
                assert engine.done(), (self.round_state.seats, self.entries())
                await engine
                self.round_state.end("over")
                for site, one in zip(sites, attending, strict=True):
                    if site.name not in self.away | self.mute:
                        await one
            finally:
                stop.set()
                self.round_state.close()
                for one in attending:
                    one.cancel()
                await asyncio.gather(engine, *attending, return_exceptions=True)
        return [record for record in self.ledger.history() if record["round"]]

    async def _site(self, stack, hand, name):
        site_store = SiteStore(self.home / name / "vault")
        stack.callback(site_store.close)
        below, tls = httpx.ASGITransport(self._app(name)), ssl.create_default_context()
        line = line_over(below, name, "https://hub", tls, patience=QUICK)
        await stack.enter_async_context(line)
        log = audit.AuditLog(self.home / name / "audit.jsonl", purpose="site", id=name)
        stack.callback(log.close)
        study = StudyRecord(self.home / name / "studies" / "default", "default")
        stack.callback(study.close)
        training = Training(self.plan, self.people[name])
        habits = replace(self.habits, audit=log)
        notary = self.notaries[name]
        return SiteAgent(name, training, line, site_store, hand, habits, study=study, notary=notary)

    def over(self, name):
        """The lease of a member ends."""
        self.round_state.volatile.leases[name] = -math.inf
        self.round_state.news.ring()

    def _note(self, actor, action, **details):
        self.log.append(actor, action, **details)
        if action == "secure message refused" and actor in self.hurried:
            self.over(actor)

    def _app(self, name):
        """The edge as this site sees it, behind what TLS does."""
        pem = certificate(self.home, name)
        state = {"identity": holder(pem.encode()), "certificate": pem}

        async def app(scope, receive, send):
            method, path, body = scope["method"], scope["path"], bytearray()

            async def heard():
                message = await receive()
                body.extend(message.get("body", b""))
                return message

            async def told(message):
                if message["type"] == "http.response.body" and message.get("body"):
                    changed = self.between(name, method, path, bytes(message["body"]))
                    message = message | {"body": changed}
                await send(message)

            scope["state"] = dict(state)
            await self.edge(scope, heard, told)
            self.captured.append((name, method, path, bytes(body)))

        return app

    def entries(self, name=None):
        """Return the entries of an audit log: the server's, or a site's."""
        path = self.home / (name or "run") / "audit.jsonl"
        return [(e["actor"], e["action"], e["details"]) for e in audit.entries(path)]

    def state(self):
        """The parameters of the run."""
        return muster.Run(self.home / "run", self.plan).parameters.tobytes()


class Away:
    """Says nothing in a secure sum, until it is asked to end; `silent()` is called once."""

    def __init__(self, silent):
        self.silent = silent

    def stands(self, task):
        return False

    def expire(self):
        """It has no secrets."""

    async def deliver(self, task, pending):
        self.silent()
        await asyncio.Event().wait()


def simulated(plan, people, folder):
    """The same plan in one process."""
    return muster.simulate(plan, people, path=folder, engine="loop", workers=1)
