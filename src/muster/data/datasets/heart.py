# SPDX-License-Identifier: Apache-2.0
"""Heart disease at four hospitals, which are the clients."""

from __future__ import annotations

import csv
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from muster.data.datasets.federation import Federation, federated
from muster.data.datasets.fetch import Remote, locate
from muster.data.rows import ClientId, Pair
from muster.errors import DataError
from muster.extras import require

__all__ = ["heart_disease"]

_HEART = Remote(
    "heart_disease_4sites.csv",
    "748770bd7a61f6ec388762a7e392141e473ff6d9549c745adf7a12d8b4e463bf",
    "the data folder of the muster project (UCI Machine Learning Repository no. 45)",
)
_PLAIN = ("age", "sex", "trestbps", "chol", "fbs", "thalach", "exang", "oldpeak")
_CODED = ("cp", "restecg")


def heart_disease(
    standardise: Literal["site", "pooled"] = "site",
    dtype: Literal["float32", "float64"] = "float32",
) -> Federation:
    """Return heart disease at four hospitals, the clients, as FLamby has it (arXiv 2210.04620).

    slope, ca, thal and rows with a gap are dropped; the label is num > 0 (int64); cp and restecg
    are one-hot without their first level, 13 features in all: age, sex, trestbps, chol, fbs,
    thalach, exang, oldpeak, cp 2-4, restecg 1-2. Each hospital is split 66/34 by label with seed
    43 (199/104, 172/89, 30/16, 85/45 rows; not by label in Switzerland, which has one healthy
    patient) and z-scored with the mean and standard deviation (ddof 1) of its own training rows,
    or of all hospitals' (`standardise="pooled"`). A column that is constant there becomes 0. The
    central test rows are the hospitals' own.

    Data: A. Janosi (Budapest), W. Steinbrunn (Zurich), M. Pfisterer (Basel), R. Detrano (Long
    Beach, Cleveland); UCI Machine Learning Repository no. 45, CC BY 4.0.

    Raises `DatasetError` when the file is not there, `MissingExtra` without scikit-learn.
    """
    if standardise not in ("site", "pooled"):
        raise DataError(
            f"standardise={standardise!r} was given, 'site' or 'pooled' is required; use 'site'"
        )
    cut = require("sklearn.model_selection", extra="sklearn").train_test_split
    train: dict[ClientId, Pair] = {}
    test: dict[ClientId, Pair] = {}
    for site, (x, y) in _hospitals().items():
        by_label = y if np.bincount(y, minlength=2).min() > 2 else None
        rows = cut(np.arange(len(y)), test_size=0.34, random_state=43, stratify=by_label)
        kept, held = np.sort(rows[0]), np.sort(rows[1])
        train[site], test[site] = (x[kept], y[kept]), (x[held], y[held])
    everything = np.concatenate([x for x, _ in train.values()])
    for site in train:
        mean, spread = _moments(train[site][0] if standardise == "site" else everything)
        for part in (train, test):
            x, y = part[site]
            part[site] = ((x - mean) / spread).astype(dtype), y
    return federated(train, test)


def _hospitals() -> dict[ClientId, Pair]:
    with locate(_HEART).open(newline="", encoding="utf-8") as stream:
        records = list(csv.DictReader(stream))
    names = (*_PLAIN, *_CODED)
    complete = [record for record in records if all(record[name] for name in names)]
    columns = {name: np.array([float(r[name]) for r in complete]) for name in names}
    hot = [columns[name] == level for name in _CODED for level in np.unique(columns[name])[1:]]
    x = np.stack([*(columns[name] for name in _PLAIN), *hot], axis=1, dtype=np.float64)
    y = np.array([int(r["num"]) > 0 for r in complete], np.int64)
    site = np.array([r["site"] for r in complete])
    return {str(s): (x[site == s], y[site == s]) for s in np.unique(site)}


def _moments(x: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    spread = x.std(axis=0, ddof=1)
    return x.mean(axis=0), np.where(spread > 0, spread, 1.0)
