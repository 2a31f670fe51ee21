# SPDX-License-Identifier: Apache-2.0
"""The shared part of the tasks of every framework: losses, and what data they refuse.

A loss reads the outputs of a model as `z` `(outputs, ...)`: outputs first, because a reduction
over the first axis runs along memory.
"""

from __future__ import annotations

import inspect
import itertools
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache, partial
from typing import Any, ClassVar, Literal, cast

import numpy as np

from muster import identity
from muster.errors import DataError, PlanError

__all__ = [
    "CrossEntropy",
    "FunctionTask",
    "Keyed",
    "Logistic",
    "RowLoss",
    "Squares",
    "check_features",
    "check_function",
    "check_labels",
    "name_of",
]

_ALONE = itertools.count()


class FunctionTask:
    """A task that is made from a user's functions, each a frozen dataclass.

    What is found out about it is kept under `mark`, never under the functions: the same function
    builds something else once a global that it reads has changed.
    """

    @cached_property
    def mark(self) -> str:
        """The digest of what the task is made of; if that cannot be told, a name of its own."""
        try:
            return identity.mark(self)
        except PlanError:
            return f"alone {next(_ALONE)}"

    @cached_property
    def keyed(self) -> Keyed:
        """The task as a key of caches."""
        return Keyed(self, self.mark)

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields alone: another process finds out for itself what it needs."""
        return {field.name: getattr(self, field.name) for field in fields(cast("Any", self))}


class Keyed:
    """A value with the mark of the task in it: equal where both are."""

    def __init__(self, value: Any, mark: str) -> None:
        self.value, self.mark = value, mark

    def __hash__(self) -> int:
        return hash(self.mark)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Keyed) and (self.mark, self.value) == (other.mark, other.value)


def name_of(function: Any) -> str:
    """Return a function's name in a sentence: its own, or that of what a partial calls.

    >>> name_of(name_of), name_of(partial(name_of, 1))
    ('name_of', 'partial(name_of)')
    """
    if isinstance(function, partial):
        return f"partial({name_of(function.func)})"
    return str(getattr(function, "__qualname__", type(function).__qualname__))


class RowLoss:
    """The seam: a loss of one row, as a value without fields."""

    def slope(self, z: Any, y: Any) -> Any:
        """Return losses `(...)` of the outputs `z` `(outputs, ...)`, which become their slopes."""
        raise NotImplementedError

    kind: ClassVar[Literal["softmax", "sigmoid", "numbers"]]  # of outputs (`metrics.Head`)

    def total(self, z: Any, y: Any) -> float:
        """Return the sum over the rows of `z` `(outputs, rows)`, in float64; `z` is overwritten."""
        return float(self.slope(z, y).sum(dtype=np.float64))

    def predict(self, z: Any) -> Any:
        """Return the prediction of the outputs for each row."""
        raise NotImplementedError

    def check(self, y: Any, outputs: int) -> None:
        """Raise `DataError` for targets that do not fit so many outputs."""
        raise NotImplementedError


@dataclass(frozen=True)
class CrossEntropy(RowLoss):
    """−log softmax(z)[y], labels y in 0 … outputs − 1; the slope is softmax(z) − onehot(y).

    The largest output is taken off first, so that nothing overflows.

    >>> z = np.array([[1000.0], [1000.0]])
    >>> CrossEntropy().slope(z, np.array([0])), z[:, 0].tolist()
    (array([0.69314718]), [-0.5, 0.5])
    """

    kind = "softmax"

    def slope(self, z: Any, y: Any) -> Any:
        """Return losses; `z` becomes softmax(z) − onehot(y)."""
        flat, at = _picked(z, y)
        z -= np.maximum.reduce(z, 0)
        right = flat[at]
        np.exp(z, out=z)
        total = np.add.reduce(z, 0)
        z /= total
        flat[at] -= 1
        return np.log(total) - right.reshape(total.shape)

    def predict(self, z: Any) -> Any:
        """Return the likeliest class."""
        return z.argmax(0)

    def check(self, y: Any, outputs: int) -> None:
        """Check that labels are whole numbers in 0 … outputs − 1."""
        check_labels(y, outputs)


@dataclass(frozen=True)
class Logistic(RowLoss):
    """log(1 + exp(z)) − y z for one output z and y in {0, 1}; the slope is sigmoid(z) − y.

    Written as max(z, 0) − y z + log1p(exp(−|z|)), so that nothing overflows.

    >>> z = np.array([[-1000.0]])
    >>> Logistic().slope(z, np.array([0])).tolist(), z.tolist()
    ([0.0], [[0.0]])
    """

    kind = "sigmoid"

    def slope(self, z: Any, y: Any) -> Any:
        """Return losses; `z` becomes sigmoid(z) − y."""
        (one,) = z
        y = np.asarray(y).reshape(one.shape).astype(z.dtype, copy=False)
        small = np.exp(-np.abs(one))
        losses = np.maximum(one, 0) - y * one + np.log1p(small)
        one[...] = np.where(one >= 0, 1, small) / (1 + small) - y
        return losses

    def predict(self, z: Any) -> Any:
        """Return 1 where sigmoid(z) > 1/2, else 0."""
        return (z[0] > 0).astype(np.int64)

    def check(self, y: Any, outputs: int) -> None:
        """Check that labels are 0 or 1."""
        check_labels(y, 2)


@dataclass(frozen=True)
class Squares(RowLoss):
    """(z − y)², averaged over the outputs, as torch's `MSELoss`; the slope is 2 (z − y)/outputs.

    >>> z = np.array([[3.0]])
    >>> Squares().slope(z, np.array([1.0])).tolist(), z.tolist()
    ([4.0], [[4.0]])
    """

    kind = "numbers"

    def slope(self, z: Any, y: Any) -> Any:
        """Return losses; `z` becomes 2 (z − y)/outputs."""
        z -= _targets(z, y)
        losses = np.square(z).mean(0)
        z *= 2 / len(z)
        return losses

    def predict(self, z: Any) -> Any:
        """Return the outputs themselves: `(rows,)` for one, else `(rows, outputs)`."""
        return z[0] if len(z) == 1 else z.T

    def check(self, y: Any, outputs: int) -> None:
        """Check that targets are finite numbers, one for each output."""
        y = np.asarray(y)
        wanted = "(rows,)" if outputs == 1 else f"(rows, {outputs})"
        if y.dtype.kind not in "fiub" or y[:1].size != outputs * len(y[:1]) or y.ndim > 2:
            raise DataError(
                f"targets have shape {y.shape} and dtype {y.dtype}, but {wanted} numbers are "
                f"needed; reshape them, or set outputs= to their number of columns"
            )
        _finite("targets", y)


def check_function(
    task: str, field: str, function: Any, arguments: tuple[str, ...], remedy: str
) -> None:
    """Raise `PlanError` unless `function` is one that can be called with these arguments.

    >>> check_function("Custom", "start", dict, (), "def start():")
    """
    call = f"{field}({', '.join(arguments)})"
    if not callable(function):
        raise PlanError(
            f"{task}({field}={function!r:.60}): a function is needed, which is called as {call}; "
            f"write {remedy}"
        )
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        name = getattr(function, "__qualname__", repr(function))
        raise PlanError(
            f"{task}({field}={name}): it is called as {call}, which it does not take ({error}); "
            f"write {remedy}"
        ) from None
    except ValueError:
        return  # one in C, which does not say what it takes


def check_features(x: Any, features: int, rows: int) -> None:
    """Raise `DataError` unless `x` is `(rows, ...)` finite numbers, `features` in each row.

    >>> check_features(np.zeros((2, 3)), 3, 2)
    """
    x = np.asarray(x)
    if x.dtype.kind not in "fiub":
        raise DataError(
            f"features have dtype {x.dtype}, but numbers are needed; encode them first, such as "
            f"with x.astype('float32')"
        )
    if x.ndim < 2 or int(np.prod(x.shape[1:])) != features:
        raise DataError(
            f"features have shape {x.shape}, but the model takes (rows, {features}); give the "
            f"model the number of columns of your data, or choose other columns"
        )
    if len(x) != rows:
        raise DataError(
            f"there are {len(x)} rows of features but {rows} labels; each row needs one label"
        )
    _finite("features", x)


def check_labels(y: Any, classes: int) -> None:
    """Raise `DataError` unless `y` is `(rows,)` or `(rows, 1)` whole numbers in 0 … classes − 1.

    >>> check_labels(np.array([0, 1]), 2)
    """
    y = np.asarray(y)
    if y.shape not in ((y.size,), (y.size, 1)) or y.dtype.kind not in "iubf":
        raise DataError(
            f"labels have shape {y.shape} and dtype {y.dtype}, but whole numbers (rows,) from 0 "
            f"to {classes - 1} are needed; number the classes first"
        )
    y = y.reshape(-1)
    bad = y[(y < 0) | (y >= classes) | (y != np.floor(y))] if len(y) else y
    if len(bad):
        raise DataError(
            f"labels hold {bad[0]}, but {classes} classes are numbered 0 to {classes - 1}; "
            f"renumber the labels, or give the task more classes"
        )


def _finite(what: str, values: Any) -> None:
    """Refuse NaN and Inf: the two ends say whether there are any, without a copy of the data."""
    ends = (values.min(initial=0), values.max(initial=0)) if values.dtype.kind == "f" else (0,)
    if np.isfinite(ends).all():
        return
    row = int(np.argwhere(~np.isfinite(values))[0][0])
    raise DataError(
        f"{what} hold NaN or Inf (first in row {row}), but finite numbers are needed; drop or "
        f"fill such rows"
    )


def _picked(z: Any, y: Any) -> tuple[Any, Any]:
    """Return `z` flat, and where in it each row's own label lies."""
    y = np.asarray(y).reshape(-1).astype(np.intp, copy=False)
    at = y * y.size
    at += _count(y.size)
    return z.reshape(-1), at


@lru_cache(maxsize=64)
def _count(size: int) -> Any:
    return np.arange(size)


def _targets(z: Any, y: Any) -> Any:
    """Return targets `(..., outputs)` (or `(...)` for one) with the outputs first, as in `z`."""
    return np.moveaxis(np.asarray(y).reshape(*z.shape[1:], len(z)), -1, 0)
