# SPDX-License-Identifier: Apache-2.0
"""The one door for rows: whatever holds numbers becomes a pair of NumPy arrays, or is refused.

Rows come from a population, a lazy loader, a site's loader, `evaluate_on` and `--test`, as arrays,
data frames, tensors or lists. Behind this door there are arrays alone, so that what is accepted in
one place is accepted in all, and nothing later has to ask what it holds.
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muster.errors import DataError

__all__ = ["Pair", "as_pair"]

Pair = tuple[NDArray[Any], NDArray[Any]]


def as_pair(who: str, given: object) -> Pair:
    """Return the rows `(x, y)` that `who` gave, as arrays `(n, ...)` of finite numbers, n ≥ 1.

    Raises `DataError`, naming `who`, for anything else.

    >>> x, y = as_pair("evaluate_on", ([[1.0], [2.0]], (0, 1)))
    >>> x.shape, y.dtype.kind
    ((2, 1), 'i')
    """
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise DataError(
            f"{who} holds {type(given).__name__}, a pair (x, y) of arrays is required; "
            "give (x, y) with one row per example"
        )
    x, y = _array(who, "x", given[0]), _array(who, "y", given[1])
    if len(x) != len(y):
        raise DataError(
            f"{who} has {len(x)} rows in x but {len(y)} in y, the same number is "
            "required; give each row one target"
        )
    if not len(x):
        raise DataError(
            f"{who} is empty, at least one row is required; leave it out, or give it rows"
        )
    return x, y


def _array(who: str, name: str, value: object) -> NDArray[Any]:
    array = _plain(who, name, value)
    if array.ndim == 0 or array.dtype.kind not in "biuf":
        raise DataError(
            f"{who} has {name} of dtype {array.dtype} and {array.ndim} dimensions, an "
            "array of numbers with one row per example is required; encode text and fill gaps first"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        row = int(np.argwhere(~np.isfinite(array))[0][0])
        raise DataError(
            f"{who} has NaN or Inf in {name} at row {row}, finite numbers are "
            "required; drop or fill that row"
        )
    return np.ascontiguousarray(array)  # the same numbers in the same order, whatever held them


def _plain(who: str, name: str, value: Any) -> NDArray[Any]:
    """Return an array, whatever its kind was; objects that are all numbers become numbers."""
    try:
        array = _converted(value)
    except Exception as error:  # another library's own: a tensor that cannot leave its device
        raise DataError(
            f"{who} has {name} as {type(value).__name__}, which is no array of numbers "
            f"({type(error).__name__}: {error}); give arrays of equal shape for every row"
        ) from error
    return _numbers(array) if array.dtype.kind == "O" else array


def _converted(value: Any) -> NDArray[Any]:
    if hasattr(value, "detach"):  # a tensor that may ask for gradients, or lie on a device
        value = value.detach().cpu()
        try:
            return np.asarray(value.numpy())
        except TypeError:  # a precision that NumPy has not
            return np.asarray(value.float().numpy())
    if hasattr(value, "to_numpy"):  # a frame or a column
        return np.asarray(value.to_numpy())
    if isinstance(value, (list, tuple)) and value and hasattr(value[0], "shape"):
        return np.stack([_converted(row) for row in value])
    return np.asarray(value)


def _numbers(array: NDArray[Any]) -> NDArray[Any]:
    """Return objects as numbers: columns of several kinds, integers that allow gaps."""
    kinds = {type(value) for value in array.ravel()}
    if kinds and all(issubclass(kind, (Integral, np.bool_)) for kind in kinds):
        return array.astype(np.int64)
    if kinds and all(issubclass(kind, (Real, np.bool_)) for kind in kinds):
        return array.astype(np.float64)
    return array
