# SPDX-License-Identifier: Apache-2.0
"""A user's own training, shown with a scikit-learn classifier, and what is refused of it."""

import pickle
from functools import partial

import numpy as np
import pytest

from muster import keys
from muster.algorithms import FedAvg, FedProx
from muster.batches import cut
from muster.errors import DataError, MusterError, PlanError
from muster.local import Carry, Descent, Given, Group, Local, train
from muster.metrics import TaskMean
from muster.optimizers import SGD
from muster.plan import Plan
from muster.rounds import start
from muster.tasks.custom import Config, Custom
from muster.types import Batch

ALL = np.arange(10)


def digits_start():
    return {"coef": np.zeros((10, 64)), "intercept": np.zeros(10)}


def digits_model(model):
    """The arrays as a scikit-learn model that can predict and train on."""
    linear = pytest.importorskip("sklearn.linear_model")
    found = linear.SGDClassifier(loss="log_loss", alpha=1e-4)
    found.coef_, found.intercept_ = (model[n].astype(float) for n in ("coef", "intercept"))
    found.classes_, found.t_ = ALL, 1.0
    return found


def digits_fit(model, data, config):
    found = digits_model(model)
    found.set_params(learning_rate="constant", eta0=config.rate, random_state=config.seed % 2**31)
    for _ in range(config.epochs):
        found.partial_fit(*data, classes=ALL)
    return {"coef": found.coef_, "intercept": found.intercept_}


def digits_measure(model, data):
    return {"accuracy": digits_model(model).score(*data)}


def mean_start():
    return {"mean": np.zeros(2), "count": np.zeros(())}


def mean_fit(model, data, config):
    assert isinstance(config, Config)
    model["count"][...] += config.steps
    return {"count": model["count"], "mean": model["mean"] + config.rate * data[0].mean(0)}


def mean_measure(model, data):
    return {"loss": ((data[0] - model["mean"]) ** 2).mean(), "rows": 7}


def broken_fit(model, data, config):
    raise ZeroDivisionError("no rows left")


def interrupted_fit(model, data, config):
    raise KeyboardInterrupt


def transposed_fit(model, data, config):
    return {"mean": model["mean"][None], "count": 0.0}


def nameless_fit(model, data, config):
    return {"mean": model["mean"]}


def listing_fit(model, data, config):
    return [model["mean"]]


def diverged_fit(model, data, config):
    return {"mean": model["mean"] * np.nan, "count": 0.0}


def worded_fit(model, data, config):
    return {"mean": np.array(["a", "b"]), "count": 0.0}


def whole_start():
    return {"mean": np.zeros(2, int)}


def empty_start():
    return {}


def worded_measure(model, data):
    return {"accuracy": "good"}


def slashed_measure(model, data):
    return {"a/b": 1.0}


def no_zeros(x, y):
    if (x == 0).any():
        raise DataError("zeros")


TASK = Custom(mean_start, mean_fit, mean_measure)
ACCURACY = TaskMean("accuracy", lower_is_better=False)


def run(task, algorithm=None, alone=True, batch=2, steps=6):
    x, y = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), np.zeros(3)
    one = np.ones(1, np.int64)
    key = keys.key(0).at("train", 4)
    batches = cut(
        x, y, one * 0, one * 3, keys.numbers([8]), one * steps, batch, key, task.dtype, alone
    )
    way = Descent(task, algorithm or FedAvg(), SGD(0.5), task.layout.sharing("*"))
    w, buffers = task.init(keys.key(0))
    carry = Carry(w, buffers, (), None, w.dtype.type(0))
    done = task.run(way, Given(None, 0.5, 4), carry, batches)
    assert (w == 0).all()
    return done


def test_fit_gets_copies_and_its_arrays_come_back():
    seen = []

    def fit(model, data, config):
        seen.append((config, data))
        return mean_fit(model, data, config)

    done = run(Custom(mean_start, fit, mean_measure))
    config, (x, y) = seen[0]
    assert (config.round, config.epochs, config.steps, config.batch) == (4, 3, 6, 2)
    assert config.rate == 0.5 and config.seed > 0 and x.shape == (3, 2) and len(y) == 3
    np.testing.assert_array_equal(done.w, np.array([1.5, 2.0, 6.0], np.float32))
    assert done.w.dtype == np.float32
    assert done.loss / 6 == pytest.approx(((x - [1.5, 2.0]) ** 2).mean())
    np.testing.assert_array_equal(TASK.init(keys.key(0))[0], 0)


@pytest.mark.parametrize(
    ("fit", "error", "message"),
    [
        (transposed_fit, DataError, r"'mean' of shape \(1, 2\).*numbers of shape \(2,\)"),
        (nameless_fit, DataError, r"returned \['mean'\].*\['count', 'mean'\] is needed"),
        (listing_fit, DataError, "returned list"),
        (worded_fit, DataError, "dtype <U1"),
        (diverged_fit, DataError, "NaN or Inf"),
        (broken_fit, MusterError, r"(?s)raised ZeroDivisionError.*in broken_fit.*no rows left"),
    ],
)
def test_what_fit_may_not_do(fit, error, message):
    with pytest.raises(error, match=message):
        run(Custom(mean_start, fit, mean_measure))


def test_an_interrupt_passes_through():
    with pytest.raises(KeyboardInterrupt):
        run(Custom(mean_start, interrupted_fit, mean_measure))


def test_gradients_are_refused():
    for act in (
        lambda: TASK.gradient(np.zeros(3), None, Batch(None, None)),
        lambda: TASK.loop(lambda carry, batch: carry, None, ()),
        lambda: run(TASK, FedProx(0.1)),
        lambda: run(TASK, alone=False),
    ):
        with pytest.raises(PlanError, match="shows no gradients"):
            act()
    with pytest.raises(PlanError, match="bends every local gradient"):
        Plan(TASK, FedProx(0.1), Local(epochs=1))


def test_what_start_and_measure_may_not_return():
    with pytest.raises(PlanError, match="real numbers are needed"):
        _ = Custom(whole_start, mean_fit, mean_measure).layout
    with pytest.raises(PlanError, match="must return a dict of arrays"):
        _ = Custom(empty_start, mean_fit, mean_measure).layout
    with pytest.raises(DataError, match="one number for each metric"):
        Custom(mean_start, mean_fit, worded_measure).evaluate(np.zeros(3), None, [1], [1])
    with pytest.raises(DataError, match=r"returned 'a/b'; give the mean another name"):
        Custom(mean_start, mean_fit, slashed_measure).evaluate(np.zeros(3), None, [1], [1])
    with pytest.raises(DataError, match=r"returned no 'accuracy', which Custom\(metrics=\) decl"):
        Custom(mean_start, mean_fit, mean_measure, metrics=[ACCURACY]).evaluate(
            np.zeros(3), None, np.zeros((1, 2)), [1]
        )
    with pytest.raises(PlanError, match="declare what measure returns beside its loss"):
        Custom(mean_start, mean_fit, mean_measure, metrics=["accuracy"])
    with pytest.raises(PlanError, match="float16"):
        Custom(mean_start, mean_fit, mean_measure, dtype="float16")


def test_evaluation_sums_means_over_rows():
    x = np.array([[1.0, 1.0], [3.0, 3.0]])
    sums = TASK.evaluate(np.zeros(3, np.float32), None, x, np.zeros(2))
    assert sums == {"rows": 2, "loss": pytest.approx(10)}


def test_data_are_checked_by_length_and_by_the_user():
    TASK.check(np.zeros((2, 1)), np.zeros(2))
    with pytest.raises(DataError, match="2 rows of features but 3 labels"):
        TASK.check(np.zeros((2, 1)), np.zeros(3))
    with pytest.raises(DataError, match="zeros"):
        Custom(mean_start, mean_fit, mean_measure, no_zeros).check(np.zeros((2, 1)), np.zeros(2))


def test_a_task_is_a_value():
    assert pickle.loads(pickle.dumps(TASK)) == TASK and hash(TASK)
    assert TASK.astype("float64").layout.dtype == "float64"
    assert [(e.name, e.shape) for e in TASK.layout.entries] == [("mean", (2,)), ("count", ())]
    assert TASK.flops(2) == 36 and TASK.arrays(3) == TASK.numpy(3) == 3
    assert list(TASK.model(np.zeros(3))) == ["mean", "count"]
    assert (TASK.framework, TASK.draws, TASK.engines) == ("custom", True, ("loop",))


def test_scikit_learn_learns_the_digits_in_a_federation():
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = datasets.load_digits(return_X_y=True)
    x = x / 16
    test, rest = slice(0, 400), np.arange(400, len(x))
    parts = np.array_split(rest[np.argsort(y[rest] // 2, kind="stable")], 8)  # about 2 classes each
    task = Custom(digits_start, digits_fit, digits_measure, metrics=(ACCURACY,))
    plan = Plan(task, FedAvg(), Local(epochs=2, batch=1, optimizer=SGD(0.02)), rounds=8)
    state = start(plan)
    for round in range(1, 9):
        total, rows = 0.0, 0.0
        for client, part in enumerate(parts):
            group = Group(
                (client,), (1,), x[part], y[part], np.zeros(1, np.int64), np.array([len(part)])
            )
            outcome = train(plan, "loop", round, state.sent(), group)
            total, rows = total + outcome.payload["delta"][0], rows + outcome.weights[0]
        mean = plan.algorithm.payload(total / rows)
        state = state._replace(algorithm=plan.algorithm.step(state.algorithm, mean, 1.0))
    sums = task.evaluate(state.algorithm.shared.x, None, x[test], y[test])
    assert sums["accuracy"] / sums["rows"] > 0.85


SIZE = 2


def sized_start():
    return {"mean": np.full(SIZE, 1.0)}


def test_a_changed_global_starts_another_model(monkeypatch):
    assert Custom(sized_start, mean_fit, mean_measure).layout.size == 2
    monkeypatch.setitem(globals(), "SIZE", 5)
    later = Custom(sized_start, mean_fit, mean_measure)
    assert (later.layout.size, later.init(keys.key(0))[0].tolist()) == (5, [1.0] * 5)
    assert vars(pickle.loads(pickle.dumps(later))).keys() == {
        "start",
        "fit",
        "measure",
        "accept",
        "dtype",
        "metrics",
    }


def wide_start(size):
    return {"mean": np.zeros(size)} if size else {}


def test_functions_with_settings_are_functions():
    task = Custom(partial(wide_start, 3), partial(mean_fit), partial(mean_measure))
    assert task.layout.size == 3
    with pytest.raises(PlanError, match=r"start=partial\(wide_start\) returned"):
        _ = Custom(partial(wide_start, 0), mean_fit, mean_measure).layout
