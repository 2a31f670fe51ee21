# SPDX-License-Identifier: Apache-2.0
"""Rows that one door takes, all doors take: population, loader, `evaluate_on`, a site."""

import numpy as np
import pytest

import muster
from muster import algorithms, data, optimizers
from muster.data import Population
from muster.errors import DataError
from muster.federation.protocol.codec_tensors import encode
from muster.federation.site.training import Training
from muster.local import Group, train
from muster.rounds import start
from muster.runs.federation.join import site_rows
from muster.runs.planfile import load
from muster.tasks import numpy as tasks

DRAW = np.random.default_rng(0)
X = DRAW.standard_normal((24, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)
BYTES = DRAW.integers(0, 4, (24, 4)).astype(np.uint8)


def torch_model():
    nn = pytest.importorskip("torch.nn")
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


def task(name):
    if name == "torch":
        pytest.importorskip("torch")
        return muster.tasks.torch.Classifier(torch_model)
    if name == "jax":
        pytest.importorskip("jax")
        return muster.tasks.jax.SoftmaxRegression(4, 2)
    return {"softmax": tasks.SoftmaxRegression(4, 2), "logistic": tasks.LogisticRegression(4)}[name]


TASKS = ["softmax", "logistic", "torch", "jax"]


def planned(name, rounds=1, **fields):
    local = muster.Local(epochs=1, batch=7, optimizer=optimizers.SGD(0.1))
    return muster.Plan(
        task=task(name), algorithm=algorithms.FedAvg(), local=local, rounds=rounds, **fields
    )


def kinds():
    found = {
        "lists": (X.tolist(), Y.tolist()),
        "a column of labels": (X, Y[:, None]),
        "other dtypes": (X.astype(np.float64), Y.astype(np.int32)),
        "columns first": (np.asfortranarray(X), Y),
        "truth values": (X, Y > 0),
    }
    try:
        import pandas

        found["frame"] = (pandas.DataFrame(X), pandas.Series(Y, index=range(50, 74)))
    except ModuleNotFoundError:
        pass
    try:
        import torch

        found["tensors"] = (torch.tensor(X, requires_grad=True), torch.tensor(Y))
    except ModuleNotFoundError:
        pass
    return found


def trained(plan, people, test, path):
    run = muster.simulate(plan, people, test, path=path)
    return run.parameters, run.metrics, run.trained[-1]["clients"]


@pytest.mark.parametrize("name", TASKS)
def test_whatever_holds_the_rows_the_run_is_the_same(name, tmp_path):
    plan = planned(name)
    wanted = trained(plan, Population.from_arrays(dict.fromkeys("ab", (X, Y))), (X, Y), tmp_path)
    for i, (kind, rows) in enumerate(kinds().items()):
        for lazy in (False, True):
            people = (
                Population.lazy("ab", lambda _, rows=rows: rows, 24, test=lambda _: None)
                if lazy
                else dict.fromkeys("ab", rows)
            )
            found = trained(plan, people, rows, tmp_path / f"{i}{lazy}")
            assert np.array_equal(found[0], wanted[0]), kind
            assert found[1:] == wanted[1:], kind


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("kind", kinds())
def test_a_site_takes_what_a_simulation_takes(name, kind):
    plan, rows = planned(name), kinds()[kind]
    site, plain = Training(plan, rows, rows), Training(plan, (X, Y), (X, Y))
    sent = start(plan).sent()
    outcomes = [
        train(
            plan, "loop", 1, sent, Group(("a",), (1,), *one._mine, np.zeros(1, int), np.array([24]))
        )
        for one in (site, plain)
    ]
    assert np.array_equal(*(o.payload["delta"] for o in outcomes))
    body = b"".join(encode(sent))
    assert site.measure(body, None) == plain.measure(body, None)


def test_dtypes_that_differ_between_clients_meet_in_one_that_holds_both(tmp_path):
    given = {"a": (X, Y.astype(np.int32)), "b": (X.astype(np.float64), Y), "c": (BYTES, Y > 0)}
    people = Population.from_arrays(given)
    assert people["a"][0].dtype == np.float64 and people["c"][1].dtype == np.int64
    assert np.array_equal(people["a"][0], X) and np.array_equal(people["c"][0], BYTES)
    lazy = Population.lazy("abc", given.__getitem__, 24)
    rows = lazy.gather(("a", "b", "c"))
    assert np.array_equal(rows.x, np.concatenate([X, X, BYTES]))  # and nothing was cut off
    plan = planned("softmax")
    one, two = (
        muster.simulate(plan, p, (X, Y), path=tmp_path / str(i))
        for i, p in enumerate((people, lazy))
    )
    assert np.array_equal(one.parameters, two.parameters)


def test_test_rows_of_another_dtype_are_not_cut_to_that_of_the_training_rows():
    people = Population.from_arrays({"a": (BYTES, Y)}, {"a": (X, Y)})
    assert np.array_equal(people.test("a")[0], X)


def test_a_dataset_brings_its_own_test_rows(tmp_path):
    pytest.importorskip("sklearn")
    digits = data.digits(clients=3)
    plan = muster.Plan(
        task=tasks.SoftmaxRegression(64, 10),
        algorithm=algorithms.FedAvg(),
        local=muster.Local(steps=3, batch=16),
        rounds=1,
    )
    whole = muster.simulate(plan, digits, path=tmp_path / "a")
    apart = muster.simulate(plan, digits.population, digits.test, path=tmp_path / "b")
    assert whole.metrics == apart.metrics and "accuracy" in whole.metrics
    few = (digits.test[0][:9], digits.test[1][:9])
    assert muster.simulate(plan, digits, few, path=tmp_path / "c").metrics != whole.metrics


@pytest.mark.parametrize("given", [[1, 2], None, (X, Y), "digits"])
def test_what_is_no_population_is_refused_with_what_is(given, tmp_path):
    with pytest.raises(DataError, match=r"population is a \w+; give a muster.Population.*digits"):
        muster.simulate(planned("softmax"), given, path=tmp_path)


def images():
    nn = pytest.importorskip("torch.nn")
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3))


def words():
    nn = pytest.importorskip("torch.nn")
    return nn.Sequential(nn.Embedding(256, 2), nn.Flatten(), nn.Linear(32, 3))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.bool_])
def test_images_in_bytes_are_reals_to_a_model_that_reads_reals(dtype, tmp_path):
    pytest.importorskip("torch")
    x = DRAW.integers(0, 2, (12, 1, 4, 4)).astype(dtype)
    y = DRAW.integers(0, 3, 12)
    plan = muster.Plan(
        task=muster.tasks.torch.Classifier(images),
        algorithm=algorithms.FedAvg(),
        local=muster.Local(steps=2, batch=4),
        rounds=1,
    )
    runs = [
        muster.simulate(plan, {0: (z, y)}, (z, y), path=tmp_path / str(z.dtype))
        for z in (x, x.astype(np.float32))
    ]
    assert np.array_equal(runs[0].parameters, runs[1].parameters)
    assert runs[0].metrics == runs[1].metrics


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_token_ids_stay_whole_numbers(dtype, tmp_path):
    torch = pytest.importorskip("torch")
    task = muster.tasks.torch.Classifier(words)
    assert task.rows(np.zeros((2, 16), dtype)).dtype is torch.int64
    with pytest.raises(DataError, match=r"cannot take rows .* index out of range"):
        task.check(np.full((4, 16), 300, np.int32), np.zeros(4, np.int64))


def filters(key):
    jax = pytest.importorskip("jax")
    return {"k": jax.random.normal(key, (2, 1, 3, 3)), "w": jax.numpy.zeros((8, 3))}


def filtered(p, x):
    lax = pytest.importorskip("jax.lax")
    return lax.conv(x, p["k"], (1, 1), "VALID").reshape(len(x), -1) @ p["w"]


def test_jax_convolutions_take_bytes(tmp_path):
    pytest.importorskip("jax")
    x, y = DRAW.integers(0, 3, (12, 1, 4, 4)).astype(np.uint8), DRAW.integers(0, 3, 12)
    made = muster.tasks.jax.Classifier(filters, filtered)
    plan = muster.Plan(
        task=made, algorithm=algorithms.FedAvg(), local=muster.Local(steps=1, batch=4), rounds=1
    )
    runs = [
        muster.simulate(plan, {0: (z, y)}, (z, y), path=tmp_path / str(z.dtype))
        for z in (x, x.astype(np.float32))
    ]
    assert np.array_equal(runs[0].parameters, runs[1].parameters)


def test_a_site_s_loader_may_return_a_frame(tmp_path):
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame(X).assign(y=Y).to_csv(tmp_path / "rows.csv", index=False)
    (tmp_path / "plan.py").write_text(
        "import muster, pandas\n"
        "from muster import algorithms, tasks\n"
        "plan = muster.Plan(task=tasks.numpy.SoftmaxRegression(4, 2),\n"
        "    algorithm=algorithms.FedAvg(), local=muster.Local(epochs=1))\n"
        "def local_data(path):\n"
        "    table = pandas.read_csv(path)\n"
        "    return table.drop(columns='y'), table.y\n"
    )
    x, y = site_rows(load(tmp_path / "plan.py"), tmp_path / "rows.csv")
    assert isinstance(x, np.ndarray) and isinstance(y, np.ndarray)
    assert np.allclose(x, X) and np.array_equal(y, Y)
