# SPDX-License-Identifier: Apache-2.0
"""A task with its own training: the user's `fit` and `evaluate`, in any library.

muster sees named arrays go in and come out, and no gradient: so FedAvg and FedNova work, with
any server optimizer and any stage, while algorithms that bend gradients are refused by the plan.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NoReturn

import numpy as np

from muster.batches import Batches
from muster.errors import DataError, PlanError
from muster.keys import Key
from muster.layout import Entry, Layout
from muster.types import Batch, Tree, Vector

__all__ = ["Config", "Custom"]

Arrays = Mapping[str, Any]


@dataclass(frozen=True)
class Config:
    """What `fit` is told beside model and data.

    `round` counts from 1; `steps` and `batch` (rows a step, the widest) are those of
    `muster.Local` for this client; `rate` is the local rate after its schedule; `epochs` is how
    often those steps walk its rows, rounded up; `seed` differs by round and client.
    """

    round: int
    epochs: int
    steps: int
    batch: int
    rate: float
    seed: int


@dataclass(frozen=True)
class Custom:
    """Training by module-level functions, with the model as arrays by name.

    `init()` returns the arrays of the start; `fit(model, (x, y), config)` returns new arrays of
    the same names and shapes; `evaluate(model, (x, y))` returns means over rows, by metric.
    `check(x, y)` may raise for data it cannot use. The local optimizer is not used: a rate is
    passed on in `config`.

    >>> def fit(model, data, config):
    ...     return {"mean": model["mean"] + config.rate * (data[0].mean(0) - model["mean"])}
    >>> task = Custom(lambda: {"mean": np.zeros(2)}, fit, lambda model, data: {"loss": 0.0})
    >>> task.layout.size
    2
    """

    init_arrays: Callable[[], Arrays]
    fit: Callable[[Arrays, tuple[Any, Any], Config], Arrays]
    measure: Callable[[Arrays, tuple[Any, Any]], Mapping[str, float]]
