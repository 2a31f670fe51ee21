# SPDX-License-Identifier: Apache-2.0
"""A whole federation in one process without a socket: whatever its lines do, the same bits."""

import asyncio
import contextlib
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("cryptography")

import muster
from muster import algorithms, optimizers, tasks
from muster.federation.coordinator.endpoint import ServerEndpoint
from muster.federation.coordinator.round_state import RoundState
from muster.federation.coordinator.service import FederationService
from muster.federation.site import transfers
from muster.federation.site.agent import SiteAgent
from muster.federation.site.server_client import Backoff, ServerClient
from muster.federation.site.store import SiteStore
from muster.federation.site.study import StudyRecord
from muster.federation.site.trainer import Habits
from muster.federation.site.training import Training
from muster.federation.site.training_thread import TrainingThread
from muster.ports import Disk
from muster.runs.drive import Options
from muster.runs.federation.conduct import ServerSettings, conduct, facts_of, prepare
from muster.store.ledger import FederationStore
from muster.transport.memory.faults import FaultRates, Faults
from muster.transport.memory.line import MemoryServer, MemoryTransport

NAMES = ("ann", "bob", "cid")
FAST = Disk(sync=int)
STORM = FaultRates(drop=0.05, lose=0.05, double=0.08, delay=0.05, cut=0.2, longest=5.0)
HANGS = 200.0  # seconds, after which a run is taken to hang
PLAN = muster.Plan(
    task=tasks.numpy.MLP([4, 6, 3]),
    algorithm=algorithms.Scaffold(),
    rounds=3,
    local=muster.Local(epochs=1, batch=4, optimizer=optimizers.SGD(0.1)),
    evaluate=muster.Every(2, clients=2),
)


def rows(name):
    draw = np.random.default_rng(ord(name[0]))
    return draw.normal(size=(9, 4)).astype("float32"), draw.integers(0, 3, 9)


async def soon(seconds):
    """A thousandth of the time that would pass: the engine is a thread, and has its own clock."""
    await asyncio.sleep(seconds / 1000)


class Played:
    """A server and its sites, in one process."""

    def __init__(self, home, faults):
        self.home, self.faults, self.server = home, faults, MemoryServer()
        self.lines = {}
        self.ledger = FederationStore(home / "run", disk=FAST)
        try:
            asyncio.run(self._play())
        finally:
            self.ledger.close()
        self.parameters = muster.Run(home / "run", PLAN).parameters

    async def _play(self):
        terms = ServerSettings(enough=len(NAMES), lease=60.0)
        round_state = RoundState(self.ledger, facts_of(PLAN, "run", terms))
        service = FederationService(round_state, self.ledger)
        prepare(PLAN, self.ledger)
        stop, loop = threading.Event(), asyncio.get_running_loop()
        given = (PLAN, self.ledger, round_state, None, terms, stop, replace(Options()))
        with ThreadPoolExecutor(2) as pool:
            self.server.endpoint = ServerEndpoint(service, self.ledger.blobs, pool)
            engine = loop.create_task(asyncio.to_thread(conduct, *given))
            async with contextlib.AsyncExitStack() as stack:
                hand = await stack.enter_async_context(TrainingThread())
                sites = [await self._site(stack, hand, name) for name in NAMES]
                lives = [loop.create_task(site.attend()) for site in sites]
                try:
                    async with asyncio.timeout(HANGS):
                        await engine
                        round_state.end("all rounds are done")
                        await asyncio.gather(*lives)
                finally:
                    stop.set()
                    round_state.close()
                    for life in lives:
                        life.cancel()
                    await asyncio.gather(engine, *lives, return_exceptions=True)
            await self.server.stop()

    async def _site(self, stack, hand, name):
        site_store = SiteStore(self.home / name / "vault", disk=FAST)
        stack.callback(site_store.close)
        study = StudyRecord(self.home / name / "study", "default")
        stack.callback(study.close)
        port = MemoryTransport(self.server, name, faults=self.faults, sleep=soon, encrypted=False)
        self.lines[name] = port
        line = ServerClient(port, patience=Backoff(0.001, 0.005, 0.001, sleep=soon))
        await stack.enter_async_context(line)
        training, habits = Training(PLAN, rows(name)), Habits(wait=1.0)
        return SiteAgent(name, training, line, site_store, hand, habits, study=study)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    people = muster.Population.from_arrays({name: rows(name) for name in NAMES})
    folder = tmp_path_factory.mktemp("loop")
    return muster.simulate(PLAN, people, path=folder / "run", engine="loop", workers=1).parameters


def test_without_faults_it_is_the_simulation_to_the_bit(tmp_path, simulated):
    played = Played(tmp_path, Faults(0, FaultRates()))
    assert np.array_equal(played.parameters, simulated)
    model = simulated.nbytes
    for line in played.lines.values():
        assert line.traffic.sent > 3 * model and line.traffic.received > 3 * model


def test_whatever_its_lines_lose_double_delay_and_cut_it_has_the_same_bits(
    tmp_path, simulated, monkeypatch
):
    monkeypatch.setattr(transfers, "PIECE", 300)  # an upload in several parts
    happened = Counter()
    for seed in range(6):
        faults = Faults(seed, STORM)
        played = Played(tmp_path / str(seed), faults)
        assert np.array_equal(played.parameters, simulated), (seed, faults.happened)
        happened.update(name.partition(":")[0] for name in faults.happened)
    assert happened.keys() == {"drop", "lose", "double", "delay", "cut"}, happened
