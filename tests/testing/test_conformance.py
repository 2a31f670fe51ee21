# SPDX-License-Identifier: Apache-2.0
"""Everything shipped goes through the public checks."""

import importlib
import pickle
from functools import partial

import numpy as np
import pytest

from muster import aggregation, algorithms, optimizers, pipeline, sampling, testing
from muster.algorithms.algorithm import Algorithm
from muster.errors import MissingExtra
from muster.pipeline.stage import Contract, Field
from muster.privacy import PerExample
from muster.rounds import start
from muster.simulation import Choice, LocalExecutor, Pool, Simulation
from muster.store import MemoryStore, SQLiteStore
from muster.tasks import custom
from muster.tasks import numpy as tasks
from muster.testing.claim import check_value

SERVERS = [
    optimizers.SGD(0.5),
    optimizers.Momentum(1.0, 0.5),
    optimizers.Adagrad(0.1),
    optimizers.Adagrad(0.1, beta1=0.9),
    optimizers.Adam(0.01),
    optimizers.Yogi(0.01),
]
ALGORITHMS = [
    kind(server=server)
    for kind in vars(algorithms).values()
    if isinstance(kind, type) and issubclass(kind, Algorithm) and kind is not Algorithm
    for server in SERVERS
]
BARE = Contract((Field("delta", 9), Field("control", 9)), cap=5.0)
STAGES = [
    (pipeline.Clip(1.0), None),
    (pipeline.Clip(0.01), BARE),
    (pipeline.AdaptiveClip(), None),
    (pipeline.AdaptiveClip(quantile=0.9, start=2.0), BARE),
    (pipeline.Quantize(8, range=1.0), None),
    (pipeline.Quantize(16), None),
    (pipeline.Quantize(4, range=0.5, feedback=True), None),
]
RULES = [aggregation.Median(), *map(aggregation.TrimmedMean, (0, 1, 3))]
ELSE = [aggregation.Mean(), aggregation.Mean("expected"), PerExample(1.0, 1.1, "shuffled")]
SAMPLINGS = [
    sampling.All(),
    sampling.Uniform(fraction=0.3),
    sampling.Uniform(count=4),
    sampling.Weighted(count=5),
    sampling.Poisson(rate=0.4),
    sampling.Rotation(slots=3),
]


def checks(kind):
    """(id, function of a folder) for each thing of a kind that is shipped."""
    return [pytest.param(partial(run, *args), id=name) for name, run, *args in kind]


def algorithm(thing, _):
    testing.check_algorithm(thing)


def stage(thing, contract, _):
    testing.check_stage(thing, contract)


def rule(thing, _):
    testing.check_rule(thing)


def value(thing, _):
    check_value(thing)


def rows(kind="classes", shape=(5,)):
    draw = np.random.default_rng(3)
    x = draw.normal(size=(13, *shape)).astype(np.float32)
    y = draw.integers(0, 3, 13) if kind == "classes" else draw.normal(size=13)
    return x, y if kind == "classes" else y.astype(np.float32)


def numpy_task(task, kind, _):
    x, y = rows(kind)
    testing.check_task(task, x, y % 2 if isinstance(task, tasks.LogisticRegression) else y)


def mean_model():
    return {"mean": np.zeros(5), "count": np.zeros(1)}


def fit_mean(model, data, config):
    return model | {"mean": model["mean"] + config.rate * (data[0].mean(0) - model["mean"])}


def measure_mean(model, data):
    return {"loss": ((data[0] - model["mean"]) ** 2).mean()}


def custom_task(_):
    testing.check_task(custom.Custom(mean_model, fit_mean, measure_mean), *rows())


def needed(module, extra):
    try:
        return importlib.import_module(f"muster.tasks.{module}")
    except MissingExtra as missing:
        pytest.skip(str(missing) or extra)


def torch_model(name):
    nn = needed("torch", "torch").torch.nn
    return {
        "linear": lambda: nn.Linear(5, 3),
        "value": lambda: nn.Linear(5, 1),
        "mlp": lambda: nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)),
        "norm": lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)),
        "dropout": lambda: nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Linear(8, 3)),
        "frozen": lambda: nn.Sequential(nn.Linear(5, 4).requires_grad_(False), nn.Linear(4, 3)),
    }[name]


def torch_task(name, kind, _):
    room = needed("torch", "torch")
    make = room.Regressor if kind == "numbers" else room.Classifier
    testing.check_task(make(torch_model(name)), *rows(kind))


def jax_params(draw):
    return {"layer": needed("jax", "jax").dense_params(draw, 5, 3)}


def jax_apply(params, x):
    return needed("jax", "jax").dense(params["layer"], x)


def jax_task(name, _):
    room = needed("jax", "jax")
    made = {
        "softmax": lambda: room.SoftmaxRegression(5, 3),
        "mlp": lambda: room.MLP((5, 4, 3)),
        "classifier": lambda: room.Classifier(jax_params, jax_apply),
    }
    testing.check_task(made[name](), *rows())


def drawn(thing, _):
    testing.check_sampler(thing)


def memory_store(_):
    kept = MemoryStore()
    testing.check_store(lambda: kept)


def sqlite_store(folder):
    testing.check_store(lambda: SQLiteStore(folder))


def clients(engine, together, _):
    def make(plan, population, store, absent):
        executor = LocalExecutor(plan, engine, population)
        return Simulation(
            plan, population, store, Choice(engine, together, True, ""), executor, absent
        )

    testing.check_clients(make)


def pooled_clients(_):
    def make(plan, population, store, absent):
        pickled, shared = pickle.dumps(plan, protocol=5), population.shared()
        executor = Pool(pickled, "matrix", shared, start(plan).sent(), 2)
        choice = Choice("matrix", 4, False, "")
        return Simulation(plan, population, store, choice, executor, absent)

    testing.check_clients(make)


SHIPPED = [
    *((repr(a), algorithm, a) for a in ALGORITHMS),
    *((repr(s), stage, s, contract) for s, contract in STAGES),
    *((repr(r), rule, r) for r in RULES),
    *((repr(s), value, s) for s in [*SERVERS, *ELSE]),
    *((repr(s), drawn, s) for s in SAMPLINGS),
    ("numpy linear", numpy_task, tasks.LinearRegression(5, l2=0.1), "numbers"),
    ("numpy logistic", numpy_task, tasks.LogisticRegression(5), "classes"),
    ("numpy softmax", numpy_task, tasks.SoftmaxRegression(5, 3, l2=0.1), "classes"),
    ("numpy mlp", numpy_task, tasks.MLP([5, 4, 3]), "classes"),
    ("numpy mlp tanh", numpy_task, tasks.MLP([5, 4, 4, 3], "tanh", l2=0.1), "classes"),
    ("custom", custom_task),
    *((f"torch {n}", torch_task, n, "classes") for n in ("linear", "mlp", "norm", "dropout")),
    ("torch frozen", torch_task, "frozen", "classes"),
    ("torch value", torch_task, "value", "numbers"),
    *((f"jax {name}", jax_task, name) for name in ("softmax", "mlp", "classifier")),
    ("MemoryStore", memory_store),
    ("SQLiteStore", sqlite_store),
    *((f"clients {e}, {n}", clients, e, n) for e, n in (("loop", 1), ("loop", 7), ("matrix", 9))),
    ("clients in a pool", pooled_clients),
]


@pytest.mark.parametrize("check", checks(SHIPPED))
def test_shipped(check, tmp_path):
    check(tmp_path)
