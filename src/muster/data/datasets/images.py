# SPDX-License-Identifier: Apache-2.0
"""Small images: scikit-learn's digits, MNIST and Fashion-MNIST, dealt to clients."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muster.data.datasets.federation import Federation, Partition, dealt
from muster.data.datasets.fetch import Remote, found, locate
from muster.data.rows import Pair, fraction
from muster.errors import DataError, DatasetError
from muster.extras import require
from muster.keys import key

__all__ = ["digits", "fashion_mnist", "mnist"]

_NAMES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
_MNIST = (
    "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
)
_FASHION = (
    "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
)
_FASHION_NPZ = Remote(
    "fashion_mnist.npz",
    "5b6d2c4c694a91887af8ab7d039c04f80af3c29378d731c93a538d2e831aa469",
    "the data folder of the muster project",
)


def digits(
    clients: int = 10,
    alpha: float | None = None,
    seed: int = 0,
    test: float = 0.2,
    local_test: float = 0.0,
) -> Federation:
    """Return the 1,797 handwritten 8x8 digits bundled with scikit-learn; no download.

    x float32 `(n, 64)` in [0, 1], y int64, ten labels. A fraction `test` of all rows is the
    central test set; the others are dealt evenly, or by Dir(`alpha`) per label; `local_test` is
    the fraction of each client's rows kept as its own test rows.

    Raises `MissingExtra` without scikit-learn, `DataError` on a fraction outside (0, 1).
    """
    if not fraction("test", test):
        raise DataError("test=0 was given, a fraction in (0, 1) is required; try 0.2")
    table = require("sklearn.datasets", extra="sklearn").load_digits()
    x = (table.data / 16).astype(np.float32)
    y = table.target.astype(np.int64)
    order = key(seed).at("digits").generator().permutation(len(y))
    cut = round(len(y) * test)
    held, kept = np.sort(order[:cut]), np.sort(order[cut:])
    partition = "iid" if alpha is None else "dirichlet"
    return dealt(
        (x[kept], y[kept]), (x[held], y[held]), clients, partition, alpha or 1.0, seed, local_test
    )


def mnist(
    clients: int = 100,
    partition: Partition = "iid",
    alpha: float = 0.5,
    seed: int = 0,
    flat: bool = True,
    local_test: float = 0.0,
) -> Federation:
    """Return MNIST (LeCun et al. 1998): 60,000 images dealt to `clients`, 10,000 to test.

    x float32 in [0, 1], `(n, 784)`, or `(n, 28, 28)` unless `flat`; y int64, ten labels.
    `partition` is "iid", "shards" (two of each client, McMahan et al. 2017) or "dirichlet" with
    `alpha`; `local_test` is the fraction of each client's rows kept as its own test rows. The
    files are `mnist/train-images-idx3-ubyte.gz` and so on.

    Raises `DatasetError` when a file can neither be found nor downloaded, or is damaged.
    """
    files = _idx("mnist", "https://ossci-datasets.s3.amazonaws.com/mnist/", _MNIST)
    train, test = _read(files)
    return dealt(
        _shaped(train, flat), _shaped(test, flat), clients, partition, alpha, seed, local_test
    )


def fashion_mnist(
    clients: int = 100,
    partition: Partition = "iid",
    alpha: float = 0.5,
    seed: int = 0,
    flat: bool = True,
    local_test: float = 0.0,
) -> Federation:
    """Return Fashion-MNIST (Xiao et al. 2017, arXiv 1708.07747), in every way like `mnist`.

    Read from `fashion_mnist.npz` where that is found, else from `fashion_mnist/*-ubyte.gz`; the
    two order the rows within a label alike.

    Raises `DatasetError` when a file can neither be found nor downloaded, or is damaged.
    """
    path = found(_FASHION_NPZ)
    if path is not None:
        with np.load(path, allow_pickle=False) as file:
            train = file["x_train"], file["y_train"]
            test = file["x_test"], file["y_test"]
    else:
        origin = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
        train, test = _read(_idx("fashion_mnist", origin, _FASHION))
    return dealt(
        _shaped(train, flat), _shaped(test, flat), clients, partition, alpha, seed, local_test
    )


def _idx(folder: str, url: str, sums: tuple[str, ...]) -> list[Remote]:
    return [
        Remote(f"{folder}/{name}", sha256, url + name, url + name)
        for name, sha256 in zip(_NAMES, sums, strict=True)
    ]


def _read(files: list[Remote]) -> tuple[Pair, Pair]:
    arrays = [_array(locate(file)) for file in files]
    return (arrays[0], arrays[1]), (arrays[2], arrays[3])


def _array(path: Path) -> NDArray[np.uint8]:
    """Return the array of one idx file: magic 0, 0, 8 (uint8), number of sides, sides, bytes."""
    with gzip.open(path) as stream:
        data = stream.read()
    if data[:3] != b"\x00\x00\x08":
        raise DatasetError(
            f"{path} starts with {data[:3]!r}, an idx file of bytes is required; replace it"
        )
    sides = np.frombuffer(data, ">i4", data[3], 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(tuple(sides))


def _shaped(pair: tuple[NDArray[Any], NDArray[Any]], flat: bool) -> Pair:
    x, y = pair
    x = x.reshape(len(x), -1) if flat else x
    return np.divide(x, 255, dtype=np.float32), y.astype(np.int64)
