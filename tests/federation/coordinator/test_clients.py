# SPDX-License-Identifier: Apache-2.0
"""The network is a runtime like any other: it passes the public checks, and has the loop's bits."""

import threading

import numpy as np
import pytest
from tests.federation.coordinator.sites import Federation
from tests.federation.site.scene import frozen_plan

import muster
from muster import aggregation, algorithms, optimizers, pipeline, sampling, tasks
from muster.federation.coordinator.clients import NetworkClients
from muster.federation.coordinator.commands import SayHello
from muster.federation.coordinator.facts import FederationFacts
from muster.federation.coordinator.notifier import EngineNews
from muster.federation.coordinator.round_state import RoundState
from muster.federation.protocol.message import VERSIONS, Hello
from muster.runs.drive import Options, drive
from muster.runs.measure import Examiner
from muster.store.ledger import FederationStore
from muster.testing import check_clients
from muster.vectors import leaves


def test_the_public_checks(tmp_path):
    count = iter(range(99))

    def make(plan, population, store, absent):
        return Checked(Federation(plan, population, tmp_path / str(next(count)), absent=absent))

    check_clients(make)


class Checked:
    """A federation for a store that is not its ledger: what settles is committed there, too."""

    def __init__(self, federation):
        self.federation = federation

    def __getattr__(self, name):
        return getattr(self.federation, name)

    def settle(self, round, accepted):
        """The ledger knows the round before its clients hear of it."""
        if self.federation.round_state.committed < round:
            self.federation.ledger.commit(
                round, {"x": np.zeros(1)}, record(round, accepted), accepted
            )
        self.federation.settle(round, accepted)


def record(round, accepted):
    return {"round": round, "accepted": list(accepted)}


def people(count=5):
    draw = np.random.default_rng(3)
    rows = {}
    for i in range(count):
        rows[i] = draw.normal(size=(6 + i, 4)), draw.integers(0, 3, 6 + i)
    return muster.Population.from_arrays(rows)


PLANS = {
    "fedavg": {"algorithm": algorithms.FedAvg()},
    "scaffold": {"algorithm": algorithms.Scaffold()},
    "adam": {"algorithm": algorithms.FedProx(mu=0.1, server=optimizers.Adam(0.05))},
    "quantize": {
        "algorithm": algorithms.FedAvg(),
        "cap": 20,
        "pipeline": [pipeline.Clip(1.0), pipeline.Quantize(8)],
    },
    "fixed": {
        "algorithm": algorithms.Scaffold(),
        "aggregation": aggregation.Mean(sum="fixed"),
    },
    "fixed levels": {
        "algorithm": algorithms.FedAvg(),
        "aggregation": aggregation.Mean(sum="fixed"),
        "cap": 20,
        "pipeline": [pipeline.Clip(1.0), pipeline.Quantize(8)],
    },
    "adaptive": {
        "algorithm": algorithms.FedAvg(),
        "weighting": "equal",
        "pipeline": [pipeline.AdaptiveClip()],
    },
    "some": {"algorithm": algorithms.FedAvg(), "sampling": sampling.Uniform(count=2)},
    "poisson": {"algorithm": algorithms.FedAvg(), "sampling": sampling.Poisson(0.3)},
    "drawn twice": {
        "algorithm": algorithms.FedAvg(),
        "sampling": sampling.Weighted(count=4),
        "weighting": "equal",
    },
    "median": {
        "algorithm": algorithms.Scaffold(),
        "aggregation": aggregation.Median(),
        "weighting": "equal",
    },
    "trimmed": {
        "algorithm": algorithms.FedAvg(),
        "aggregation": aggregation.TrimmedMean(2),
        "weighting": "equal",
        "pipeline": [pipeline.Clip(1.0), pipeline.Quantize(8)],
    },
}


def plan(name, **more):
    given = {"rounds": 3, "dtype": "float32"} | PLANS[name] | more
    return muster.Plan(
        task=tasks.numpy.SoftmaxRegression(4, 3),
        local=muster.Local(epochs=2, batch=2, optimizer=optimizers.SGD(0.1)),
        **given,
    )


def bits(arrays):
    return {k: (np.asarray(a).dtype.str, np.asarray(a).tobytes()) for k, a in arrays.items()}


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("count", [5, 40])
def test_the_bits_of_the_loop(tmp_path, name, count):
    population, what = people(count), plan(name)
    run = muster.simulate(what, population, path=tmp_path / "loop", engine="loop", workers=1)
    federation = Federation(what, population, tmp_path / "network")
    try:
        network = federation.network
        examiner = Examiner(what, network, network, network.enrolled, None)
        drive(what, network, federation.ledger, examiner, Options())
        found = federation.ledger.latest()[1]
        history = federation.ledger.history()
        models = federation.ledger.blobs.names("model-")
    finally:
        federation.close()
    assert bits(found) == bits(dict(run.last.arrays))
    for ours, theirs in zip(history, run.history, strict=True):
        assert {k: v for k, v in ours.items() if k != "seconds"} == {
            k: v for k, v in theirs.items() if k != "seconds"
        }
    assert dict(leaves(found))
    assert 1 <= len(models) <= 2  # they do not pile up, round after round


def test_what_nobody_trains_is_a_blob_of_its_own_and_counted_once(tmp_path):
    population = people()
    draws = {"sampling": sampling.Uniform(count=2), "dtype": "float32", "rounds": 6}
    what = frozen_plan(inputs=4, width=200, **draws)
    run = muster.simulate(what, population, path=tmp_path / "loop", engine="loop", workers=1)
    federation = Federation(what, population, tmp_path / "network")
    try:
        network = federation.network
        examiner = Examiner(what, network, network, network.enrolled, None)
        drive(what, network, federation.ledger, examiner, Options())
        found, history = federation.ledger.latest()[1], federation.ledger.history()
        blobs = federation.ledger.blobs
        sizes = {name: blobs.size(name) for name in blobs.names("")}
    finally:
        federation.close()
    assert bits(found) == bits(dict(run.last.arrays))
    assert [r["bytes_down"] for r in history] == [r["bytes_down"] for r in run.history]
    body = run.last.arrays["frozen"].nbytes
    assert [size > body for name, size in sizes.items() if name.startswith("frozen-")] == [True]
    assert all(size < body for name, size in sizes.items() if name.startswith("model-"))


class Turning(EngineNews):
    """EngineNews whose waiting is what turns a clock on; `then(now)` is called after each turn."""

    def __init__(self, now, then):
        super().__init__()
        self.now, self.then = now, then

    def wait(self, seen, seconds):
        self.now[0] += seconds
        self.then(self.now[0])


def test_while_too_few_are_there_every_minute_says_who_is_missing(tmp_path):
    now, said = [0.0], []
    ledger = FederationStore(tmp_path)
    facts = FederationFacts("run", "f" * 64, {}, lambda rows, times: 1.0, None, 8, lease=25.0)
    round_state = RoundState(ledger, facts, clock=lambda: now[0])

    def then(time):
        for name in ("ann", "bob") if time >= 130 else ("ann",):
            round_state.do(SayHello(name, Hello(VERSIONS, name, "f" * 64, 3)))

    round_state.news = Turning(now, then)
    network = NetworkClients(
        plan("fedavg"),
        ledger,
        round_state,
        enough=1,
        least=2,
        stop=threading.Event(),
        at=lambda label: None,
        tell=lambda event: said.append((now[0], event["text"])),
    )
    roster = network.known()
    ledger.close()
    assert roster.clients == ("ann", "bob")
    text = "no round begins: 1 of the 2 clients that it needs are here; never seen: 1"
    assert said == [(60.0, text), (120.0, text)]
