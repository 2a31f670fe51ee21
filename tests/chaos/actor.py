# SPDX-License-Identifier: Apache-2.0
"""One process of a federation that is put to the test: its server, or some of its sites.

It says what happens through a pipe, and hears there that it may go on. With a trap it kills
itself, by SIGKILL, the n-th time that it comes by a label; at a gate it waits. Faults are put in
here, into the functions of this process: there is nothing for tests in muster itself.
"""

import faulthandler
import os
import signal
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tests.chaos import confession, seams
from tests.chaos.victim import die

import muster
from muster import aggregation, algorithms, optimizers, pipeline, privacy, sampling, tasks
from muster.federation.site.policy import Policy
from muster.federation.site.server_client import Backoff
from muster.federation.site.trainer import Habits
from muster.runs.drive import Options
from muster.runs.federation import join as joining
from muster.runs.federation.conduct import ServerSettings
from muster.runs.federation.serve import ListenSettings, ServedFederation, serve

ROUNDS = 5
CLIENTS = tuple(f"site-{i}" for i in range(4))
MORE = {"grouped": tuple(f"site-{i}" for i in range(6))}  # plans that need others
EVERYBODY = {"task": tasks.numpy.MLP([4, 5, 3]), "rounds": ROUNDS}
LOCAL = muster.Local(epochs=2, batch=2, optimizer=optimizers.SGD(0.1))
DELTA = 1e-3
CENTRAL = {
    "task": EVERYBODY["task"],
    "rounds": 8,
    "algorithm": algorithms.FedAvg(),
    "local": LOCAL,
    "weighting": "equal",
    "aggregation": aggregation.Mean("expected"),
}
LARGE = privacy.Budget(500.0, DELTA)
SHORT = CENTRAL | {
    "rounds": 3,
    "pipeline": [pipeline.Clip(1.0), pipeline.Noise(2.0)],
    "sampling": sampling.All(),
}
MASKED = CENTRAL | {"rounds": 3, "evaluate": muster.Every(1, clients=0), "budget": LARGE}
LEVELS = (pipeline.Clip(1.0), pipeline.Quantize(12))
AFFORDED = privacy.spent(  # two rounds of SHORT
    [privacy.Charge(privacy.Release("gaussian", 2.0, 1.0), rounds=2)], DELTA
).epsilon
PLANS = {
    "scaffold": muster.Plan(
        **EVERYBODY,
        algorithm=algorithms.Scaffold(),
        local=LOCAL,
        sampling=sampling.Uniform(count=3),
    ),
    "quantize": muster.Plan(
        **EVERYBODY,
        algorithm=algorithms.FedAvg(server=optimizers.Adam(0.05)),
        local=LOCAL,
        weighting="equal",
        pipeline=[pipeline.AdaptiveClip(start=0.5), pipeline.Quantize(8, range=2.0, feedback=True)],
    ),
    "private": muster.Plan(
        **EVERYBODY,
        algorithm=algorithms.FedAvg(),
        local=LOCAL,
        share="layers.0.*",
        sampling=sampling.Uniform(count=3),
    ),
    "deadline": muster.Plan(
        **EVERYBODY,
        algorithm=algorithms.Scaffold(),
        local=LOCAL,
        deadline=600.0,
    ),
    "most": muster.Plan(
        **EVERYBODY,
        algorithm=algorithms.Scaffold(),
        local=LOCAL,
        minimum=3,
    ),
    "mean": muster.Plan(
        **EVERYBODY,
        algorithm=algorithms.FedAvg(),
        local=LOCAL,
        minimum=3,
        weighting="equal",
        pipeline=[pipeline.Quantize(8, range=2.0, feedback=True)],
    ),
    "masked": muster.Plan(
        **EVERYBODY | {"rounds": 3},
        algorithm=algorithms.FedAvg(),
        local=LOCAL,
        cap=9,
        pipeline=[pipeline.Clip(1.0), pipeline.Quantize(12), pipeline.SecureSum()],
        evaluate=muster.Every(1, clients=0),
    ),
    "grouped": muster.Plan(
        **EVERYBODY | {"rounds": 3},
        algorithm=algorithms.FedAvg(),
        local=LOCAL,
        cap=9,
        pipeline=[
            pipeline.Clip(1.0),
            pipeline.Quantize(12),
            pipeline.SecureSum(groups=2, corrupt=0.1, dropout=0.0),
        ],
        aggregation=aggregation.Median(),
        evaluate=muster.Every(1, clients=0),
    ),
    "broad": muster.Plan(  # its model and its updates are larger than all the rest on the disk
        task=tasks.numpy.MLP([4, 20000, 3]),
        rounds=3,
        algorithm=algorithms.FedAvg(),
        local=LOCAL,
        evaluate=muster.Every(9, clients=0),
        cap=4,
    ),
    "noise": muster.Plan(
        **CENTRAL,
        sampling=sampling.Poisson(0.7),
        budget=LARGE,
        pipeline=[pipeline.AdaptiveClip(start=0.5), pipeline.Noise(2.0)],
    ),
    "banded": muster.Plan(
        **CENTRAL,
        sampling=sampling.All(),
        budget=LARGE,
        pipeline=[pipeline.Clip(1.0), pipeline.BandedNoise(2.0, bands=3)],
    ),
    "two": muster.Plan(**SHORT, budget=privacy.Budget(AFFORDED, DELTA)),
    "three": muster.Plan(**SHORT, budget=LARGE),
    "shares": muster.Plan(
        **MASKED,
        minimum=3,
        pipeline=[*LEVELS, pipeline.DiscreteNoise(2.0, 4, dropout=0.25), pipeline.SecureSum()],
    ),
    "all shares": muster.Plan(  # its masks would bear the loss of one, its noise does not
        **MASKED,
        minimum=4,
        pipeline=[*LEVELS, pipeline.DiscreteNoise(2.0, 4), pipeline.SecureSum()],
    ),
}


def members(plan):
    """The clients of a plan."""
    return MORE.get(plan, CLIENTS)


def population(plan=""):
    """Those clients, with 5 rows and more."""
    draw = np.random.default_rng(11)
    rows = {}
    for i, client in enumerate(members(plan)):
        n = 5 + 2 * i
        rows[client] = draw.normal(size=(n, 4)).astype("float32"), draw.integers(0, 3, n)
    return muster.Population.from_arrays(rows)


@dataclass(frozen=True)
class Role:
    """Which process this is: the server, or (`clients`) those sites; `faults` see `seams`."""

    home: str
    plan: str
    port: int
    clients: tuple[str, ...] = ()
    number: int = 0  # of the server
    trap: tuple[str, int] | None = None
    gates: tuple[str, ...] = ()
    lease: float = 20.0
    enough: int = len(CLIENTS)
    url: str | None = None
    every: float = 60.0  # seconds between two checkpoints
    wait: float = 5.0  # seconds that a poll is kept
    identity: bool = False  # TLS
    secret: bool = False  # what is private is drawn from the operating system, as in production
    policy: Policy = Policy()  # of its sites
    faults: dict = field(default_factory=dict)

    @property
    def name(self):
        return ",".join(self.clients) or f"server-{self.number}"

    @property
    def folder(self):
        """The server's folder; the last part of its path is the run's id."""
        return Path(self.home) / f"{self.number}" / "run"


class Voice:
    """The pipe to the launcher, and what is done at labels."""

    def __init__(self, role, pipe):
        self.role, self.pipe = role, pipe
        self.stop, self.passed = threading.Event(), Counter()
        self.open, self._speech, self._count = threading.Semaphore(0), threading.Lock(), {}
        threading.Thread(target=self._listen, daemon=True).start()

    def say(self, what, *more):
        """Tell the launcher; nothing is heard of a launcher that is gone."""
        with self._speech:
            self.pipe.send((what, *more))

    def _listen(self):
        try:
            while True:
                self.pipe.recv()
                self.open.release()
        except EOFError:
            self.stop.set()

    def at(self, label):
        """This process comes by a label."""
        with self._speech:
            self.passed[label] += 1
            count = self.passed[label]
        if self.role.trap == (label, count):
            die()
        if label in self.role.gates:
            self.say("at", label, count)
            self.open.acquire()


def main(role, pipe):
    """Play a role until it has ended."""
    errors = os.open(f"{role.home}/{role.name}.errors", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(errors, 2)
    faulthandler.enable()
    voice = Voice(role, pipe)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: voice.stop.set())
    seams.lay(role.faults, voice.at, server=not role.clients)
    if role.secret:
        confession.lay(voice.say)
    (attend if role.clients else be_server)(role, voice)


def be_server(role, voice):
    """Serve."""
    terms = ServerSettings(enough=role.enough, lease=role.lease)
    federation = ServedFederation(
        PLANS[role.plan],
        role.folder,
        terms=terms,
        url=role.url,
        keep_updates=True,
        entropy=os.urandom if role.secret else None,
    )
    where = ListenSettings(
        f"127.0.0.1:{role.port}", Path(role.home) / "hub" if role.identity else None
    )
    why = serve(
        federation,
        where,
        stop=voice.stop,
        options=Options(at=voice.at, watch=lambda record: voice.say("round", record["round"])),
        ready=lambda port: voice.say("ready", port),
    )
    voice.say("ended", why)


def attend(role, voice):
    """Attend as these clients."""
    people, home = population(role.plan), Path(role.home)
    seats = [joining.LocalClient(client, people[client], home / client) for client in role.clients]
    address = f"http{'s' * role.identity}://127.0.0.1:{role.port}"
    how = joining.Joining(
        habits=Habits(
            every=role.every, wait=role.wait, entropy=os.urandom if role.secret else None
        ),
        patience=Backoff(first=0.02, longest=0.2, least=0.02),
        at=voice.at,
        policy=role.policy,
    )
    heard = joining.attend_many(
        PLANS[role.plan],
        seats,
        address,
        stop=voice.stop,
        how=how,
        watch=lambda event: voice.say("event", event),
    )
    voice.say("ended", {name: ended and ended.text for name, ended in heard.items()})
