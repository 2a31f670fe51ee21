# SPDX-License-Identifier: Apache-2.0
"""Your own training in any library: a scikit-learn classifier, federated.

    muster run examples/own_training.py

muster needs three functions: what a fresh model is (arrays by name), how one client trains it,
and how well it does. Everything else (sampling, averaging, commits, resume) is as for any plan.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.linear_model import SGDClassifier

import muster
from muster import algorithms, data, metrics, optimizers, sampling
from muster.tasks.custom import Config, Custom

Model = Mapping[str, Any]
LABELS = np.arange(10)
ACCURACY = metrics.TaskMean("accuracy", lower_is_better=False)


def start() -> Model:
    """Return a fresh model: every array that is shared, by name."""
    return {"coef": np.zeros((10, 64)), "intercept": np.zeros(10)}


def classifier(model: Model, **settings: Any) -> Any:
    """Return the arrays as a scikit-learn model that can go on training."""
    found = SGDClassifier(loss="log_loss", **settings)
    found.coef_, found.intercept_ = (model[name].astype(float) for name in ("coef", "intercept"))
    found.classes_, found.t_ = LABELS, 1.0
    return found


def fit(model: Model, rows: tuple[Any, Any], config: Config) -> Model:
    """Train one client's round; `config` holds epochs, rate, seed and the round."""
    found = classifier(
        model, learning_rate="constant", eta0=config.rate, random_state=config.seed % 2**31
    )
    x, y = rows
    for _ in range(config.epochs):
        found.partial_fit(x.astype(float), y, classes=LABELS)
    return {"coef": found.coef_, "intercept": found.intercept_}


def measure(model: Model, rows: tuple[Any, Any]) -> dict[str, float]:
    """Return means over these rows: "loss", also shown while training, and those below."""
    x, y = rows
    found = classifier(model)
    right = np.take_along_axis(found.predict_proba(x), y[:, None], 1)
    return {"loss": float(-np.log(right + 1e-12).mean()), "accuracy": found.score(x, y)}


plan = muster.Plan(
    task=Custom(start, fit, measure, metrics=(ACCURACY,)),
    algorithm=algorithms.FedAvg(),
    local=muster.Local(epochs=2, batch=1, optimizer=optimizers.SGD(0.02)),
    sampling=sampling.All(),
    rounds=8,
)


def population() -> data.Federation:
    """Return handwritten digits over ten clients."""
    return data.digits(clients=10, alpha=0.5)
