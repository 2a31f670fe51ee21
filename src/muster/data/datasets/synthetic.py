# SPDX-License-Identifier: Apache-2.0
"""FedProx's synthetic(alpha, beta): a softmax model and features of its own for every client."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from muster.data.datasets.federation import Federation, federated
from muster.data.datasets.fetch import Remote, locate
from muster.data.rows import ClientId, Pair
from muster.errors import DataError

__all__ = ["synthetic", "synthetic_file"]

_FEATURES, _CLASSES = 60, 10
_FILES = {
    "0_0": "c85de56407e896834c0de625224e409fde4db94ffcdbab8c99a9a1f402087b62",
    "0.5_0.5": "a2bc33ea6da89cb49337fd360cf8b1c919445e4640d672239d8e699fa580d8bf",
    "1_1": "045be08be9e83e394a002fe6f6d5d77a512a86e575f5ee212406d1b278943943",
    "iid": "948b0a709fe245b33ab021d7bf155b22f8eff5cabbf1cf5ad2dcd315fbf64d35",
}


def synthetic(
    alpha: float = 1.0, beta: float = 1.0, clients: int = 30, seed: int = 11, iid: bool = False
) -> Federation:
    """Draw Synthetic(alpha, beta) of Li et al. 2020, arXiv 1812.06127, section 5.1: 60 features.

    `alpha` spreads the clients' models, `beta` their features. n_k = floor(exp(N(4, 2))) + 50,
    u_k ~ N(0, alpha), B_k ~ N(0, beta), v_k[j] ~ N(B_k, 1), W_k and b_k ~ N(u_k, 1),
    x ~ N(v_k, diag(j^-1.2)), y = argmax(W_k' x + b_k), each second number a standard deviation,
    as in the authors' code (their text says variance). `iid` gives all clients one model and
    v = 0. The first 90 % of a client's shuffled rows train. With seed 11 and 30 clients these
    are the files of `synthetic_file`.

    Raises `DataError` on a negative alpha or beta, or no client.

    >>> synthetic(1, 1, clients=3).population[0][0].shape[1]
    60
    """
    if alpha < 0 or beta < 0 or clients < 1:
        raise DataError(
            f"synthetic(alpha={alpha}, beta={beta}, clients={clients}) was asked for, alpha and "
            "beta >= 0 and clients >= 1 are required; try synthetic(1, 1, 30)"
        )
    rng = np.random.Generator(np.random.PCG64(seed))
    sizes = np.floor(np.exp(rng.normal(4, 2, clients))).astype(np.int64) + 50
    u = rng.normal(0, alpha, clients) if alpha and not iid else np.zeros(clients)
    centre = rng.normal(0, beta, clients) if beta and not iid else np.zeros(clients)
    shared = rng.normal(0, 1, (_FEATURES, _CLASSES)), rng.normal(0, 1, _CLASSES)
    v, spread = np.zeros(_FEATURES), np.arange(1, _FEATURES + 1) ** -0.6
    rows: dict[int, Pair] = {}
    for k in range(clients):
        w, b = shared
        if not iid:
            v = rng.normal(centre[k], 1, _FEATURES)
            w, b = rng.normal(u[k], 1, w.shape), rng.normal(u[k], 1, _CLASSES)
        x = rng.normal(v, spread, (int(sizes[k]), _FEATURES))
        y = (x @ w + b).argmax(axis=1)
        order = rng.permutation(int(sizes[k]))
        rows[k] = x[order].astype(np.float32), y[order].astype(np.int64)
    return _cut(rows, {k: np.arange(n) >= int(0.9 * n) for k, n in enumerate(sizes)})


def synthetic_file(name: str = "1_1") -> Federation:
    """Return one of four fixed synthetic sets of 30 clients: "0_0", "0.5_0.5", "1_1" or "iid".

    Raises `DatasetError` when the file is not there, `DataError` on another name.
    """
    if name not in _FILES:
        raise DataError(
            f"synthetic_file({name!r}) was asked for, one of {', '.join(_FILES)} is required; "
            "or draw your own with synthetic(alpha, beta)"
        )
    path = locate(
        Remote(f"synthetic_{name}.npz", _FILES[name], "the data folder of the muster project"),
    )
    with np.load(path, allow_pickle=False) as file:
        x, y, owner, test = (file[field] for field in ("x", "y", "client", "test"))
    places = {int(k): np.flatnonzero(owner == k) for k in np.unique(owner)}
    rows = {k: (x[place], y[place]) for k, place in places.items()}
    return _cut(rows, {k: test[place] for k, place in places.items()})


def _cut(rows: dict[int, Pair], test: dict[int, NDArray[np.bool_]]) -> Federation:
    train: dict[ClientId, Pair] = {k: (x[~test[k]], y[~test[k]]) for k, (x, y) in rows.items()}
    return federated(train, {k: (x[test[k]], y[test[k]]) for k, (x, y) in rows.items()})
