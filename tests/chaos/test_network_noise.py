# SPDX-License-Identifier: Apache-2.0
"""A served run with noise, broken off at any label: the same noise, charged once, in time.

Server and sites are threads of this process; "killed" is an exception that no code expects, after
which only what is on the disk counts. The secrets are fixed, so that the bits can be compared.
"""

import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

import muster
from muster import aggregation, algorithms, optimizers, pipeline, sampling, tasks
from muster.federation.coordinator.clients import LABELS as ROUNDS
from muster.federation.site.policy import Policy
from muster.federation.site.server_client import Backoff
from muster.federation.site.store import LABELS as SITE
from muster.federation.site.trainer import Habits
from muster.privacy import Budget, Charge, PrivacyLedger, Selection, spent
from muster.runs import Run
from muster.runs.drive import Options
from muster.runs.federation import join as joining
from muster.runs.federation.conduct import ServerSettings
from muster.runs.federation.serve import ListenSettings, ServedFederation, serve
from muster.runs.privacy.facts import stated
from muster.store import SQLiteStore
from muster.store.sqlite import LABELS as COMMIT

DELTA = 1e-3
PATIENCE = Backoff(first=0.01, longest=0.1, least=0.01)


def people():
    draw = np.random.default_rng(11)
    return {
        f"site-{i}": (draw.normal(size=(5 + i, 4)).astype("float32"), draw.integers(0, 3, 5 + i))
        for i in range(3)
    }


def plan(*stages, **fields):
    values = {
        "task": tasks.numpy.SoftmaxRegression(4, 3),
        "rounds": 3,
        "algorithm": algorithms.FedAvg(),
        "local": muster.Local(epochs=1, batch=4, optimizer=optimizers.SGD(0.1)),
        "weighting": "equal",
        "sampling": sampling.Poisson(0.7),
        "pipeline": stages or (pipeline.Clip(1.0), pipeline.Noise(2.0)),
        "aggregation": aggregation.Mean("expected"),
        "budget": Budget(9.0, DELTA),
    }
    return muster.Plan(**(values | fields))


class Killed(BaseException):
    """A kill that no code that cleans up expects."""


def fixed(n):
    """The secret of every round; the round is in the path of every draw."""
    return bytes(range(n))


class Scene:
    """A server that is started again when it dies, and sites that go on attending."""

    def __init__(self, home, plan, *, policy=None, entropy=fixed, ours=fixed, sites=None):
        self.home, self.plan, self.entropy = Path(home), plan, entropy
        self.policy, self.ours, self.sites = policy or Policy(), ours, sites
        self.port, self.stop, self.heard, self.seen = 0, threading.Event(), {}, []

    def play(self, at=None):
        """To the end, through one death at most; returns what a fresh reader finds."""
        ready, died = threading.Event(), []
        crowd = threading.Thread(target=self._attend, args=(ready,))
        crowd.start()
        try:
            try:
                self._serve(ready, at)
            except Killed:
                died.append(True)
                self._look()
                self._serve(ready, None)
        finally:
            self.stop.set()
            ready.set()
            crowd.join()
        assert bool(died) == (at is not None), "the trap was not reached"
        return Run(self.home / "run")

    def _serve(self, ready, at):
        federation = ServedFederation(
            self.plan, self.home / "run", terms=ServerSettings(enough=3), entropy=self.entropy
        )

        def told(port):
            self.port = port
            ready.set()

        options = Options(at=at) if at else Options()
        where = ListenSettings(f"127.0.0.1:{self.port}")
        assert serve(federation, where, options=options, ready=told) == "done"

    def _attend(self, ready):
        ready.wait()
        seats = [
            joining.LocalClient(name, rows, self.home / name) for name, rows in people().items()
        ]
        how = joining.Joining(
            habits=Habits(wait=0.5, entropy=self.ours),
            patience=PATIENCE,
            policy=self.policy,
            at=self.sites,
        )
        address = f"http://127.0.0.1:{self.port}"
        while not self.stop.is_set():
            try:
                joining.attend_many(
                    self.plan, seats, address, stop=self.stop, how=how, watch=self.seen.append
                )
                return
            except Killed:
                continue

    def _look(self):
        """Whatever was released so far is in the ledger, with the secret of what is open."""
        store = SQLiteStore(self.home / "run", readonly=True)
        try:
            facts, history = store.facts(), [r for r in store.history() if r["round"]]
        finally:
            store.close()
        charged = len(PrivacyLedger.from_json(facts["ledger"]).entries) if "ledger" in facts else 0
        assert len(history) <= charged <= len(history) + 1
        if charged > len(history):
            assert facts["secret"]["round"] == charged


def once(label, count=1):
    """Dies the count-th time it comes by the label."""
    left, lock = [count], threading.Lock()

    def at(passed):
        with lock:
            left[0] -= passed == label
            due = passed == label and left[0] == 0
        if due:
            raise Killed

    return at


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    return Scene(tmp_path_factory.mktemp("calm"), plan()).play()


@pytest.mark.parametrize("label", [*ROUNDS, *COMMIT])
def test_a_server_that_died_releases_the_same_noise_and_charges_once(calm, tmp_path, label):
    run = Scene(tmp_path, plan()).play(once(label, 2))
    assert run.parameters.tobytes() == calm.parameters.tobytes()
    assert [r["privacy"] for r in run.trained] == [r["privacy"] for r in calm.trained]
    ledger = PrivacyLedger.from_json(run.facts["ledger"])
    assert [e.round for e in ledger.entries] == [1, 2, 3]
    store = SQLiteStore(run.path, readonly=True)
    with suppress(KeyError):
        assert store.facts()["secret"] is None
    store.close()


def test_the_noise_of_the_server_is_no_function_of_the_plan(calm, tmp_path):
    other = Scene(tmp_path / "other", plan(), entropy=lambda n: bytes(n)).play()
    seeded = Scene(tmp_path / "seeded", plan(), entropy=None).play()
    found = {run.parameters.tobytes() for run in (calm, other, seeded)}
    assert len(found) == 3
    rows = muster.Population.from_arrays(people())
    loop = muster.simulate(plan(), rows, path=tmp_path / "loop", engine="loop", workers=1)
    assert loop.parameters.tobytes() == seeded.parameters.tobytes()
    assert [stated(run).private for run in (calm, seeded)] == [True, False]
    assert "AES-CTR of 32 bytes" in stated(calm).items["noise"]


def test_the_budget_ends_a_federation_and_its_sites_hear_why(tmp_path):
    charge = Charge(plan().stages.releases()[0], Selection("poisson", 0.7))
    two = Budget(spent([charge] * 2, DELTA).epsilon, DELTA)
    scene = Scene(tmp_path, plan(budget=two))
    run = scene.play()
    assert (len(run.trained), run.facts["spent"]) == (2, True)
    ends = {event["text"] for event in scene.seen if event["event"] == "ended"}
    assert ends == {run.facts["stopped"]}
    more = Scene(tmp_path, plan())
    for name in people():
        (tmp_path / name / "audit.jsonl").unlink(missing_ok=True)
    assert len(more.play().trained) == 3


LOCAL = (pipeline.Clip(1.0), pipeline.LocalNoise(4.0, DELTA))


def local(**fields):
    return plan(*LOCAL, sampling=sampling.All(), budget=None, **fields)


@pytest.mark.parametrize("label", [*SITE[:2], *SITE[6:]])
def test_a_site_that_died_sends_the_same_noise_and_charges_once(tmp_path, monkeypatch, label):
    monkeypatch.setattr("muster.runs.federation.serve._name", lambda ledger: "run")
    rules = Policy(budget_epsilon=50.0, budget_delta=DELTA)
    calm = Scene(tmp_path / "calm", local(), policy=rules).play()
    scene = Scene(tmp_path / "run", local(), policy=rules, sites=once(label, 2))
    run = scene.play()
    assert run.parameters.tobytes() == calm.parameters.tobytes()
    for name in people():
        found = PrivacyLedger.from_json(
            (tmp_path / "run" / name / "studies/default/privacy.json").read_text()
        )
        assert [e.round for e in found.entries] == [1, 2, 3]
        assert not list((tmp_path / "run" / name / "vault").glob("noise-*"))


def test_a_site_whose_budget_is_spent_declines(tmp_path):
    (release,) = local().stages.releases()
    most = spent([Charge(release)] * 2, DELTA).epsilon
    scene = Scene(tmp_path, local(), policy=Policy(budget_epsilon=most, budget_delta=DELTA))
    run = scene.play()
    assert [len(r["accepted"]) for r in run.trained] == [3, 3, 0]
    why = run.trained[2]["declined"][0]["reason"]
    assert why.startswith("the site's policy has a budget of privacy")
    assert run.trained[2]["abandoned"]
