# SPDX-License-Identifier: Apache-2.0
"""The small world in which the laws are tried: a few clients, a convex task, a few rounds."""

import numpy as np

from muster import Local, Plan, Population, algorithms, optimizers
from muster.rounds import play, start
from muster.simulation import Choice, LocalExecutor, Simulation
from muster.simulation.threads import one_thread
from muster.store import MemoryStore
from muster.tasks.numpy import SoftmaxRegression
from muster.vectors import leaves

FEATURES, CLASSES = 4, 3
ALGORITHMS = (
    algorithms.FedAvg,
    algorithms.FedProx,
    algorithms.Scaffold,
    algorithms.FedNova,
    algorithms.FedDyn,
    algorithms.FedSGD,
)
SERVERS = (
    optimizers.SGD(0.7),
    optimizers.Momentum(0.5, 0.8),
    optimizers.Adagrad(0.1),
    optimizers.Adam(0.05),
    optimizers.Yogi(0.05),
)


def load_client(client):
    """Rows of one client, a function of its number."""
    draw = np.random.default_rng([7, client])
    n = 3 + client % 5
    return draw.normal(size=(n, FEATURES)), draw.integers(0, CLASSES, n)


def people(clients=6, dtype="float64"):
    rows = {k: load_client(k) for k in range(clients)}
    return Population.from_arrays({k: (x.astype(dtype), y) for k, (x, y) in rows.items()})


def planned(algorithm=None, **changes):
    """A plan that every algorithm accepts, unless changed."""
    algorithm = algorithm or algorithms.FedAvg()
    once = isinstance(algorithm, algorithms.FedSGD)
    local = Local(steps=1) if once else Local(epochs=2, batch=2, optimizer=optimizers.SGD(0.1))
    equal = isinstance(algorithm, algorithms.FedDyn)
    values = {
        "task": SoftmaxRegression(FEATURES, CLASSES),
        "algorithm": algorithm,
        "local": local,
        "weighting": "equal" if equal else "examples",
        "dtype": "float64",
    }
    return Plan(**(values | changes))


def trained(plan, population, rounds=3, engine="loop", together=1, store=None, **more):
    """The state after so many rounds; `seen(round, state, simulation)` is called after each."""
    store = MemoryStore() if store is None else store
    executor = more.get("executor") or LocalExecutor(
        plan, engine, population, lenient=more.get("lenient", False)
    )
    choice = Choice(engine, together, True, "asked for")
    simulation = Simulation(plan, population, store, choice, executor)
    state = more.get("state") or start(plan)
    with one_thread(plan.task):
        for round in range(1, rounds + 1):
            state = play(plan, state, simulation, store, round, lambda *_: {})
            more.get("seen", lambda *_: None)(round, state, simulation)
    return state


def arrays(state):
    return {name: np.asarray(leaf) for name, leaf in leaves(state)}


def same_bits(a, b):
    a, b = arrays(a), arrays(b)
    return a.keys() == b.keys() and all(a[n].tobytes() == b[n].tobytes() for n in a)


def distance(a, b):
    a, b = arrays(a), arrays(b)
    assert a.keys() == b.keys()
    return max(float(np.abs(a[n] - b[n]).max(initial=0)) for n in a)
