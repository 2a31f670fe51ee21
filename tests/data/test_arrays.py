# SPDX-License-Identifier: Apache-2.0
"""The one door for rows: every kind of container gives the same arrays, or a sentence."""

import numpy as np
import pytest

from muster.data.arrays import as_pair
from muster.errors import DataError

X = np.arange(12.0, dtype=np.float32).reshape(4, 3)
Y = np.array([0, 1, 1, 0])


class Tensor:
    """A tensor as the door knows it: it may ask for gradients, and have a dtype NumPy lacks."""

    def __init__(self, values, odd=False):
        self.values, self.odd, self.shape = values, odd, np.shape(values)

    def detach(self):
        return self

    cpu = detach

    def float(self):
        return Tensor(self.values)

    def numpy(self):
        if self.odd:
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.values


class Broken(Tensor):
    """A tensor that does not come off its device."""

    def cpu(self):
        raise RuntimeError("the device is gone")


KINDS = {
    "arrays": (X, Y),
    "columns first": (np.asfortranarray(X), Y),
    "lists": (X.tolist(), Y.tolist()),
    "rows": (list(X), list(Y)),
    "tensors": (Tensor(X), Tensor(Y)),
    "another precision": (Tensor(X, odd=True), Tensor(Y)),
    "rows of tensors": ([Tensor(row) for row in X], [Tensor(one) for one in Y]),
    "objects": (X.astype(object), Y.astype(object)),
    "truth values among them": (X.astype(object), np.array([False, True, 1, 0], object)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_container_gives_the_same_arrays(kind):
    x, y = as_pair("who", KINDS[kind])
    assert np.array_equal(x, X) and np.array_equal(y, Y)
    assert x.dtype.kind == "f" and y.dtype.kind == "i"
    assert x.flags.c_contiguous and y.flags.c_contiguous


def test_frames_columns_and_integers_that_allow_gaps():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abc"))
    series = pandas.Series(Y, index=[7, 7, 3, 1])  # an index is no position
    for given in (
        (frame, series),
        (frame, series.astype("Int64")),
        (frame.assign(a=frame.a.astype("Int64")), series),
        (frame.assign(c=frame.c.astype("Float32")), series > 0),
    ):
        x, y = as_pair("who", given)
        assert np.array_equal(x, X) and np.array_equal(y, Y)
        assert x.dtype.kind == "f" and y.dtype.kind in "ib"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (X, "who holds ndarray, a pair"),
        ((X, Y, Y), "who holds tuple, a pair"),
        ((X, Y[:3]), "4 rows in x but 3 in y"),
        (([], []), "is empty"),
        ((X.astype(str), Y), "x of dtype <U32 and 2 dimensions"),
        ((np.where(X > 5, X, None), Y), "fill gaps first"),
        ((X, [[0], [1], [1, 1], [0]]), "y as list, which is no array of numbers"),
        ((np.where(X > 5, np.nan, X), Y), "NaN or Inf in x at row 2"),
        ((Broken(X), Y), "x as Broken, which is no array of numbers (RuntimeError: the device"),
        ((X, 3), "y of dtype int64 and 0 dimensions"),
        ((X.astype(complex), Y), "x of dtype complex128"),
    ],
)
def test_what_holds_no_numbers_is_refused_by_name(given, words):
    with pytest.raises(DataError) as caught:
        as_pair("who", given)
    assert words in str(caught.value) and str(caught.value).startswith("who ")
