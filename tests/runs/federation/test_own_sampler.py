# SPDX-License-Identifier: Apache-2.0
"""A sampler of one's own in a federation: shown the same, and drawn alike after a death."""

import threading
from dataclasses import dataclass

import numpy as np
import pytest

import muster
from muster import algorithms, optimizers, tasks
from muster.errors import PlanError
from muster.federation.site.server_client import Backoff
from muster.federation.site.trainer import Habits
from muster.runs.drive import Options
from muster.runs.federation.conduct import ServerSettings
from muster.runs.federation.join import Joining, LocalClient, attend_many
from muster.runs.federation.processes import Spec, federated
from muster.runs.federation.serve import ListenSettings, ServedFederation, serve
from muster.runs.replay import replay
from muster.runs.run import Run
from muster.sampling import Cohort, Sampler, SamplerTraits
from muster.testing import check_sampler

NAMES = ("a", "b", "c", "d")


@dataclass(frozen=True)
class Hardest(Sampler):
    """A draw of those never seen, then of those whose loss was highest when they trained last."""

    count: int = 2

    @property
    def traits(self):
        return SamplerTraits("deterministic", count=self.count, needs_losses=True)

    def sample(self, roster, state, round, key, losses=None):
        kept = state or {}
        assert kept == {c: [roster.seen[c], roster.losses[c]] for c in roster.seen}

        def rank(client):
            return (client in kept, -kept.get(client, [0, 0.0])[1])

        return Cohort(tuple(sorted(roster.eligible, key=rank)[: self.count])), kept

    def observe(self, state, roster, replies):
        now = max([at for at, _ in state.values()], default=0) + 1
        return state | {one.client: [now, one.loss] for one in replies if one.accepted}


@dataclass(frozen=True)
class Asking(Hardest):
    """The same, of candidates."""

    def candidates(self, roster, state, round, key):
        return Cohort(roster.eligible)


def plan(sampler=None):
    return muster.Plan(
        task=tasks.numpy.MLP([5, 6, 3]),
        algorithm=algorithms.FedAvg(),
        rounds=6,
        sampling=sampler or Hardest(),
        local=muster.Local(epochs=2, batch=8, optimizer=optimizers.SGD(0.2)),
    )


def people():
    draw = np.random.default_rng(7)
    rows = {n: (draw.normal(size=(9, 5)).astype("float32"), draw.integers(0, 3, 9)) for n in NAMES}
    return muster.Population.from_arrays(rows)


class Killed(BaseException):
    """An end that no code that cleans up expects."""


def played(home, at=None):
    """A federation to its end, its server started again after one death."""
    ready, address, stop = threading.Event(), ["127.0.0.1:0"], threading.Event()

    def attend():
        ready.wait()
        how = Joining(
            habits=Habits(wait=0.5), patience=Backoff(first=0.01, longest=0.1, least=0.01)
        )
        given = people()
        clients = [LocalClient(name, given[name], home / f"site-{name}") for name in NAMES]
        attend_many(plan(), clients, f"http://{address[0]}", stop=stop, how=how)

    def told(port):
        address[0] = f"127.0.0.1:{port}"
        ready.set()

    def served(options):
        made = ServedFederation(plan(), home / "run", None, ServerSettings(enough=len(NAMES)))
        return serve(made, ListenSettings(address[0]), options=options, ready=told)

    crowd = threading.Thread(target=attend)
    crowd.start()
    try:
        if at is not None:
            with pytest.raises(Killed):
                served(Options(at=at))
        assert served(Options()) == "done"
    finally:
        stop.set()
        ready.set()
        crowd.join()
    return Run(home / "run", plan())


def drawn(run):
    return [(r["invited"], r["losses"]) for r in run.trained]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated") / "run"
    return muster.simulate(plan(), people(), path=folder, engine="loop", workers=1)


def test_it_is_sound():
    check_sampler(Hardest())


@pytest.mark.parametrize("label", [None, "round: opened", "round: summed", "commit: end"])
def test_it_draws_as_in_a_simulation_whenever_the_server_dies(tmp_path, simulated, label):
    left = [4]

    def at(passed):
        left[0] -= passed == label
        if left[0] == 0:
            raise Killed

    run = played(tmp_path, None if label is None else at)
    assert drawn(run) == drawn(simulated)
    assert run.parameters.tobytes() == simulated.parameters.tobytes()
    assert replay(tmp_path / "run", plan(), people()).identical
    assert run.participation().rounds == simulated.participation().rounds


def test_what_a_server_does_not_do_is_refused_by_name(tmp_path):
    settings = ServerSettings(enough=2)
    asks = ServedFederation(plan(Asking()), tmp_path / "asks", None, settings)
    with pytest.raises(PlanError, match=r"Asking\(count=2\) asks candidates for their loss"):
        serve(asks, ListenSettings("127.0.0.1:0"))
    barred = people().barring({"a": "away"})
    bars = ServedFederation(plan(), tmp_path / "bars", None, settings, population=barred)
    with pytest.raises(PlanError, match="1 clients of the population are barred"):
        serve(bars, ListenSettings("127.0.0.1:0"))
    assert not list(tmp_path.iterdir())
    with pytest.raises(PlanError, match="asks candidates"):
        federated(plan(Asking()), Spec("plan.py", str(tmp_path), 2, NAMES, NAMES), dict, dict)
