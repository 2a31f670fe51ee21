# SPDX-License-Identifier: Apache-2.0
"""Partitions: pure functions from labels and a seed to `{client: row indices}`.

Every partition hands out each row exactly once, each client's indices in ascending order. What
is drawn depends on the arguments alone: nothing drawn before or after changes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from muster.data.population import Population, held_out
from muster.data.rows import ClientId, identities
from muster.errors import DataError
from muster.keys import key

__all__ = [
    "Parts",
    "by_column",
    "dirichlet",
    "feature_noise",
    "iid",
    "quantity",
    "shards",
    "split",
]

Indices = NDArray[np.int64]
Parts = dict[int, Indices]
_TRIES = 100


def iid(n: int, clients: int, seed: int = 0) -> Parts:
    """Shuffle `n` rows and deal them out evenly; sizes differ by one at most.

    Raises `DataError` when there are fewer rows than clients.

    >>> sorted(len(rows) for rows in iid(10, 3).values())
    [3, 3, 4]
    """
    _enough(n, clients, 1)
    order = key(seed).at("iid").generator().permutation(n)
    return _parts(np.array_split(order, clients))


def dirichlet(y: ArrayLike, clients: int, alpha: float, seed: int = 0, minimum: int = 1) -> Parts:
    """Cut each label's rows among the clients by a draw from Dir(alpha): label skew.

    Hsu et al. 2019, arXiv 1909.06335, in the per-label form of NIID-Bench (Li et al. 2022, arXiv
    2102.02079): small `alpha` gives each label to few clients, large `alpha` tends to IID. The
    whole draw is repeated, up to 100 times, until every client holds `minimum` rows.

    Raises `DataError` when no draw does, or `alpha` is not positive.

    >>> sum(len(rows) for rows in dirichlet([0, 1] * 50, 4, alpha=0.5).values())
    100
    """
    labels = _labels(y)
    _enough(len(labels), clients, minimum)
    _positive("alpha", alpha)
    for attempt in range(_TRIES):
        rng = key(seed).at("dirichlet", attempt).generator()
        owner = np.empty(len(labels), np.int64)
        for label in np.unique(labels):
            rows = rng.permutation(np.flatnonzero(labels == label))
            ends = np.cumsum(rng.dirichlet(np.full(clients, alpha)))[:-1] * len(rows)
            cuts = np.floor(ends + 0.5).astype(np.int64)
            owner[rows] = np.searchsorted(cuts, np.arange(len(rows)), side="right")
        if np.bincount(owner, minlength=clients).min() >= minimum:
            return {client: np.flatnonzero(owner == client) for client in range(clients)}
    raise DataError(
        f"dirichlet(alpha={alpha}) left a client of {clients} with fewer than {minimum} of the "
        f"{len(labels)} rows in each of {_TRIES} draws, {minimum} are required; raise alpha, or "
        "lower clients or minimum"
    )


def shards(y: ArrayLike, clients: int, per_client: int = 2, seed: int = 0) -> Parts:
    """Sort by label, cut `clients * per_client` shards, deal `per_client` to each: label skew.

    McMahan et al. 2017, arXiv 1602.05629, section 3 (100 clients, 200 shards of 300). Where the
    rows do not divide, shards differ by one row.

    Raises `DataError` when there are fewer rows than shards.

    >>> [len(rows) for rows in shards([0] * 8 + [1] * 8, clients=4).values()]
    [4, 4, 4, 4]
    """
    labels = _labels(y)
    if per_client < 1:
        raise DataError(f"per_client={per_client} was given, one shard is required; try 2")
    _enough(len(labels), clients, per_client)
    cut = np.array_split(np.argsort(labels, kind="stable"), clients * per_client)
    dealt = key(seed).at("shards").generator().permutation(len(cut)).reshape(clients, per_client)
    return _parts([np.concatenate([cut[shard] for shard in hand]) for hand in dealt])


def by_column(values: Sequence[Any] | NDArray[Any]) -> dict[ClientId, Indices]:
    """Return one client per value of a column, with the value as its id.

    Raises `DataError` when a value is neither an integer nor a string.

    >>> by_column(["b", "a", "b"])["b"].tolist()
    [0, 2]
    """
    column = list(values)
    ids = identities(dict.fromkeys(column))
    rows: dict[Any, list[int]] = {client: [] for client in ids}
    for row, value in enumerate(column):
        rows[value].append(row)
    return {client: np.array(rows[client], np.int64) for client in sorted(ids)}


def quantity(
    n: int,
    clients: int,
    alpha: float | None = None,
    sigma: float | None = None,
    seed: int = 0,
    minimum: int = 1,
) -> Parts:
    """Deal IID rows in unequal sizes, by Dir(alpha) or log-normal(0, sigma): quantity skew.

    Every client first gets `minimum` rows; the rest is divided by the shares and rounded by
    largest remainder, so no draw is ever repeated (NIID-Bench divides all rows and repeats).

    Raises `DataError` unless exactly one of `alpha` and `sigma` is given, and positive.

    >>> sum(len(rows) for rows in quantity(100, 7, sigma=1.0).values())
    100
    """
    if (alpha is None) == (sigma is None):
        raise DataError(
            f"quantity was given alpha={alpha} and sigma={sigma}, exactly one is required; "
            "drop or add one"
        )
    _enough(n, clients, minimum)
    rng = key(seed).at("quantity").generator()
    if alpha is not None:
        _positive("alpha", alpha)
        shares = rng.dirichlet(np.full(clients, alpha))
    else:
        assert sigma is not None
        _positive("sigma", sigma)
        shares = rng.lognormal(0.0, sigma, clients)
        shares /= shares.sum()
    exact = shares * (n - clients * minimum)
    sizes = np.floor(exact).astype(np.int64)
    short = n - clients * minimum - int(sizes.sum())
    sizes[np.argsort(sizes - exact, kind="stable")[:short]] += 1
    return _parts(np.split(rng.permutation(n), np.cumsum(sizes + minimum)[:-1]))


def feature_noise(
    x: NDArray[Any], parts: Mapping[Any, Indices], sigma: float, seed: int = 0
) -> NDArray[Any]:
    """Return `x` with noise of standard deviation `sigma * i / clients` added: feature skew.

    i = 1 … clients counts the clients by sorted id, so the last is the noisiest. NIID-Bench (Li
    et al. 2022, arXiv 2102.02079, section 4.2) writes N(0, sigma i / N) with that value as
    variance, while its code uses it as standard deviation; so do we.

    Raises `DataError` when `x` is not floating point.

    >>> feature_noise(np.zeros((4, 2)), {0: np.arange(2), 1: np.arange(2, 4)}, 1.0).shape
    (4, 2)
    """
    if x.dtype.kind != "f":
        raise DataError(
            f"feature_noise was given x of dtype {x.dtype}, floats are required; use x.astype"
        )
    _positive("sigma", sigma)
    noisy = x.copy()
    for i, client in enumerate(sorted(parts), start=1):
        rows = parts[client]
        rng = key(seed).at("feature noise", client).generator()
        noise = rng.standard_normal((len(rows), *x.shape[1:]))
        noisy[rows] += (noise * (sigma * i / len(parts))).astype(x.dtype)
    return noisy


def split(
    x: ArrayLike, y: ArrayLike, parts: Mapping[Any, Indices], test: float = 0.0, seed: int = 0
) -> Population:
    """Return the population in which client k holds the rows `parts[k]` of `x` and `y`.

    `test` is the fraction of each client's rows kept as its own test rows, drawn from `seed`.

    Raises `DataError` on a fraction outside [0, 1), an index out of range or an empty client.

    >>> split(np.eye(4), [0, 1, 0, 1], iid(4, 2)).sizes.tolist()
    [2, 2]
    """
    features, targets = np.asarray(x), np.asarray(y)
    n = min(len(features), len(targets))
    for client, rows in parts.items():
        if not len(rows):
            raise DataError(f"client {client!r} is empty, one row is required; leave it out")
        if np.max(rows) >= n or np.min(rows) < 0:
            raise DataError(
                f"client {client!r} is given row {np.max(rows)} (least {np.min(rows)}), rows "
                f"0 to {n - 1} are required; make the parts from these labels"
            )
    rows_of = {client: (features[rows], targets[rows]) for client, rows in parts.items()}
    return Population.from_arrays(*held_out(rows_of, test, seed))


def _parts(groups: Sequence[NDArray[Any]]) -> Parts:
    return {client: np.sort(rows).astype(np.int64) for client, rows in enumerate(groups)}


def _labels(y: ArrayLike) -> NDArray[Any]:
    labels = np.asarray(y)
    if labels.ndim != 1:
        raise DataError(
            f"labels of shape {labels.shape} were given, one label per row is required; give (n,)"
        )
    return labels


def _enough(n: int, clients: int, each: int) -> None:
    if clients < 1 or each < 0:
        raise DataError(
            f"clients={clients} with at least {each} rows each was asked for, clients >= 1 and "
            "rows >= 0 are required; raise them"
        )
    if n < clients * each:
        raise DataError(
            f"{n} rows were given for {clients} clients, {clients * each} at least are required; "
            "lower clients"
        )


def _positive(name: str, value: float) -> None:
    if not 0 < value < np.inf:
        raise DataError(f"{name}={value!r} was given, a finite number above 0 is required; try 0.5")
