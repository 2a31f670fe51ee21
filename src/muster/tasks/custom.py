# SPDX-License-Identifier: Apache-2.0
"""A task with its own training: the user's `fit` and `measure`, in any library.

muster sees named arrays go in and come out, and no gradient. So FedAvg and FedNova work, with
any server optimizer and any stage, and the plan refuses algorithms that bend gradients.
"""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar, NoReturn, Self

import numpy as np

from muster.errors import DataError, MusterError, PlanError
from muster.keys import Key
from muster.layout import Layout, TensorEntry
from muster.metrics import Metric, TaskMean
from muster.metrics.head import OutputHead
from muster.metrics.metric import called
from muster.spelling import Spelled
from muster.tasks.task import FunctionTask, Keyed, check_function, name_of
from muster.types import Batch, TaskTraits, Tree, Vector

__all__ = ["Config", "Custom"]

Arrays = Mapping[str, Any]


@dataclass(frozen=True)
class Config:
    """The configuration for `fit`, beside the model and the data.

    `round` counts from 1; `epochs`, `steps` and `batch` (rows a step) are what `muster.Local`
    comes to for this client; `rate` is the local rate of this round; `seed` differs by round
    and client.
    """

    round: int
    epochs: int
    steps: int
    batch: int
    rate: float
    seed: int


class _Own(FunctionTask, Spelled):
    """The facts that the runtime reads off a task with its own training."""

    framework: str = "custom"
    draws: bool = True  # `Config.seed` is fit's to use
    engines: tuple[str, ...] = ("loop",)
    traits: ClassVar[TaskTraits] = TaskTraits(gradients=False, whole=True)


@dataclass(frozen=True)
class Custom(_Own):
    """Training by the user's module-level functions, with the model as arrays by name.

    `start()` returns the arrays of the first round; `fit(model, (x, y), config)` the trained
    ones, of the same names and shapes; `measure(model, (x, y))` means over rows by name, the
    "loss" among them; `metrics` declares as a `metrics.TaskMean` which way others are better, so
    that rules may stop by them and the worst client be named;
    `accept(x, y)`, if given, raises for data it cannot use. Models arrive in the plan's dtype,
    as copies. Of the local optimizer only the rate is used, through `config`.

    >>> def start():
    ...     return {"mean": np.zeros(2)}
    >>> def fit(model, data, config):
    ...     return {"mean": model["mean"] + config.rate * (data[0].mean(0) - model["mean"])}
    >>> def measure(model, data):
    ...     return {"loss": ((data[0] - model["mean"]) ** 2).mean()}
    >>> Custom(start, fit, measure).layout.size
    2
    """

    start: Callable[[], Arrays]
    fit: Callable[[Arrays, tuple[Any, Any], Config], Arrays]
    measure: Callable[[Arrays, tuple[Any, Any]], Mapping[str, float]]
    accept: Callable[[Any, Any], None] | None = None
    dtype: str = "float32"
    metrics: tuple[TaskMean, ...] = ()

    def __post_init__(self) -> None:
        given = {"start": (), "fit": ("model", "data", "config"), "measure": ("model", "data")}
        if self.accept is not None:
            given["accept"] = ("x", "y")
        for name, arguments in given.items():
            check_function(
                "Custom",
                name,
                getattr(self, name),
                arguments,
                f"def {name}({', '.join(arguments)}): at the top of a module",
            )
        object.__setattr__(self, "metrics", tuple(self.metrics))
        for metric in self.metrics:
            if not isinstance(metric, TaskMean) or metric.name == "loss":
                raise PlanError(
                    f"Custom(metrics=[{metric!r}]): declare what measure returns beside its loss, "
                    f"such as TaskMean('accuracy', lower_is_better=False)"
                )
        if self.dtype not in ("float32", "float64"):
            raise PlanError(f"{self}: dtype must be 'float32' or 'float64'; choose one")

    def astype(self, dtype: str) -> Self:
        """Return the same task in the other precision."""
        return dataclasses.replace(self, dtype=dtype)

    @property
    def layout(self) -> Layout:
        """The arrays of `start()`, in the order of its dict."""
        return self._started[0]

    def init(self, key: Key) -> tuple[Vector, Vector]:
        """Return the arrays of `start()` as one vector `(d,)`, whatever the key; no buffers."""
        return self._started[1].copy(), np.zeros(0, self.dtype)

    @cached_property
    def _started(self) -> tuple[Layout, Any]:
        return _begun(self.keyed)

    def check(self, x: Any, y: Any) -> None:
        """Raise `DataError` for unequal lengths, and whatever `accept` raises."""
        if len(x) != len(y):
            raise DataError(
                f"there are {len(x)} rows of features but {len(y)} labels; each row needs one label"
            )
        if self.accept is not None:
            self.accept(x, y)

    def flops(self, batch: int) -> float:
        """Count six operations a parameter and row, for want of better knowledge."""
        return 6.0 * batch * self.layout.size

    def arrays(self, tree: Tree) -> Tree:
        """Return the tree as it is."""
        return tree

    def numpy(self, tree: Tree) -> Tree:
        """Return the tree as it is."""
        return tree

    def model(self, w: Vector, buffers: Vector = None) -> dict[str, Any]:
        """Return parameters `(d,)` as arrays by name, copied."""
        return {name: part.copy() for name, part in self.layout.named(np.asarray(w)).items()}

    def gradient(self, w: Vector, buffers: Vector, batch: Batch) -> NoReturn:
        """Refuse: `fit` shows none."""
        raise PlanError(
            f"{self} trains by its own fit and shows no gradients; use FedAvg or FedNova and the "
            f"engine 'loop', or a numpy, torch or jax task"
        )

    def loop(self, step: Callable[[Tree, Batch], Tree], carry: Tree, batches: Any) -> NoReturn:
        """Refuse: `fit` has its own."""
        self.gradient(carry, None, Batch(None, None))

    def run(self, descent: Any, given: Any, carry: Any, batches: Any) -> Any:
        """Return the result of one client's round by `fit`, and its loss by `measure`.

        Raises `MusterError` with the traceback when `fit` raises, `DataError` when it returns
        other names or shapes than it was given.
        """
        if descent.algorithm.modifies_gradient or descent.trained is not None or not batches.alone:
            self.gradient(carry.w, carry.buffers, Batch(None, None))
        data, steps = (batches.x, batches.y), len(batches)
        width = min(batches.index.shape[-1], len(batches.x))
        epochs = -(-steps // -(-len(batches.x) // width))
        seed = int(batches.seeds[0, 0])
        config = Config(int(given.round), epochs, steps, width, float(given.rate), seed)
        found = _call(self.fit, self.model(carry.w), data, config)
        w = _flat(found, self.layout, f"fit={name_of(self.fit)}")
        loss = self._means(w, data).get("loss", 0.0)
        return carry._replace(w=w, loss=carry.loss + w.dtype.type(loss * steps))

    @property
    def head(self) -> OutputHead:
        """No outputs, and the means that are declared."""
        return OutputHead("none", means=self.metrics)

    def evaluate(
        self, w: Vector, buffers: Vector, x: Any, y: Any, metrics: Sequence[Metric] = ()
    ) -> dict[str, float]:
        """Return sums over rows: the number of rows, and each mean of `measure` times that number.

        Raises `DataError` where `measure` returns other means than were declared.
        """
        means, rows = self._means(w, (x, y)), len(x)
        return {"rows": float(rows)} | {name: mean * rows for name, mean in means.items()}

    def _means(self, w: Vector, data: tuple[Any, Any]) -> dict[str, float]:
        found = _call(self.measure, self.model(w), data)
        what, declared = f"measure={name_of(self.measure)}", {m.name for m in self.metrics}
        try:
            means = {str(name): float(mean) for name, mean in found.items() if name != "rows"}
        except (AttributeError, TypeError, ValueError) as error:
            raise DataError(
                f"{what} returned {found!r}; it must return a dict of one number for each metric, "
                f"such as {{'accuracy': 0.9}}"
            ) from error
        if lacking := sorted(declared - means.keys()):
            raise DataError(f"{what} returned no {lacking[0]!r}, which Custom(metrics=) declares")
        if odd := [name for name in means if not called(name)]:
            raise DataError(f"{what} returned {odd[0]!r:.80}; give the mean another name")
        return means


@lru_cache(64)
def _begun(keyed: Keyed) -> tuple[Layout, Any]:
    start, dtype = keyed.value.start, keyed.value.dtype
    found, name = _call(start), f"start={name_of(start)}"
    if not isinstance(found, Mapping) or not found:
        raise PlanError(f"{name} returned {found!r}; it must return a dict of arrays by name")
    for key, value in found.items():
        if np.asarray(value).dtype.kind != "f":
            raise PlanError(
                f"{name} returned {key!r} of dtype {np.asarray(value).dtype}, but real numbers are "
                f"needed to be averaged; convert it, such as with .astype('float32')"
            )
    layout = Layout(tuple(TensorEntry(str(k), np.shape(v)) for k, v in found.items()), dtype)
    return layout, _flat(found, layout, name)


def _flat(found: Any, layout: Layout, name: str) -> Any:
    """Return arrays by name as one vector, or why not in a sentence."""
    wanted = {entry.name: entry.shape for entry in layout.entries}
    if not isinstance(found, Mapping) or set(found) != set(wanted):
        given = sorted(found) if isinstance(found, Mapping) else type(found).__name__
        raise DataError(
            f"{name} returned {given}, but a dict of the arrays {sorted(wanted)} is needed; return "
            f"every array it was given, and no other"
        )
    for key, shape in wanted.items():
        value = np.asarray(found[key])
        if value.shape != shape or value.dtype.kind not in "fiub":
            raise DataError(
                f"{name} returned {key!r} of shape {value.shape} and dtype {value.dtype}, but "
                f"numbers of shape {shape} are needed; keep each array's shape"
            )
        if not np.isfinite(value).all():
            raise DataError(
                f"{name} returned {key!r} with NaN or Inf, but finite numbers are needed; lower "
                f"the rate, or clean this client's data"
            )
    return layout.flat({key: found[key] for key in wanted})


def _call(function: Callable[..., Any], *given: Any) -> Any:
    try:
        return function(*given)
    except Exception as error:
        raise MusterError(
            f"{name_of(function)} raised {type(error).__name__}; repair it:\n"
            f"{traceback.format_exc().rstrip()}"
        ) from error
