# SPDX-License-Identifier: Apache-2.0
"""Nothing that a site sees, but the model, depends on who else is enrolled and was drawn.

Poisson's coins hide a client only from whoever does not see them. The attack: an honest server told
its sites how many were asked, and showed the seats on their port; so a site knew whether one more
had been drawn, and the amplification by sampling that the statement claims was void.
"""

import asyncio
import contextlib
import re
import threading

import httpx
import numpy as np
import pytest
from tests.federation.site.lines import line_over

import muster
from muster import aggregation, algorithms, optimizers, pipeline, sampling, tasks
from muster.federation.coordinator.round_state import RoundState
from muster.federation.coordinator.service import FederationService
from muster.federation.protocol.message import VERSIONS, Hello
from muster.federation.site.agent import SiteAgent
from muster.federation.site.server_client import Backoff
from muster.federation.site.store import SiteStore
from muster.federation.site.study import StudyRecord
from muster.federation.site.trainer import Habits
from muster.federation.site.training import Training
from muster.federation.site.training_thread import TrainingThread
from muster.privacy import Secret
from muster.runs.drive import Options
from muster.runs.federation.conduct import ServerSettings, conduct, facts_of, prepare
from muster.store.ledger import FederationStore
from muster.transport.http.app import HTTPApp
from muster.transport.http.limits import Limits
from muster.types import Roster

ROUNDS, RATE = 8, 0.5
SEEN = ("a", "b")  # who compares, in both worlds
HASH = re.compile(rb"[0-9a-f]{64}")
OUR_OWN = ("/healthz", "/metrics", "/openapi.json", "/v1/plan", "/v1/members?round=1")


def plan(evaluate=None, **more):
    """Central noise, and coins that it counts on."""
    return muster.Plan(
        task=tasks.numpy.SoftmaxRegression(4, 3),
        algorithm=algorithms.FedAvg(),
        rounds=ROUNDS,
        local=muster.Local(epochs=1, batch=4, optimizer=optimizers.SGD(0.1)),
        sampling=sampling.Poisson(RATE),
        weighting="equal",
        pipeline=[pipeline.Clip(1.0), pipeline.Noise(1.0)],
        aggregation=aggregation.Mean("expected"),
        evaluate=evaluate or muster.Every(2),
        **more,
    )


def secret(size):
    """The same coins in both worlds, for who is in both."""
    return bytes(range(size))


def rows(name):
    draw = np.random.default_rng(ord(name))
    return draw.normal(size=(9, 4)).astype("float32"), draw.integers(0, 3, 9)


class World:
    """A real server and real sites in one process; what `SEEN` see of it."""

    def __init__(self, home, names, given):
        self.home, self.names, self.plan = home, names, given
        self.ledger = FederationStore(home / "run")
        self.seen = {name: [] for name in names}

    def play(self):
        try:
            asyncio.run(self._play())
        finally:
            self.ledger.close()
        return self

    async def _play(self):
        terms = ServerSettings(enough=len(SEEN))
        round_state = RoundState(self.ledger, facts_of(self.plan, "run", terms))
        service = FederationService(round_state, self.ledger)
        self.edge = HTTPApp(
            service, self.ledger.blobs, frozenset, limits=Limits(1e6, 1e6), plain=True
        )
        prepare(self.plan, self.ledger)
        for name in self.names:  # whoever else there is was there from the beginning
            await service.welcome(name, Hello(VERSIONS, name, round_state.facts.fingerprint, 9))
        stop, options = threading.Event(), Options(entropy=secret)
        given = (self.plan, self.ledger, round_state, None, terms, stop, options)
        engine = asyncio.ensure_future(asyncio.to_thread(conduct, *given))
        async with contextlib.AsyncExitStack() as stack:
            hand = await stack.enter_async_context(TrainingThread())
            sites = [await self._site(stack, hand, name) for name in self.names]
            lives = [asyncio.ensure_future(site.attend()) for site in sites]
            try:
                await asyncio.wait_for(engine, 200)
                round_state.end("all rounds are done")
                await asyncio.wait_for(asyncio.gather(*lives), 200)
                for site in sites:
                    for path in OUR_OWN:
                        await site.line.port.http.get(path)
            finally:
                stop.set()
                round_state.close()
                for life in lives:
                    life.cancel()
                await asyncio.gather(engine, *lives, return_exceptions=True)
        self.history = self.ledger.history()

    async def _site(self, stack, hand, name):
        site_store = SiteStore(self.home / name / "vault")
        stack.callback(site_store.close)
        study = StudyRecord(self.home / name / "study", "default")
        stack.callback(study.close)
        transport = httpx.ASGITransport(self._watched(name))
        line = line_over(transport, name, patience=Backoff(0.01, 0.05, 0.01))
        await stack.enter_async_context(line)
        training, habits = Training(self.plan, rows(name)), Habits()
        return SiteAgent(name, training, line, site_store, hand, habits, study=study)

    def _watched(self, name):
        """The edge, and all that it answers this site: status, headers, bodies."""

        async def app(scope, receive, send):
            path, answer = scope["path"], []

            async def told(message):
                body, headers = message.get("body", b""), message.get("headers", ())
                model = path.startswith("/v1/models/")
                answer.append((message.get("status"), sorted(headers), b"" if model else body))
                await send(message)

            await self.edge(scope, receive, told)
            said = HASH.sub(b"#", repr((scope["method"], path, answer)).encode())
            self.seen[name].append(said)

        return app


@pytest.mark.parametrize("evaluate", [muster.Every(2), muster.Every(1, clients=0)])
def test_two_sites_see_the_same_whether_a_third_was_drawn_or_not(evaluate, tmp_path):
    given = plan(evaluate)
    without = World(tmp_path / "without", SEEN, given).play()
    beside = World(tmp_path / "beside", (*SEEN, "c"), given).play()
    for ours, theirs in zip(without.history, beside.history, strict=True):
        assert ours["invited"] == [name for name in theirs["invited"] if name != "c"]
    drawn = ["c" in record["invited"] for record in beside.history]
    assert 0 < sum(drawn) < ROUNDS, "the test has no power"
    models = [[record.get("model") for record in world.history] for world in (without, beside)]
    assert models[0] != models[1]
    for name in SEEN:
        assert any(b'"kind":"task"' in one for one in without.seen[name])
        assert beside.seen[name] == without.seen[name]


def test_the_coins_of_this_test_are_those_of_the_product():
    """Those in both worlds are drawn in both or in none."""
    for names in (SEEN, (*SEEN, "c")):
        roster = Roster(tuple(names), lambda: np.ones(3))
        for round in range(1, ROUNDS + 1):
            key = Secret(secret(32)).at("sample", round)
            cohort, _ = plan().sampling.sample(roster, None, round, key, None)
            again, _ = plan().sampling.sample(Roster(SEEN, None), None, round, key, None)
            assert [c for c in cohort.clients if c in SEEN] == list(again.clients)
