# SPDX-License-Identifier: Apache-2.0
"""The sums of several metrics over blocks of rows, flat by name, and the values behind them.

Flat, as it is added, stored and sent: "rows"; for what a task measures by itself its name ("loss");
else "<metric>/<sum>", for an array "<metric>/<sum>/<place>". Clients add "held out": how many of
the rows they did not train on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from muster.errors import PlanError
from muster.metrics.head import OutputHead, read
from muster.metrics.metric import Metric, Sums, called
from muster.metrics.task_mean import Loss, TaskMean

__all__ = ["HELD_OUT", "MOST", "MetricTally", "added", "flat", "names", "value_of", "values"]

HELD_OUT = "held out"
MOST = 2048  # numbers that one client may be asked for
LONGEST = 48  # letters of the name of a sum


class MetricTally:
    """The sums of metrics over blocks of rows of one model.

    `add` takes a block: the outputs as NumPy and in the task's own arrays, which metrics that are
    `native` see. Raises `PlanError` where a metric gives something else than sums.

    >>> from muster.metrics import Accuracy
    >>> tally = MetricTally((Accuracy(),), OutputHead("softmax", 2))
    >>> tally.add(np.array([[1.0, 0.0]]), np.array([0]))
    >>> tally.flat()
    {'accuracy/hits': 1.0, 'accuracy/rows': 1.0}
    """

    def __init__(self, metrics: Sequence[Metric], head: OutputHead) -> None:
        self._metrics = [m for m in metrics if not isinstance(m, (Loss, TaskMean))]
        self._positions = head.rows_of == "classes"
        self._sums: dict[str, dict[str, Any]] = {m.name: {} for m in self._metrics}

    def __bool__(self) -> bool:
        """Return whether outputs are needed at all."""
        return bool(self._metrics)

    def add(self, outputs: Any, y: Any, native: tuple[Any, Any] | None = None) -> None:
        """Count a block of rows in."""
        given = native or (outputs, y)
        if self._positions:  # each position is a row, and labels may be a column
            y = np.reshape(y, -1)
            if np.ndim(outputs) > 2:
                outputs = np.reshape(outputs, (-1, np.shape(outputs)[-1]))
        for metric in self._metrics:
            with np.errstate(all="ignore"):
                pair = given if metric.native else (read(metric.needs, outputs), y)
            total = self._sums[metric.name]
            for name, value in sums_of(metric, *pair).items():
                total[name] = total[name] + value if name in total else value

    def flat(self) -> dict[str, float]:
        """Return all sums, flat by name."""
        found: dict[str, float] = {}
        for name, sums in self._sums.items():
            found |= flat(name, sums)
        return found


def sums_of(metric: Metric, outputs: Any, y: Any) -> dict[str, Any]:
    """Return the sums that `metric.sums` gives, in float64. Raises `PlanError` for others."""
    try:
        with np.errstate(all="ignore"):  # a model that diverged is no fault of the metric
            found = metric.sums(outputs, y)
    except PlanError:
        raise
    except Exception as error:
        raise PlanError(
            f"the metric {metric.name!r} raised {type(error).__name__}: {error}; repair its sums()"
        ) from error
    if not isinstance(found, Mapping) or not found:
        raise PlanError(
            f"the metric {metric.name!r} returned {found!r:.80} from sums(); it must return sums "
            f"over rows by name, such as {{'hits': 39, 'rows': 50}}"
        )
    made = {}
    for name, value in found.items():
        array = np.asarray(value)
        if not (isinstance(name, str) and _word(name)):
            raise PlanError(
                f"the metric {metric.name!r} has a sum {name!r:.60}; name it by a word of at most "
                f"{LONGEST} letters, without a slash"
            )
        if array.ndim > 1 or array.dtype.kind not in "biuf":
            raise PlanError(
                f"the metric {metric.name!r} returned {name!r} of shape {array.shape} and dtype "
                f"{array.dtype}; a sum is a number, or an array of one axis"
            )
        made[name] = array.astype(np.float64)
    return made


@lru_cache(256)
def _word(name: str) -> bool:
    """Return whether a sum may be called so."""
    fits = name.isprintable() and 0 < len(name) <= LONGEST
    return fits and "/" not in name and name == name.strip()


def flat(metric: str, sums: Sums) -> dict[str, float]:
    """Return the sums of one metric, flat by name.

    >>> flat("f1", {"rows": 2, "hit": np.array([1, 0])})
    {'f1/rows': 2.0, 'f1/hit/0': 1.0, 'f1/hit/1': 0.0}
    """
    found: dict[str, float] = {}
    for name, value in sums.items():
        array = np.asarray(value, np.float64)
        if array.ndim:
            found |= dict(zip(_places(metric, name, len(array)), array.tolist(), strict=True))
        else:
            found[f"{metric}/{name}"] = float(array)
    return found


@lru_cache(256)
def _places(metric: str, name: str, width: int) -> tuple[str, ...]:
    return tuple(f"{metric}/{name}/{place}" for place in range(width))


def added(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Add up flat sums of several clients, in order; a name that one lacks is left out.

    >>> added([{"rows": 1.0, "loss": 2.0}, {"rows": 3.0}])
    {'rows': 4.0}
    """
    parts = list(parts)
    shared = [name for name in parts[0] if all(name in part for part in parts)] if parts else []
    return {name: float(sum(part[name] for part in parts)) for name in shared}


def values(metrics: Iterable[Metric], sums: Mapping[str, float]) -> dict[str, float]:
    """Return the value of each metric that there are sums of; NaN for one that has none.

    Sums by a plain name that no metric declares are means that a task of one's own returned.

    >>> from muster.metrics import Accuracy
    >>> sums = {"rows": 2, "loss": 1.0, "accuracy/hits": 1, "accuracy/rows": 2}
    >>> values((Loss(), Accuracy()), sums)
    {'loss': 0.5, 'accuracy': 0.5}
    """
    apart, plain = _apart(sums)
    found = {}
    for metric in metrics:
        own = apart.get(metric.name, {})
        if isinstance(metric, (Loss, TaskMean)):
            own = _of_task(metric, sums)
        if own:
            found[metric.name] = value_of(metric, own)
    for name in plain:  # means of a task that declares none of them: of no known direction
        if name not in found and called(name):
            found[name] = value_of(Loss(), {"sum": np.float64(sums[name]), "rows": sums["rows"]})
    return found


def _of_task(metric: Metric, sums: Mapping[str, float]) -> dict[str, Any]:
    if metric.name not in sums or "rows" not in sums:
        return {}
    return {"sum": np.float64(sums[metric.name]), "rows": np.float64(sums["rows"])}


def _apart(sums: Mapping[str, float]) -> tuple[dict[str, dict[str, Any]], tuple[str, ...]]:
    """Return the sums of each metric as it gave them, numbers and arrays; all other names."""
    structure, plain = _structure(tuple(sums))
    numbers = np.array(list(sums.values()), np.float64)
    made: dict[str, dict[str, Any]] = {}
    for metric, key, places in structure:
        made.setdefault(metric, {})[key] = numbers[places]
    return made, plain


@lru_cache(16)
def _structure(names: tuple[str, ...]) -> tuple[tuple[tuple[str, str, Any], ...], tuple[str, ...]]:
    """Return the places of each metric's sums among flat sums: one, or an array's.

    And which names are of no metric's sums.
    """
    found: dict[tuple[str, str], Any] = {}
    for place, name in enumerate(names):
        metric, _, rest = name.partition("/")
        key, array, _ = rest.partition("/")
        if array:
            if not isinstance(found.get((metric, key)), list):  # a number of that name gives way
                found[metric, key] = []
            found[metric, key].append(place)
        elif key:
            found[metric, key] = place
    placed = tuple(
        (metric, key, _run(at) if isinstance(at, list) else at)
        for (metric, key), at in found.items()
    )
    return placed, tuple(name for name in names if "/" not in name)


def _run(places: list[int]) -> Any:
    """Return places as a slice where they follow one another, as those of one array do."""
    begin, end = places[0], places[-1] + 1
    return slice(begin, end) if places == [*range(begin, end)] else np.array(places)


def value_of(metric: Metric, sums: Sums) -> float:
    """Return the value of sums as a float; NaN where they are of no rows, or odd."""
    with np.errstate(all="ignore"):
        try:
            return float(metric.value(sums))
        except (
            Exception
        ):  # of no rows, or odd ones from elsewhere: a trial has shown it can be made
            return float("nan")


def names(metrics: Iterable[Metric], made: Mapping[str, Sums | None]) -> frozenset[str] | None:
    """Return all flat names of these metrics' sums, with "rows" and "held out".

    `made` are sums over rows that were made up, by metric (`trial.tried`); None where one of them
    is not known before there are rows.
    """
    found = {"rows", HELD_OUT}
    for metric in metrics:
        if isinstance(metric, (Loss, TaskMean)):
            found.add(metric.name)
            continue
        sums = made.get(metric.name)
        if sums is None:
            return None
        found |= flat(metric.name, sums).keys()
    return frozenset(found)
