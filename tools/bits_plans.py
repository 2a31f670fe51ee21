# SPDX-License-Identifier: Apache-2.0
"""The small plans whose bits `tools/bits.py` records: between them, every way a sum is made.

Each is a function of a folder that trains and returns its `Trained`. What travels to worker
processes stands at the top of this module, where they find it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import muster
from muster import Local, Plan, Population, aggregation, algorithms, pipeline, sampling
from muster.extras import require
from muster.optimizers import SGD, Adagrad, Adam, Momentum, Yogi
from muster.rounds import play, start
from muster.simulation import Choice, LocalExecutor, Simulation
from muster.simulation.threads import one_thread
from muster.store import MemoryStore
from muster.tasks import custom
from muster.tasks import numpy as tasks
from muster.vectors import leaves

__all__ = ["CASES", "Trained", "population", "served"]

FEATURES, CLASSES = 6, 3
MANY = 70  # clients: more than a sum has blocks, so that blocks hold several
FEW = 9
BROKEN = (3, 11, 12, 40)  # clients whose rows cannot be loaded
ROUNDS = 3


class Trained(NamedTuple):
    """All that is compared: each version's arrays by name, and the records in order."""

    versions: Mapping[int, Mapping[str, Any]]
    records: list[dict[str, Any]]


def rows(client: int) -> tuple[Any, Any]:
    """Return the rows of one client, a function of its number."""
    draw = np.random.default_rng([11, client])
    n = 4 + client % 7
    return draw.normal(size=(n, FEATURES)).astype(np.float32), draw.integers(0, CLASSES, n)


def broken_rows(client: int) -> tuple[Any, Any]:
    """Return the same, but for a few clients whose rows are gone."""
    if client in BROKEN:
        raise OSError(f"the rows of client {client} are gone")
    return rows(client)


def people(clients: int, dtype: str = "float32") -> Population:
    """Return so many clients, with their rows in memory."""
    each = {k: rows(k) for k in range(clients)}
    return Population.from_arrays({k: (x.astype(dtype), y) for k, (x, y) in each.items()})


def planned(algorithm: Any = None, **changes: Any) -> Plan:
    """Return a plan of three short rounds, unless changed; every version is kept."""
    values: dict[str, Any] = {
        "task": tasks.MLP([FEATURES, 8, CLASSES]),
        "algorithm": algorithm or algorithms.FedAvg(),
        "local": Local(epochs=2, batch=4, optimizer=SGD(0.1)),
        "sampling": sampling.All(),
        "rounds": ROUNDS,
        "keep": muster.Keep(every=1),
    }
    return Plan(**(values | changes))


def simulated(plan: Plan, folder: Path, people: Population, **more: Any) -> Trained:
    """Return a run through the front door, read back from its folder."""
    test = rows(1000)
    run = muster.simulate(plan, people, test, path=folder, **({"workers": 1} | more))
    return read(run)


def read(run: muster.Run) -> Trained:
    """Return every version and record of a run."""
    versions = {one: run.at(one).arrays for one in run.rounds_kept}
    return Trained(versions, run.history)


def plain(make: Callable[[], Plan], clients: int = MANY, **more: Any) -> Callable[[Path], Trained]:
    """Return a case that is nothing but a plan, made when it is due."""

    def train(folder: Path) -> Trained:
        plan = make()
        return simulated(plan, folder, people(clients, plan.dtype), **more)

    return train


def with_dropouts(folder: Path) -> Trained:
    """Other clients are silent in every round, in one of them too many for it to count."""
    plan = planned(algorithms.Scaffold(), minimum=20, sampling=sampling.Uniform(fraction=0.6))
    found, store = people(MANY), MemoryStore()
    absent = {1: frozenset(range(0, MANY, 3)), 2: frozenset(range(60)), 3: frozenset([5])}
    executor = LocalExecutor(plan, "matrix", found)
    choice = Choice("matrix", 6, True, "asked for")
    simulation = Simulation(plan, found, store, choice, executor, absent)
    state, versions = start(plan), {}
    with one_thread(plan.task):
        for round in range(1, ROUNDS + 1):
            state = play(plan, state, simulation, store, round, lambda *_: {})
            versions[round] = {name: np.array(leaf) for name, leaf in leaves(state)}
    return Trained(versions, store.history())


def failing(folder: Path) -> Trained:
    """Return a run that goes on without the clients that fail."""
    plan = planned(algorithms.FedNova(), sampling=sampling.Uniform(fraction=0.5))
    found = Population.lazy(range(MANY), broken_rows, [4 + k % 7 for k in range(MANY)])
    return simulated(plan, folder, found, lenient=True)


class Stopped(Exception):
    """Somebody pulled the plug."""


def resumed(folder: Path) -> Trained:
    """Return a run that is stopped after its first round, and goes on."""
    plan = planned(algorithms.Scaffold(Adam(0.05)), sampling=sampling.Uniform(count=40))

    def stop(record: Mapping[str, Any]) -> None:
        if record["round"] == 1:
            raise Stopped

    try:
        simulated(plan, folder, people(MANY), watch=stop)
    except Stopped:
        return simulated(plan, folder, people(MANY), resume=True)
    raise AssertionError("the run was not stopped")


served = planned(algorithms.Scaffold(), sampling=sampling.Uniform(count=3), rounds=2)


def population() -> Population:
    """Return the clients of `served`, as its plan file is to say."""
    return people(4)


def federated(folder: Path) -> Trained:
    """Return the same plan with a real server and real sites, as processes."""
    words = ["run", __file__.replace("bits_plans.py", "bits_served.py")]
    words += ["--processes", "2", "--path", str(folder), "--json"]
    command = [sys.executable, "-c", "from muster.cli import main; main()", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the federation ended with status {done.returncode}: {done.stderr}")
    return read(muster.Run(folder, served))


def torch_model() -> Any:
    """Return a small network with a layer that keeps running means."""
    nn = require("torch.nn", extra="torch")
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Linear(8, CLASSES))


def torch_plain() -> Any:
    """Return a small network without one."""
    nn = require("torch.nn", extra="torch")
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, CLASSES))


def on_torch(model: Callable[[], Any], **changes: Any) -> Plan:
    """Return a plan of a PyTorch model."""
    torch = require("muster.tasks.torch", extra="torch")
    return planned(task=torch.Classifier(model), **changes)


def on_jax() -> Plan:
    """Return a plan of a JAX model."""
    jax = require("muster.tasks.jax", extra="jax")
    return planned(algorithms.FedProx(0.1), task=jax.MLP([FEATURES, 8, CLASSES]))


def own_start() -> dict[str, Any]:
    """Return the model of a task with its own training: the mean of the rows."""
    return {"mean": np.zeros(FEATURES)}


def own_fit(model: Any, data: Any, config: Any) -> dict[str, Any]:
    """Return a step towards the mean of the client's rows."""
    return {"mean": model["mean"] + config.rate * (data[0].mean(0) - model["mean"])}


def own_measure(model: Any, data: Any) -> dict[str, float]:
    """Return how far the rows lie from it."""
    return {"loss": float(((data[0] - model["mean"]) ** 2).mean())}


SCAFFOLD = partial(planned, algorithms.Scaffold(), sampling=sampling.Uniform(fraction=0.7))
HIDDEN = muster.Every(clients=0)
LEVELS = (pipeline.Clip(1.0), pipeline.Quantize(12))
PRIVATE: dict[str, Any] = {"weighting": "equal", "aggregation": aggregation.Mean("expected")}
PERSONAL = Local(epochs=1, batch=4, optimizer=SGD(0.1), examples=muster.PerExample(1.0, 1.0))

CASES: dict[str, Callable[[Path], Trained]] = {
    "fedsgd": plain(partial(planned, algorithms.FedSGD(), local=Local(steps=1), dtype="float64")),
    "fedavg": plain(partial(planned, sampling=sampling.Uniform(fraction=0.5))),
    "fedavg, one by one": plain(partial(planned, dtype="float64"), engine="loop"),
    "fedprox": plain(partial(planned, algorithms.FedProx(0.1, Adam(0.05)))),
    "fednova": plain(partial(planned, algorithms.FedNova(Yogi(0.05)))),
    "feddyn": plain(partial(planned, algorithms.FedDyn(0.1), weighting="equal")),
    "scaffold": plain(SCAFFOLD, engine="matrix"),
    "scaffold, two workers": plain(SCAFFOLD, engine="matrix", workers=2),
    "fixed point": plain(partial(SCAFFOLD, aggregation=aggregation.Mean(sum="fixed"))),
    "fixed point, two workers": plain(
        partial(SCAFFOLD, aggregation=aggregation.Mean(sum="fixed")), workers=2
    ),
    "momentum": plain(
        partial(
            planned,
            algorithms.FedAvg(Momentum(1.0, beta=0.9)),
            local=Local(epochs=1, batch=4, optimizer=Momentum(0.05, 0.9)),
        )
    ),
    "adagrad": plain(partial(planned, algorithms.FedAvg(Adagrad(0.1)), weighting="equal")),
    "poisson": plain(partial(planned, sampling=sampling.Poisson(0.4))),
    "weighted": plain(partial(planned, sampling=sampling.Weighted(30), weighting="equal")),
    "rotation": plain(partial(planned, sampling=sampling.Rotation(3))),
    "heads stay": plain(partial(planned, share="layers.0.*")),
    "clip and levels": plain(
        partial(
            planned,
            pipeline=[pipeline.AdaptiveClip(start=0.5), pipeline.Quantize(8, 1.0, feedback=True)],
            cap=8,
        )
    ),
    "noise": plain(
        partial(
            planned,
            pipeline=[pipeline.Clip(1.0), pipeline.Noise(0.8)],
            sampling=sampling.Poisson(0.5),
            **PRIVATE,
        )
    ),
    "banded noise": plain(
        partial(
            planned,
            pipeline=[pipeline.Clip(1.0), pipeline.BandedNoise(2.0, bands=2, separation=2)],
            sampling=sampling.Rotation(2),
            keep=muster.Keep(),
            **PRIVATE,
        )
    ),
    "local noise": plain(
        partial(
            planned,
            pipeline=[pipeline.Clip(1.0), pipeline.LocalNoise(4.0, 1e-3)],
            weighting="equal",
        )
    ),
    "masks": plain(
        partial(planned, pipeline=[*LEVELS, pipeline.SecureSum()], cap=8, evaluate=HIDDEN), FEW
    ),
    "masks and shares of noise": plain(
        partial(
            planned,
            pipeline=[*LEVELS, pipeline.DiscreteNoise(2.0, FEW), pipeline.SecureSum(dropout=0.0)],
            minimum=FEW,
            evaluate=HIDDEN,
            **PRIVATE,
        ),
        FEW,
    ),
    "rows private": plain(partial(planned, local=PERSONAL, evaluate=HIDDEN), FEW),
    "median": plain(partial(planned, aggregation=aggregation.Median(), weighting="equal"), FEW),
    "trimmed mean": plain(
        partial(planned, aggregation=aggregation.TrimmedMean(2), weighting="equal"), FEW
    ),
    "torch": plain(partial(on_torch, torch_model, local=Local(epochs=2, optimizer=SGD(0.1))), FEW),
    "torch, two workers": plain(partial(on_torch, torch_plain), MANY, workers=2),
    "jax": plain(on_jax, FEW),
    "own training": plain(
        partial(planned, task=custom.Custom(own_start, own_fit, own_measure)), FEW
    ),
    "clients that fail": failing,
    "dropouts": with_dropouts,
    "resumed": resumed,
    "federation": federated,
}
