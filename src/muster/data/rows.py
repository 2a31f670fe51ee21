# SPDX-License-Identifier: Apache-2.0
"""A client's rows: what they must look like, and how those of many clients are laid out.

One client's rows are a pair `(x, y)`: `x` of shape `(n, ...)`, `y` of shape `(n, ...)`. Rows of
many clients are two long arrays with offsets, so that a cohort is handed over without copies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from muster.data.arrays import Pair, as_pair
from muster.errors import DataError
from muster.keys import key

__all__ = [
    "ClientId",
    "Pair",
    "RowFormat",
    "Rows",
    "aligned",
    "checked",
    "fraction",
    "frame_rows",
    "holdout",
    "identities",
    "joined",
]

ClientId = int | str


class Rows(NamedTuple):
    """Rows of several clients: those of client i are `x[starts[i] : starts[i] + sizes[i]]`.

    `x` and `y` are whole arrays `(rows, ...)`, `starts` and `sizes` are int64 `(clients,)`.
    """

    x: NDArray[Any]
    y: NDArray[Any]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]


class RowFormat(NamedTuple):
    """The form in which rows are stored: dtype and trailing shape of `x` and of `y`."""

    x: np.dtype[Any]
    x_shape: tuple[int, ...]
    y: np.dtype[Any]
    y_shape: tuple[int, ...]

    @classmethod
    def of(cls, pair: Pair) -> RowFormat:
        """Return the form of one client's rows."""
        x, y = pair
        return cls(x.dtype, x.shape[1:], y.dtype, y.shape[1:])

    @classmethod
    def common(cls, pairs: Iterable[Pair]) -> RowFormat:
        """Return the form that holds all of these rows, of one trailing shape, without loss.

        >>> pairs = [(np.ones((1, 2), t), np.zeros(1, t)) for t in ("int32", "int64")]
        >>> RowFormat.common(pairs).x.name
        'int64'
        """
        forms = {cls.of(pair) for pair in pairs}
        first = next(iter(forms))
        return first._replace(
            x=np.result_type(*(form.x for form in forms)),
            y=np.result_type(*(form.y for form in forms)),
        )

    def fits(self, other: RowFormat) -> bool:
        """Return whether the trailing shapes are the same."""
        return (self.x_shape, self.y_shape) == (other.x_shape, other.y_shape)

    def __str__(self) -> str:
        parts = ((self.x, self.x_shape), (self.y, self.y_shape))
        return " and ".join(
            f"{name} {dtype} (n{''.join(f', {side}' for side in shape)})"
            for name, (dtype, shape) in zip("xy", parts, strict=True)
        )


def identities(clients: Iterable[object]) -> tuple[ClientId, ...]:
    """Return client ids as plain `int` or `str`, in the given order.

    Raises `DataError` when there is none, one is neither, they are mixed, or one is twice there.

    >>> identities([np.int64(2), 1])
    (2, 1)
    """
    ids = tuple(_identity(client) for client in clients)
    if not ids:
        raise DataError("no client was given, at least one is required; add a client with rows")
    kinds = {type(client) for client in ids}
    if len(kinds) > 1:
        number = next(client for client in ids if isinstance(client, int))
        word = next(client for client in ids if isinstance(client, str))
        raise DataError(
            f"client ids {number!r} and {word!r} are of two types, ids all int or all str are "
            "required; turn every id into str"
        )
    if len(set(ids)) < len(ids):
        twice = next(client for client, count in Counter(ids).items() if count > 1)
        raise DataError(f"client {twice!r} is given twice, ids must differ; merge or rename it")
    return ids


def checked(client: ClientId, pair: object, form: RowFormat | None = None) -> Pair:
    """Return one client's `(x, y)` as arrays, or a `DataError` that names the client.

    `form` is what the other clients' rows look like, once known.

    >>> x, y = checked("a", ([[1.0], [2.0]], [0, 1]))
    >>> x.shape, y.shape
    ((2, 1), (2,))
    """
    x, y = as_pair(f"client {client!r}", pair)
    if form is not None and not form.fits(RowFormat.of((x, y))):
        raise DataError(
            f"client {client!r} has {RowFormat.of((x, y))}, the clients before it have {form}; "
            "give every client the same trailing shape"
        )
    return x, y


def aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return an uninitialised array whose first byte lies at a multiple of 64.

    >>> aligned((3, 5), np.dtype("float32")).ctypes.data % 64
    0
    """
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def joined(pairs: Sequence[Pair | None], form: RowFormat) -> Rows:
    """Join the rows of many clients, one after the other, in fresh aligned arrays (None: none).

    >>> pair = (np.ones((2, 3)), np.zeros(2))
    >>> joined([pair, None, pair], RowFormat.of(pair)).starts.tolist()
    [0, 2, 2]
    """
    sizes = np.array([0 if pair is None else len(pair[0]) for pair in pairs], np.int64)
    starts = np.cumsum(sizes) - sizes
    x = aligned((int(sizes.sum()), *form.x_shape), form.x)
    y = aligned((int(sizes.sum()), *form.y_shape), form.y)
    for pair, start, size in zip(pairs, starts, sizes, strict=True):
        if pair is not None:
            x[start : start + size], y[start : start + size] = pair
    return Rows(x, y, starts, sizes)


def fraction(name: str, value: float) -> float:
    """Return `value` when it lies in [0, 1); raise a `DataError` that names it otherwise."""
    if not 0 <= value < 1:
        raise DataError(f"{name}={value!r} was given, a fraction in [0, 1) is required; try 0.2")
    return float(value)


def holdout(n: int, share: float, client: ClientId, seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the training and the test rows of a client's `n`, each in ascending order.

    `round(n * share)` rows test, but one row at least is left to train; the choice depends on
    seed, client and `n` only.

    >>> [part.size for part in holdout(10, 0.2, "a", seed=0)]
    [8, 2]
    """
    count = min(round(n * share), n - 1)
    order = key(seed).at("holdout", client).generator().permutation(n)
    return np.sort(order[count:]), np.sort(order[:count])


def frame_rows(
    frame: Any, client: str, features: Sequence[str] | None, target: str
) -> dict[ClientId, Pair]:
    """Return the rows of a pandas data frame, one client per value of the column `client`."""
    columns = [str(name) for name in frame.columns]
    names = [c for c in columns if c not in (client, target)] if features is None else features
    for name in (client, target, *names):
        if name not in columns:
            raise DataError(
                f"column {name!r} is not in the frame, which has {', '.join(columns)}; "
                "name a column that is there"
            )
    if frame[client].isna().any():
        raise DataError(
            f"column {client!r} has rows without a client id, every row needs one; "
            "drop those rows or name their client"
        )
    x = np.stack([_column(frame, name).astype(np.float32) for name in names], axis=1)
    y = _column(frame, target, "number the classes first, for instance with pandas.factorize")
    y = y.astype(np.int64 if y.dtype.kind in "biu" else np.float32)
    places: Mapping[Any, Any] = frame.groupby(client, observed=True).indices
    return {
        key: (x[rows], y[rows])
        for key, rows in zip(identities(places), places.values(), strict=True)
    }


def _identity(client: object) -> ClientId:
    if isinstance(client, str):
        return str(client)
    if isinstance(client, (int, np.integer)) and not isinstance(client, bool):
        return int(client)
    raise DataError(
        f"client id {client} is {type(client).__name__}, an int or a str is required; "
        "number or name the clients"
    )


def _column(
    frame: Any,
    name: str,
    remedy: str = "encode it first, for instance with pandas.get_dummies",
) -> NDArray[Any]:
    column = frame[name]
    if column.isna().any() and column.dtype.kind not in "f":
        column = column.astype("float64")
    array = np.asarray(column.to_numpy())
    if array.dtype.kind == "O" or array.dtype.kind not in "biuf":
        raise DataError(
            f"column {name!r} is of dtype {column.dtype}, numbers are required; {remedy}"
        )
    return array
